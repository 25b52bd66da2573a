"""One map of a detector on the GPU: our RoI pooling and torchvision's, timed and checked."""

from collections.abc import Callable

import torch
from torch import Tensor

from dcn_backbones.ops.dispatch import select

from .gpu_rows import LAYOUTS, Call, call, refuse_differences
from .gpu_timing import interleaved
from .peers import Tensors
from .roi_peers import BINS, Map, make_tensors, on_few_regions, ours, torchvisions

POSITIONS = ("offset", "mask")
MODULATED = ("input", *POSITIONS)

# One level for all regions, then those of a feature pyramid, each with regions of the sizes that it gets.
MAPS = [
    Map("50x84", 16, (24.0, 640.0), batch=2),
    Map("P2, 200x336", 4, (24.0, 112.0), batch=2),
    Map("P3, 100x168", 8, (112.0, 224.0), batch=2),
    Map("P4, 50x84", 16, (224.0, 448.0), batch=2),
    Map("P5, 25x42", 32, (448.0, 800.0), batch=2),
]
TYPES = (torch.float32, torch.float16)  # that torchvision's kernel takes on a GPU


def measure(map_: Map, dtype: torch.dtype, backward: bool, repeats: int, device: str) -> dict:
    """Both formats of both; ours is to beat the better one of torchvision's."""
    tensors = {layout: make_tensors(map_, layout == "channels-last", dtype, device) for layout in LAYOUTS}
    backend = select("deform_roi_pool", "", tensors["contiguous"]["input"]).name
    _check_modulated(map_, backend, tensors["channels-last"], backward)
    calls = {}
    for layout, given in tensors.items():
        calls[f"ours {layout}"] = _calling(ours(backend, map_), given, backward, "input")
        calls[f"torchvision {layout}"] = _calling(torchvisions(map_), given, backward, "input")
        wide = given | dict(input=given["input"].float())
        expected = _calling(torchvisions(map_), wide, backward, "input")()
        refuse_differences(map_, dtype, backend, calls[f"ours {layout}"](), expected)
    given = tensors["channels-last"]
    calls["ours modulated channels-last"] = _calling(
        ours(backend, map_, *POSITIONS), given, backward, *MODULATED
    )
    times = interleaved(calls, repeats, device)
    best = min(times[f"torchvision {layout}"]["median"] for layout in LAYOUTS)
    return {
        "shape": map_.name,
        "batch": map_.batch,
        "type": str(dtype).removeprefix("torch."),
        "backend": backend,
        "milliseconds": times,
        "over_torchvision": times["ours contiguous"]["median"] / best,
        "faster_in_channels_last": best / times["ours channels-last"]["median"],
    }


def _calling(function: Callable[[Tensors], Tensor], tensors: Tensors, backward: bool, *leaves: str) -> Call:
    """Boxes stay out of the tensors whose gradients are asked for."""
    boxes = tensors["boxes"]
    return call(lambda t: function(t | dict(boxes=boxes)), {k: tensors[k] for k in leaves}, backward)


def _check_modulated(map_: Map, backend: str, tensors: Tensors, backward: bool) -> None:
    """Against the reference, on a few regions."""
    few = on_few_regions(tensors)
    wide = few | dict(input=few["input"].float())
    found, expected = (
        _calling(ours(name, map_, *POSITIONS), given, backward, *MODULATED)()
        for name, given in ((backend, few), ("reference", wide))
    )
    refuse_differences(map_, tensors["input"].dtype, backend, found, expected, MODULATED)


def pixels_of_bins(map_: Map) -> float:
    """Mean number of pixels that the points of a bin look at, each counted once; two points along an axis."""
    tensors = make_tensors(map_, channels_last=False)
    sizes = (tensors["boxes"][:, 3:] - tensors["boxes"][:, 1:3]) / map_.stride / torch.tensor(BINS)
    return (2 + sizes / 2).clamp(max=4).prod(1).mean().item()
