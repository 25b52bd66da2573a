"""Photographs turned, scaled, sheared and bent: test images whose shapes training has not shown."""

from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2

from train.data.seeding import seeded
from train.data.sources import ImageSource

_BILINEAR = {"interpolation": InterpolationMode.BILINEAR}


class SmoothWarp(nn.Module):
    """Moves pixels by normal displacements at nodes `spacing` pixels apart, and smoothly between them.

    Sizes are pixels: `scale` is the standard deviation at the nodes, `most` the largest displacement.
    (torchvision's elastic transform blurs a displacement of every pixel, which takes several times as long.)
    """

    def __init__(self, spacing: int, scale: float, most: float) -> None:
        super().__init__()
        self.spacing, self.scale, self.most = spacing, scale, most

    def forward(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        nodes = torch.randn(1, 2, height // self.spacing + 2, width // self.spacing + 2) * self.scale
        moved = nn.functional.interpolate(nodes, size=(height, width), mode="bicubic", align_corners=True)
        moved = moved.clamp(-self.most, self.most).movedim(1, -1)  # (1, H, W, 2), x before y
        return v2.functional.elastic(image, moved * 2 / torch.tensor([width, height]), **_BILINEAR)


# Random values of each image are uniform in the ranges (degrees, factors).
PERTURBATIONS: dict[str, Any] = {
    "rotated": v2.RandomRotation(45, **_BILINEAR),
    "scaled": v2.RandomAffine(0, scale=(0.6, 1.6), **_BILINEAR),
    "sheared": v2.RandomAffine(0, shear=(-25, 25, -25, 25), **_BILINEAR),
    "warped": SmoothWarp(spacing=32, scale=4.0, most=12.0),
}
UNCHANGED = "none"
_SEED = 0  # every model is tested on the same images


class PerturbedImages(Dataset):
    """The images of `source`, each changed by one of `PERTURBATIONS`, the same whoever asks and in any order.

    What comes in from outside an image is its own content, mirrored at the edge, so that no border tells of
    the change.
    """

    def __init__(self, source: ImageSource, name: str):
        if name not in PERTURBATIONS:
            raise ValueError(f"perturbation {name!r} is unknown, expected one of {', '.join(PERTURBATIONS)}")
        self.source, self.classes, self.change = source, source.classes, PERTURBATIONS[name]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """One image of its old size and its label; raises DamagedImageError as the source does."""
        image, label = self.source[index]
        width, height = image.size
        margin = min(width, height) - 1  # the most that can be mirrored
        padded = v2.functional.pad(image, [margin] * 4, padding_mode="reflect")
        with seeded(_SEED, index):
            changed = self.change(padded)
        return v2.functional.center_crop(changed, [height, width]), label
