"""RoI pooling against torchvision's, in one run: `python -m benchmarks.deform_roi_pool`.

`roi_align` and `ps_roi_align` against ours without offsets, in both memory formats, and our deformed and
modulated pooling beside them, on a detector's maps. Prints a table of milliseconds (medians) and writes JSON.
When results differ nothing is reported. What torchvision does to a channels-last input, which is to copy it,
is part of its time.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from dcn_backbones.ops import deform_ps_roi_pool, deform_roi_pool, use_backend

from . import peers, report
from .deform_conv2d import TOLERANCE, refuse_differences, run_once
from .peers import Tensors
from .timing import interleaved

OUTPUT_SIZE = 7
IMAGE = (800, 1344)  # of 800 x 1333, padded to the strides
CHANNELS = 256
REGIONS = 512
SIDES = (24.0, 800.0)  # pixels of the image
COMPARED = 16  # regions for which the reference says whether deformed pooling is right
FORMATS = ("channels-last", "contiguous")


@dataclass(frozen=True)
class Setting:
    """One map of a detector's image and the regions on it."""

    name: str
    stride: int = 16
    batch: int = 1
    regions: int = REGIONS
    sampling_ratio: int = 2
    classes: int = 0
    """Of position-sensitive channels; none of them pools plainly."""
    level: int | None = None
    """Of a feature pyramid from P2 to P5: only those of the regions that it gets."""

    @property
    def channels(self) -> int:
        return self.classes * OUTPUT_SIZE**2 or CHANNELS


PYRAMID = [Setting(f"P{level} of FPN", 2**level, level=level) for level in range(2, 6)]
FEW_REGIONS = Setting("4 regions on 200x336", 4, regions=4)
SETTINGS = [
    Setting("50x84"),
    Setting("50x84, adaptive", sampling_ratio=0),
    Setting("50x84, 2 images", batch=2),
    *PYRAMID,
    FEW_REGIONS,
    Setting("sensitive, 21 classes", classes=21),
    Setting("sensitive, adaptive", classes=21, sampling_ratio=0),
]


def main() -> None:
    arguments = _arguments()
    rows = []
    for setting in SETTINGS:
        rows.append(measure(setting, arguments.backward, arguments.repeats))
        print(line(rows[-1]), flush=True)
    if arguments.output:
        report.write(arguments.output, vars(arguments), {"rows": rows})


def measure(setting: Setting, backward: bool, repeats: int) -> dict:
    """Time everything on one map, after checking that plain and deformed results are right."""
    tensors = {layout: make_tensors(setting, layout == "channels-last") for layout in FORMATS}
    calls = {}
    for kind, (functions, compared) in _kinds(setting).items():
        chosen = {
            f"{name} {layout}": (function, tensors[layout])
            for name, function in functions.items()
            for layout in FORMATS
        }
        refuse_differences(_on_few(chosen) if compared else chosen, TOLERANCE[torch.float32], setting.name)
        for name, (function, given) in chosen.items():
            if not name.startswith("reference"):
                calls[f"{kind}, {name}"] = lambda f=function, t=given: run_once(f, t, backward)
    times = interleaved(calls, repeats)
    regions = len(tensors["contiguous"]["boxes"])
    return {"setting": setting.name, "regions": regions, "milliseconds": times, "ratios": _ratios(times)}


def make_tensors(setting: Setting, channels_last: bool) -> Tensors:
    """A normal input and offsets, a mask in (0, 1), boxes of many sizes. Seeded."""
    generator = torch.Generator().manual_seed(0)
    boxes = _boxes(setting, generator)
    size = [side // setting.stride for side in IMAGE]
    bins = (len(boxes), OUTPUT_SIZE, OUTPUT_SIZE)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    input = torch.randn(setting.batch, setting.channels, *size, generator=generator)
    return dict(
        input=input.contiguous(memory_format=layout),
        boxes=boxes,
        offset=torch.randn(bins[0], 2, *bins[1:], generator=generator),
        mask=torch.rand(bins, generator=generator),
    )


def _boxes(setting: Setting, generator: torch.Generator) -> Tensor:
    """(R, 5) in pixels of the image, which cuts them off; sides are spread evenly over their logarithms."""
    low, high = torch.tensor(SIDES).log()
    sides = (low + (high - low) * torch.rand(setting.regions, 2, generator=generator)).exp()
    limits = torch.tensor([IMAGE[1], IMAGE[0]])
    centres = torch.rand(setting.regions, 2, generator=generator) * limits
    corners = [(centres + sign * sides / 2).clamp(min=0).minimum(limits) for sign in (-1, 1)]
    image = torch.randint(setting.batch, (setting.regions, 1), generator=generator)
    boxes = torch.cat([image, *corners], 1)
    if setting.level is None:
        return boxes
    levels = torchvision.ops.poolers.initLevelMapper(2, 5)([boxes[:, 1:]]) + 2
    return boxes[levels == setting.level]


def _kinds(setting: Setting) -> dict[str, tuple[dict[str, Callable[[Tensors], Tensor]], bool]]:
    """By kind of pooling, its functions by name, ours first, and whether only a few regions are compared."""
    own = peers.own_backends()
    plain = {name: _pooling(setting, name) for name in own} | {"torchvision": _torchvision(setting)}
    deformed = {name: _pooling(setting, name, "offset") for name in [*own, "reference"]}
    modulated = {name: _pooling(setting, name, "offset", "mask") for name in [*own, "reference"]}
    kinds = {"plain": (plain, False), "deformed": (deformed, True), "modulated": (modulated, True)}
    if setting.classes:
        del kinds["modulated"]
    return kinds


def _settings(setting: Setting) -> dict:
    return dict(spatial_scale=1 / setting.stride, sampling_ratio=setting.sampling_ratio)


def _pooling(setting: Setting, backend: str, *optional: str) -> Callable[[Tensors], Tensor]:
    pool = deform_ps_roi_pool if setting.classes else deform_roi_pool

    def call(t: Tensors) -> Tensor:
        with use_backend(backend):
            given = {name: t[name] for name in optional}
            return pool(t["input"], t["boxes"], OUTPUT_SIZE, **_settings(setting), **given)

    return call


def _torchvision(setting: Setting) -> Callable[[Tensors], Tensor]:
    if setting.classes:
        return lambda t: torchvision.ops.ps_roi_align(
            t["input"], t["boxes"], OUTPUT_SIZE, **_settings(setting)
        )
    return lambda t: torchvision.ops.roi_align(
        t["input"], t["boxes"], OUTPUT_SIZE, **_settings(setting), aligned=True
    )


def _on_few(functions: dict) -> dict:
    """The same functions on the first regions alone."""
    few = {}
    for name, (function, tensors) in functions.items():
        shorter = {key: t if key == "input" else t[:COMPARED] for key, t in tensors.items()}
        few[name] = (function, shorter)
    return few


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
