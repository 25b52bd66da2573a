"""Deformable convolution against its peers, in one run: `python -m benchmarks.deform_conv2d`.

Ours, torchvision's, ONNX Runtime's and the plain convolution (the better of its two memory formats)
on the shapes of the zoo's backbones, and the floor of each. Prints a table of milliseconds (medians) and
writes JSON. When a peer's result differs from ours nothing is reported: a fast wrong answer has no speed.
"""

import argparse
import math
from pathlib import Path

import torch

from . import floors_cpu, peers, report, shapes
from .timing import interleaved

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def main() -> None:
    arguments = _arguments()
    dtype = getattr(torch, arguments.dtype)
    rows = []
    for shape in _chosen_shapes(arguments.shapes):
        batch = 1 if shape in shapes.DETECTION else arguments.batch
        rows.append(measure(shape, batch, dtype, arguments.backward, arguments.repeats))
        print(_line(rows[-1]), flush=True)
    summary = _geometric_means(rows)
    print("geometric mean of the ratios to ours: " + _ratios(summary))
    if arguments.output:
        report.write(arguments.output, vars(arguments), {"ratios": summary, "rows": rows})


def measure(shape: shapes.Shape, batch: int, dtype: torch.dtype, backward: bool, repeats: int) -> dict:
    """Time every peer on one shape, after checking that the deformable ones agree."""
    contiguous = peers.make_tensors(shape, batch, dtype, channels_last=False)
    channels_last = peers.make_tensors(shape, batch, dtype, channels_last=True)
    functions = {}
    for name in peers.own_backends():
        functions[f"{name} channels-last"] = (peers.deformable(name, shape), channels_last)
        functions[f"{name} contiguous"] = (peers.deformable(name, shape), contiguous)
    functions["torchvision"] = (peers.deformable("torchvision", shape), contiguous)
    if dtype == torch.float32 and not backward:
        peer = peers.onnxruntime_peer(shape, contiguous, torch.get_num_threads())
        functions["onnxruntime"] = (peer, contiguous)
    refuse_differences(functions, TOLERANCE[dtype], shape.name)
    functions["conv2d channels-last"] = (peers.plain(shape), channels_last)
    functions["conv2d contiguous"] = (peers.plain(shape), contiguous)
    calls = {k: lambda f=f, t=t: run_once(f, t, backward) for k, (f, t) in functions.items()}
    times = interleaved(calls, repeats)
    row = {"shape": shape.name, "batch": batch, "milliseconds": times, "ratios": _to_ours(times)}
    floor = floors_cpu.floor(shape, batch, dtype, backward, floors_cpu.measured_rates(dtype))
    return row | floor | {"over_floor": _ours(times) / floor["floor_ms"]}


def run_once(function, tensors: peers.Tensors, backward: bool) -> list[torch.Tensor | None]:
    """The output alone, or the gradients of everything that the function uses behind it."""
    if not backward:
        with torch.inference_mode():
            return [function(tensors)]
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    output = function(leaves)
    gradients = torch.autograd.grad(output, list(leaves.values()), output.detach(), allow_unused=True)
    return [output.detach(), *gradients]


def refuse_differences(functions: dict, tolerance: float, where: str) -> None:
    """End the run when a function's result on its tensors is not the first one's."""
    results = {name: function(tensors).float() for name, (function, tensors) in functions.items()}
    first, expected = next(iter(results.items()))
    for name, result in results.items():
        error = ((result - expected).abs().max() / expected.abs().max()).item()
        if not error <= tolerance:
            raise SystemExit(
                f"No figures: on {where} the results of {name} and {first} differ by {error:.1e} of "
                f"the largest value, expected at most {tolerance:.0e}."
            )


def _to_ours(times: dict) -> dict[str, float]:
    """Each peer's time over ours in channels-last; the plain convolution's better format only."""
    medians = {name: summary["median"] for name, summary in times.items()}
    plain = [medians.pop(name) for name in list(medians) if name.startswith("conv2d")]
    medians["conv2d"] = min(plain)
    return {name: median / _ours(times) for name, median in medians.items()}


def _ours(times: dict) -> float:
    """Our time in channels-last, which comes first."""
    return next(iter(times.values()))["median"]


def _geometric_means(rows: list[dict]) -> dict[str, float]:
    names = rows[0]["ratios"]
    return {n: math.exp(sum(math.log(row["ratios"][n]) for row in rows) / len(rows)) for n in names}


def _line(row: dict) -> str:
    times = "  ".join(f"{name} {t['median']:.2f}" for name, t in row["milliseconds"].items())
    floor = f"floor {row['floor_ms']:.2f} (ours is {row['over_floor']:.2f}x)"
    return f"{row['shape']:<18} N={row['batch']}  {times}  {floor}"


def _ratios(summary: dict[str, float]) -> str:
    return ", ".join(f"{name} {ratio:.2f}" for name, ratio in summary.items())


def _chosen_shapes(names: str) -> list[shapes.Shape]:
    sets = {"resnet": shapes.RESNET, "resnext": shapes.RESNEXT, "detection": shapes.DETECTION}
    sets["all"] = [shape for members in list(sets.values()) for shape in members]
    return sets[names]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", choices=["resnet", "resnext", "detection", "all"], default="all")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--backward", action="store_true", help="time forward and backward together")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
