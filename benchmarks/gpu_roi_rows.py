"""One map of a detector on the GPU: our RoI pooling and torchvision's, timed and checked."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor

from dcn_backbones.ops import deform_roi_pool, use_backend
from dcn_backbones.ops.dispatch import select

from .gpu_rows import LAYOUTS, Call, call, refuse_differences
from .gpu_timing import interleaved
from .peers import Tensors

BINS = (7, 7)
MODULATED = ("input", "offset", "mask")
COMPARED = 16  # regions for which the reference says whether modulated pooling is right


@dataclass(frozen=True)
class Map:
    """Features of an image of 800 x 1344 pixels, and regions on it."""

    stride: int
    sides: tuple[float, float]  # of the regions, in pixels of the image
    regions: int = 512
    batch: int = 2
    channels: int = 256
    sampling_ratio: int = 2

    @property
    def name(self) -> str:
        height, width = self.size
        return f"{self.channels}x{height}x{width} R={self.regions}"

    @property
    def size(self) -> tuple[int, int]:
        return 800 // self.stride, 1344 // self.stride

    @property
    def settings(self) -> dict:
        return dict(output_size=BINS, spatial_scale=1 / self.stride, sampling_ratio=self.sampling_ratio)


# One level for all regions, then those of a feature pyramid, each with regions of the sizes that it gets.
MAPS = [
    Map(16, (24.0, 640.0)),
    Map(4, (24.0, 112.0)),
    Map(8, (112.0, 224.0)),
    Map(16, (224.0, 448.0)),
    Map(32, (448.0, 800.0)),
]
TYPES = (torch.float32, torch.float16)  # that torchvision's kernel takes on a GPU


def make_tensors(map_: Map, dtype: torch.dtype, layout: str, device: str) -> Tensors:
    """Normal input and offsets, a mask in (0, 1), regions inside the image and of whole pixels, which float16
    holds. Seeded."""
    generator = torch.Generator(device).manual_seed(0)

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=device)

    low, high = torch.tensor(map_.sides).log().tolist()
    image = torch.tensor([1344.0, 800.0], device=device)
    sides = (low + (high - low) * uniform(map_.regions, 2)).exp().minimum(image)
    sides = sides.floor()
    corner = (uniform(map_.regions, 2) * (image - sides)).floor()
    index = (uniform(map_.regions, 1) * map_.batch).floor()
    size = (map_.batch, map_.channels, *map_.size)
    input = torch.randn(size, generator=generator, device=device).to(dtype)
    memory_format = torch.channels_last if layout == "channels-last" else torch.contiguous_format
    return dict(
        input=input.contiguous(memory_format=memory_format),
        boxes=torch.cat([index, corner, corner + sides], 1),
        offset=torch.randn(map_.regions, 2, *BINS, generator=generator, device=device),
        mask=uniform(map_.regions, *BINS),
    )


def measure(map_: Map, dtype: torch.dtype, backward: bool, repeats: int, device: str) -> dict:
    """Both formats of both; ours is to beat the better one of torchvision's."""
    tensors = {layout: make_tensors(map_, dtype, layout, device) for layout in LAYOUTS}
    backend = select("deform_roi_pool", "", tensors["contiguous"]["input"]).name
    _check_modulated(map_, backend, tensors["channels-last"], backward)
    calls = {}
    for layout, given in tensors.items():
        calls[f"ours {layout}"] = _calling(ours(backend, map_), given, backward, "input")
        calls[f"torchvision {layout}"] = _calling(peer(map_), given, backward, "input")
        wide = given | dict(input=given["input"].float())
        expected = _calling(peer(map_), wide, backward, "input")()
        refuse_differences(map_, dtype, backend, calls[f"ours {layout}"](), expected)
    given = tensors["channels-last"]
    calls["ours modulated channels-last"] = _calling(ours(backend, map_), given, backward, *MODULATED)
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


def ours(backend: str, map_: Map) -> Callable[[Tensors], Tensor]:
    def pool(t: Tensors) -> Tensor:
        with use_backend(backend):
            return deform_roi_pool(**t, **map_.settings)

    return pool


def peer(map_: Map) -> Callable[[Tensors], Tensor]:
    """With the boxes in the type of the input, as its kernel wants them."""
    return lambda t: torchvision.ops.roi_align(
        t["input"], t["boxes"].to(t["input"].dtype), **map_.settings, aligned=True
    )


def _calling(function: Callable[[Tensors], Tensor], tensors: Tensors, backward: bool, *leaves: str) -> Call:
    """Boxes stay out of the tensors whose gradients are asked for."""
    boxes = tensors["boxes"]
    return call(lambda t: function(t | dict(boxes=boxes)), {k: tensors[k] for k in leaves}, backward)


def _check_modulated(map_: Map, backend: str, tensors: Tensors, backward: bool) -> None:
    """Against the reference, on a few regions."""
    few = {name: t if name == "input" else t[:COMPARED] for name, t in tensors.items()}
    wide = few | dict(input=few["input"].float())
    found, expected = (
        _calling(ours(name, map_), given, backward, *MODULATED)()
        for name, given in ((backend, few), ("reference", wide))
    )
    refuse_differences(map_, tensors["input"].dtype, backend, found, expected, MODULATED)


def pixels_of_bins(map_: Map) -> float:
    """Mean number of pixels that the points of a bin look at, each counted once; two points along an axis."""
    tensors = make_tensors(map_, torch.float32, "contiguous", "cpu")
    sizes = (tensors["boxes"][:, 3:] - tensors["boxes"][:, 1:3]) / map_.stride / torch.tensor(BINS)
    return (2 + sizes / 2).clamp(max=4).prod(1).mean().item()
