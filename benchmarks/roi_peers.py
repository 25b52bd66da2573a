"""What is compared in RoI pooling: ours and torchvision's, on maps of a detector with regions on them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor

from dcn_backbones.ops import deform_ps_roi_pool, deform_roi_pool, use_backend

from .peers import Tensors

IMAGE = (800, 1344)  # of 800 x 1333, padded to the strides
BINS = (7, 7)
COMPARED = 16  # regions for which the reference says whether deformed pooling is right


@dataclass(frozen=True)
class Map:
    """Features of an image, and regions on it."""

    name: str
    stride: int = 16
    sides: tuple[float, float] = (24.0, 800.0)  # of the regions, in pixels of the image
    regions: int = 512
    batch: int = 1
    channels: int = 256
    sampling_ratio: int = 2
    classes: int = 0
    """Of position-sensitive channels, in the place of `channels`; none of them pools plainly."""
    level: int | None = None
    """Of a feature pyramid from P2 to P5: only those of the regions that it gets."""

    @property
    def size(self) -> tuple[int, int]:
        return IMAGE[0] // self.stride, IMAGE[1] // self.stride

    @property
    def settings(self) -> dict:
        return dict(output_size=BINS, spatial_scale=1 / self.stride, sampling_ratio=self.sampling_ratio)


def make_tensors(
    map_: Map, channels_last: bool, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Tensors:
    """Normal input, of that type, and offsets, a mask in (0, 1), boxes of many sizes. Seeded."""
    generator = torch.Generator(device).manual_seed(0)
    boxes = _boxes(map_, generator)
    regions = boxes.shape[0]
    channels = map_.classes * BINS[0] * BINS[1] or map_.channels
    size = (map_.batch, channels, *map_.size)
    input = torch.randn(size, generator=generator, device=device).to(dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return dict(
        input=input.contiguous(memory_format=layout),
        boxes=boxes,
        offset=torch.randn(regions, 2, *BINS, generator=generator, device=device),
        mask=torch.rand(regions, *BINS, generator=generator, device=device),
    )


def _boxes(map_: Map, generator: torch.Generator) -> Tensor:
    """(R, 5) inside the image and of whole pixels, which float16 holds; sides are spread evenly over their
    logarithms."""

    def uniform(columns: int) -> Tensor:
        return torch.rand(map_.regions, columns, generator=generator, device=generator.device)

    low, high = torch.tensor(map_.sides).log().tolist()
    image = torch.tensor([float(IMAGE[1]), float(IMAGE[0])], device=generator.device)
    sides = (low + (high - low) * uniform(2)).exp().minimum(image).floor()
    corner = (uniform(2) * (image - sides)).floor()
    boxes = torch.cat([(uniform(1) * map_.batch).floor(), corner, corner + sides], 1)
    if map_.level is None:
        return boxes
    levels = torchvision.ops.poolers.initLevelMapper(2, 5)([boxes[:, 1:]]) + 2
    return boxes[levels == map_.level]


def on_few_regions(tensors: Tensors) -> Tensors:
    """The first regions alone."""
    return {name: t if name == "input" else t[:COMPARED] for name, t in tensors.items()}


def ours(backend: str, map_: Map, *optional: str) -> Callable[[Tensors], Tensor]:
    """The operator with those of offset and mask that are named."""
    pool = deform_ps_roi_pool if map_.classes else deform_roi_pool

    def call(t: Tensors) -> Tensor:
        with use_backend(backend):
            return pool(t["input"], t["boxes"], **map_.settings, **{name: t[name] for name in optional})

    return call


def torchvisions(map_: Map) -> Callable[[Tensors], Tensor]:
    """Its public function, with the boxes in the type of the input, as its kernel wants them."""

    def call(t: Tensors) -> Tensor:
        input, boxes = t["input"], t["boxes"].to(t["input"].dtype)
        if map_.classes:
            return torchvision.ops.ps_roi_align(input, boxes, **map_.settings)
        return torchvision.ops.roi_align(input, boxes, **map_.settings, aligned=True)

    return call
