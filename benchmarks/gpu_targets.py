"""The GPU's targets, each with its figure and pass or miss: `python -m benchmarks.gpu_targets`.

Every figure is a ratio within this run, of medians over interleaved repeats from a cold cache; `floors.py`
holds what was predicted. The exit status is 1 while any line misses.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import geometric_mean

import torch

from dcn_backbones.ops import available_backends

from . import floors, gpu_roi_rows, gpu_rows, models, report, shapes
from .cpu_targets import Target
from .roi_peers import Map

# For the deterministic backward; read by cuBLAS with the first product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

Settings = list[tuple[int, list[shapes.Shape]]]
Figures = tuple[list[Target], list[dict]]  # and the rows that they are means of
PEER = "faster_than_torchvision"
FASTER = "faster_in_channels_last"
SMALLER = [(64, shapes.RESNET)]  # where a figure needs no other batch
MODEL = ("dcnv2_resnet50", "resnet50", 224, 256, True)


def operator_targets(settings: Settings, backward: bool, repeats: int, device: str) -> Figures:
    rows = [gpu_rows.measure(shape, batch, backward, repeats, device) for batch, shape in _each(settings)]
    name, limit = ("forward + backward", 2.0) if backward else ("forward", 1.5)
    return [
        Target(f"{name}: times cuDNN's convolution, geometric mean", _mean(rows, "over_conv2d"), limit),
        Target(f"{name}: faster than torchvision, geometric mean", _mean(rows, PEER), 5.0, True),
    ], rows


def memory_targets(settings: Settings, device: str) -> Figures:
    rows = [gpu_rows.measure_memory(shape, batch, device) for batch, shape in _each(settings)]
    return [
        Target("peak memory: times the convolution's, geometric mean", _mean(rows, "over_conv2d"), 1.2)
    ], rows


def numba_targets(settings: Settings, repeats: int, device: str) -> Figures:
    if "numba_cuda" not in available_backends():
        print("no figure for the Numba backend: it is not here")
        return [], []
    rows = [gpu_rows.measure_numba(shape, batch, repeats, device) for batch, shape in _each(settings)]
    return [
        Target("Numba, float32: faster than torchvision, geometric mean", _mean(rows, PEER), 1.0, True)
    ], rows


def pooling_targets(
    maps: list[Map], backward: bool, repeats: int, device: str, types=gpu_roi_rows.TYPES
) -> Figures:
    rows = [gpu_roi_rows.measure(each, dtype, backward, repeats, device) for each in maps for dtype in types]
    name = f"RoI pooling, forward{' + backward' if backward else ''}"
    slowest, least = max(row["over_torchvision"] for row in rows), min(row[FASTER] for row in rows)
    return [
        Target(f"{name}: contiguous, times torchvision, the worst", slowest, 1.5),
        Target(f"{name}: channels-last, faster than torchvision, the least", least, 1.0, True),
    ], rows


def model_targets(setting: tuple, repeats: int, device: str, dtype: torch.dtype) -> Figures:
    row = models.measure(*setting, repeats=repeats, device=device, dtype=dtype)
    return [
        Target(f"{row['name']}: images/s over the plain model's", row["plain"], 0.75, True),
        Target(f"{row['name']}: faster than on torchvision", row["torchvision"], 3.0, True),
        *_model_memory(row),
    ], [row]


def _model_memory(row: dict) -> list[Target]:
    peaks = row["peak_bytes"]
    if None in peaks.values():
        return []
    return [
        Target(
            f"{row['name']}: peak memory over the plain model's", peaks["deformable"] / peaks["plain"], 1.2
        )
    ]


def deterministic_cost(settings: Settings, repeats: int, device: str) -> Figures:
    """No target: what it costs is only reported."""
    torch.utils.deterministic.fill_uninitialized_memory = False  # of torch's own making, not ours
    rows = [gpu_rows.measure_deterministic(shape, batch, repeats, device) for batch, shape in _each(settings)]
    cost = _mean(rows, "cost")
    print(f"deterministic: {cost:.2f} times the time of forward + backward, geometric mean")
    return [], rows


def _each(settings: Settings) -> Iterator[tuple[int, shapes.Shape]]:
    return ((batch, shape) for batch, chosen in settings for shape in chosen)


def _mean(rows: list[dict], name: str) -> float:
    return geometric_mean(row[name] for row in rows)


def _print(kind: str, targets: list[Target], rows: list[dict]) -> None:
    lines = [_line(kind, row) for row in rows if "shape" in row]
    print("\n".join([*lines, *(target.line() for target in targets)]), flush=True)


def _line(kind: str, row: dict) -> str:
    """A row in one line: medians, then the floor and what was predicted beside ours."""
    times = "  ".join(f"{name} {t['median']:.3f}" for name, t in row.get("milliseconds", {}).items())
    what = f"{row['shape']} {row['type']}" if "type" in row else row["shape"]
    text = f"{kind:<9} {what:<20} N={row['batch']:<4} {times}"
    if "floor_ms" in row:
        text += f"  floor {row['floor_ms']:.3f}  predicted {row['predicted_ms']:.3f}"
    return text


def _measures(repeats: int, device: str) -> dict[str, Callable]:
    fewer = max(3, repeats // 2)
    return {
        "forward": lambda: operator_targets(floors.SETTINGS, False, repeats, device),
        "backward": lambda: operator_targets(floors.SETTINGS, True, fewer, device),
        "pooling": lambda: pooling_targets(gpu_roi_rows.MAPS, False, repeats, device),
        "pooling backward": lambda: pooling_targets(gpu_roi_rows.MAPS, True, repeats, device),
        "memory": lambda: memory_targets(floors.SETTINGS, device),
        "numba": lambda: numba_targets(SMALLER, fewer, device),
        "model": lambda: model_targets(MODEL, 3, device, torch.bfloat16),
        "deterministic": lambda: deterministic_cost(SMALLER, fewer, device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("No figures: there is no CUDA device.")
    torch.backends.cudnn.benchmark = True  # the convolution at its best
    targets, rows = [], {}
    for kind, measure in _measures(arguments.repeats, "cuda").items():
        found, rows[kind] = measure()
        targets += found
        _print(kind, found, rows[kind])
        if arguments.output:  # after each kind, so that a run that is cut off leaves its figures
            lines = [target._asdict() | {"passes": target.passes} for target in targets]
            report.write(arguments.output, {"repeats": arguments.repeats}, {"targets": lines, **rows})
    sys.exit(0 if all(target.passes for target in targets) else 1)


if __name__ == "__main__":
    main()
