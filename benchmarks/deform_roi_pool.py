"""RoI pooling against torchvision's, in one run: `python -m benchmarks.deform_roi_pool`.

`roi_align` and `ps_roi_align` against ours without offsets, in both memory formats, and our deformed and
modulated pooling beside them, on a detector's maps. Prints a table of milliseconds (medians) and writes JSON.
When results differ nothing is reported. What torchvision does to a channels-last input, which is to copy it,
is part of its time.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from . import peers, report
from .deform_conv2d import TOLERANCE, refuse_differences, run_once
from .peers import Tensors
from .roi_peers import Map, make_tensors, on_few_regions, ours, torchvisions
from .timing import interleaved

FORMATS = ("channels-last", "contiguous")
PYRAMID = [Map(f"P{level} of FPN", 2**level, level=level) for level in range(2, 6)]
FEW_REGIONS = Map("4 regions on 200x336", 4, regions=4)
MAPS = [
    Map("50x84"),
    Map("50x84, adaptive", sampling_ratio=0),
    Map("50x84, 2 images", batch=2),
    *PYRAMID,
    FEW_REGIONS,
    Map("sensitive, 21 classes", classes=21),
    Map("sensitive, adaptive", classes=21, sampling_ratio=0),
]


def main() -> None:
    arguments = _arguments()
    rows = []
    for map_ in MAPS:
        rows.append(measure(map_, arguments.backward, arguments.repeats))
        print(line(rows[-1]), flush=True)
    if arguments.output:
        report.write(arguments.output, vars(arguments), {"rows": rows})


def measure(map_: Map, backward: bool, repeats: int) -> dict:
    """Time everything on one map, after checking that plain and deformed results are right."""
    tensors = {layout: make_tensors(map_, layout == "channels-last") for layout in FORMATS}
    calls = {}
    for kind, (functions, compared) in _kinds(map_).items():
        chosen = {
            f"{name} {layout}": (function, tensors[layout])
            for name, function in functions.items()
            for layout in FORMATS
        }
        few = {name: (function, on_few_regions(given)) for name, (function, given) in chosen.items()}
        refuse_differences(few if compared else chosen, TOLERANCE[torch.float32], map_.name)
        for name, (function, given) in chosen.items():
            if not name.startswith("reference"):
                calls[f"{kind}, {name}"] = lambda f=function, t=given: run_once(f, t, backward)
    times = interleaved(calls, repeats)
    regions = len(tensors["contiguous"]["boxes"])
    return {"setting": map_.name, "regions": regions, "milliseconds": times, "ratios": _ratios(times)}


def _kinds(map_: Map) -> dict[str, tuple[dict[str, Callable[[Tensors], Tensor]], bool]]:
    """By kind of pooling, its functions by name, ours first, and whether only a few regions are compared."""
    own = peers.own_backends()
    plain = {name: ours(name, map_) for name in own} | {"torchvision": torchvisions(map_)}
    deformed = {name: ours(name, map_, "offset") for name in [*own, "reference"]}
    modulated = {name: ours(name, map_, "offset", "mask") for name in [*own, "reference"]}
    kinds = {"plain": (plain, False), "deformed": (deformed, True), "modulated": (modulated, True)}
    if map_.classes:
        del kinds["modulated"]
    return kinds


def _ratios(times: dict) -> dict[str, float]:
    """Our plain time over torchvision's, in its better format, by our format; what deforming costs us."""
    medians = {name: summary["median"] for name, summary in times.items()}
    best = min(medians[f"plain, torchvision {layout}"] for layout in FORMATS)
    ratios = {layout: medians[f"plain, extension {layout}"] / best for layout in FORMATS}
    for kind in ("deformed", "modulated"):
        for layout in FORMATS:
            name = f"{kind}, extension {layout}"
            if name in medians:
                ratios[f"{kind}, {layout}"] = medians[name] / medians[f"plain, extension {layout}"]
    return ratios


def line(row: dict) -> str:
    times = "  ".join(f"{name} {t['median']:.1f}" for name, t in row["milliseconds"].items())
    return f"{row['setting']:<22} R={row['regions']:<4} {times}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backward", action="store_true", help="time forward and backward together")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
