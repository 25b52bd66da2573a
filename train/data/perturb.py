"""Photographs turned, scaled, sheared and bent: test images whose shapes training has not shown."""

from typing import Any

from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2

from train.data.seeding import seeded
from train.data.sources import ImageSource

_BILINEAR = {"interpolation": InterpolationMode.BILINEAR}
# Random values of each image are uniform in the ranges (degrees, factors). A warp moves pixels by 3 on
# average and by up to 15, those within a dozen pixels about alike.
PERTURBATIONS: dict[str, Any] = {
    "rotated": v2.RandomRotation(45, **_BILINEAR),
    "scaled": v2.RandomAffine(0, scale=(0.6, 1.6), **_BILINEAR),
    "sheared": v2.RandomAffine(0, shear=(-25, 25, -25, 25), **_BILINEAR),
    "warped": v2.ElasticTransform(alpha=500.0, sigma=12.0, **_BILINEAR),
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
