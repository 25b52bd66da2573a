"""One transformed image at a time: the part of the loader that runs in its workers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch.utils.data import Dataset

from train.data.order import SampleKey
from train.data.seeding import seeded
from train.data.sources import DamagedImageError


class Sample(NamedTuple):
    """An image (3, H, W), its label, and what was found damaged on the way to it."""

    image: torch.Tensor | None
    target: int
    damaged: list[str]


class Batch(NamedTuple):
    """Images (B, 3, H, W), labels (B,) int64, and what was found damaged."""

    images: torch.Tensor
    targets: torch.Tensor
    damaged: list[str]


class TrainingImages(Dataset):
    """Augmented images by `SampleKey`. The next image that can be decoded stands in for a damaged one."""

    def __init__(self, source: Any, transform: Callable, seed: int, max_damaged: int):
        self.source, self.transform = source, transform
        self.seed, self.max_damaged = seed, max_damaged

    def __getitem__(self, key: SampleKey) -> Sample:
        damaged = []
        for step in range(self.max_damaged + 1):
            try:
                image, target = self.source[(key.image + step) % len(self.source)]
            except DamagedImageError as error:
                damaged.append(str(error))
                continue
            with seeded(self.seed, *key):
                return Sample(*self.prepare(image, target), damaged)
        return Sample(None, -1, damaged)

    def prepare(self, image: Image.Image, target: Any) -> tuple[torch.Tensor, Any]:
        """The augmented image, and its target as it becomes."""
        return self.transform(image), target


class EvaluationImages(Dataset):
    """Every image by its index; a damaged one is left out."""

    def __init__(self, source: Any, transform: Callable):
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        try:
            image, target = self.source[index]
        except DamagedImageError as error:
            return Sample(None, -1, [str(error)])
        return Sample(*self.prepare(image, target), [])

    def prepare(self, image: Image.Image, target: Any) -> tuple[torch.Tensor, Any]:
        """The transformed image and its target."""
        return self.transform(image), target


def collate(samples: list[Sample]) -> Batch:
    """Stack the samples that have an image."""
    images = [sample.image for sample in samples if sample.image is not None]
    targets = [sample.target for sample in samples if sample.image is not None]
    return Batch(
        torch.stack(images) if images else torch.empty(0),
        torch.tensor(targets, dtype=torch.int64),
        [name for sample in samples for name in sample.damaged],
    )
