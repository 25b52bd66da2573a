"""The CPU's targets, each with its figure and pass or miss: `python -m benchmarks.cpu_targets`.

Every figure is a ratio within this run, of medians. The exit status is 1 while any line misses.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from . import memory, models, peers, report, settings, shapes
from .deform_conv2d import measure, refuse_differences
from .timing import interleaved

UNGROUPED = [*shapes.RESNET, *shapes.DETECTION]


class Target(NamedTuple):
    """One line: `figure` has to be at most `limit`, or at least it."""

    name: str
    figure: float
    limit: float
    at_least: bool = False

    @property
    def passes(self) -> bool:
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    def line(self) -> str:
        bound = f"{'at least' if self.at_least else 'at most'} {self.limit:g}"
        return f"{'pass' if self.passes else 'MISS'}  {self.figure:8.2f}  {bound:<14} {self.name}"


def forward_targets(repeats: int) -> tuple[list[Target], list[dict]]:
    rows = _measured(shapes.RESNET + shapes.DETECTION + shapes.RESNEXT, repeats, backward=False)
    ungrouped = [row for row in rows if row["groups"] == 1]
    targets = []
    for layout in ("channels-last", "contiguous"):
        times = [_over_plain(row, f"extension {layout}") for row in ungrouped]
        targets.append(Target(f"forward, {layout}: times conv2d's, geometric mean", _mean(times), 1.25))
        targets.append(Target(f"forward, {layout}: times conv2d's, worst shape", max(times), 1.5))
    times = [row["ratios"]["onnxruntime"] for row in rows]
    targets.append(Target("forward: faster than ONNX Runtime, worst shape", min(times), 1.0, True))
    times = [row["ratios"]["torchvision"] for row in rows]
    targets.append(Target("forward: faster than torchvision, geometric mean", _mean(times), 8.0, True))
    return targets, rows


def backward_targets(repeats: int) -> tuple[list[Target], list[dict]]:
    rows = _measured(shapes.RESNET + shapes.DETECTION + shapes.RESNEXT, repeats, backward=True)
    times = [_over_plain(row, "extension channels-last") for row in rows if row["groups"] == 1]
    peer = [row["ratios"]["torchvision"] for row in rows]
    return [
        Target("forward + backward: times conv2d's, geometric mean", _mean(times), 1.6),
        Target("forward + backward: times conv2d's, worst shape", max(times), 2.0),
        Target("forward + backward: faster than torchvision, geometric mean", _mean(peer), 10.0, True),
    ], rows


def bfloat16_targets(repeats: int) -> list[Target]:
    """Our bfloat16 against our float32, where the processor multiplies bfloat16."""
    gains = []
    for shape in UNGROUPED:
        functions = {}
        for dtype in (torch.float32, torch.bfloat16):
            tensors = peers.make_tensors(shape, _batch(shape), dtype, channels_last=True)
            functions[str(dtype)] = _without_gradients(peers.deformable("extension", shape), tensors)
        times = interleaved(functions, repeats)
        gains.append(times["torch.float32"]["median"] / times["torch.bfloat16"]["median"])
    return [Target("bfloat16: faster than our float32, geometric mean", _mean(gains), 1.6, True)]


def one_image_targets(repeats: int) -> list[Target]:
    times = []
    for shape in shapes.RESNET:
        row = measure(shape, 1, torch.float32, False, repeats)
        times.append(_over_plain(row, "extension channels-last"))
    return [Target("one image: times conv2d's, worst shape", max(times), 1.5)]


def small_call_targets(repeats: int) -> list[Target]:
    """The cost of a call itself: 1x8x4x4, where there is next to nothing to compute."""
    shape = shapes.Shape(8, (4, 4))
    tensors = peers.make_tensors(shape, 1, torch.float32, channels_last=False)
    functions = {name: (peers.public_function(name), tensors) for name in ("extension", "torchvision")}
    refuse_differences(functions, 1e-4, shape.name)
    calls = {name: _without_gradients(function, tensors) for name, (function, _) in functions.items()}
    times = interleaved(calls, 200 * repeats)
    ratio = times["extension"]["median"] / times["torchvision"]["median"]
    return [Target("a call on 1x8x4x4: times torchvision's", ratio, 1.0)]


def memory_targets() -> tuple[list[Target], list[dict]]:
    """At two batches: a workspace that grew with the batch would show in the larger one."""
    rows = [
        {"shape": shape.name, "batch": batch}
        | {name: memory.workspace_mib(shape, batch, name == "backward") for name in ("forward", "backward")}
        for shape in UNGROUPED
        for batch in (8, 32)
    ]
    return [
        Target(f"workspace of the {name}, MiB a thread, worst shape", max(row[name] for row in rows), 4.0)
        for name in ("forward", "backward")
    ], rows


def settings_targets(repeats: int) -> list[Target]:
    targets = []
    for name, backward, limit in (("forward", False, 1.5), ("forward + backward", True, 2.0)):
        for setting, ratio in settings.ratios(backward, repeats).items():
            targets.append(Target(f"{name} {setting}: times conv2d's", ratio, limit))
    return targets


def model_targets(repeats: int) -> tuple[list[Target], list[dict]]:
    rows = [models.measure(*setting, repeats=repeats) for setting in models.SETTINGS]
    targets = []
    for row in rows:
        targets.append(Target(f"{row['name']}: images/s over the plain model's", row["plain"], 0.75, True))
        targets.append(Target(f"{row['name']}: faster than on torchvision", row["torchvision"], 3.0, True))
    return targets, rows


def _measured(chosen: list[shapes.Shape], repeats: int, backward: bool) -> list[dict]:
    return [
        measure(shape, _batch(shape), torch.float32, backward, repeats) | {"groups": shape.groups}
        for shape in chosen
    ]


def _batch(shape: shapes.Shape) -> int:
    return 1 if shape in shapes.DETECTION else 8


def _without_gradients(function, tensors):
    def call():
        with torch.inference_mode():
            return function(tensors)

    return call


def _over_plain(row: dict, name: str) -> float:
    return row["ratios"][name] / row["ratios"]["conv2d"]


def _mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    forward, forward_rows = forward_targets(arguments.repeats)
    backward, backward_rows = backward_targets(max(3, arguments.repeats // 2))
    whole, model_rows = model_targets(3)
    workspace, workspace_rows = memory_targets()
    targets = [
        *forward,
        *backward,
        *bfloat16_targets(arguments.repeats),
        *one_image_targets(arguments.repeats),
        *settings_targets(arguments.repeats),
        *workspace,
        *small_call_targets(arguments.repeats),
        *whole,
    ]
    print("\n".join(target.line() for target in targets))
    if arguments.output:
        lines = [target._asdict() | {"passes": target.passes} for target in targets]
        rows = {"forward": forward_rows, "backward": backward_rows}
        rows |= {"workspace": workspace_rows, "models": model_rows}
        report.write(arguments.output, {"repeats": arguments.repeats}, {"targets": lines, **rows})
    sys.exit(0 if all(target.passes for target in targets) else 1)


if __name__ == "__main__":
    main()
