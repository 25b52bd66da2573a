"""A share of the training images, and a part of them that is held out for choices."""

import torch
from PIL import Image
from torch.utils.data import Dataset

from train.data.seeding import derive_seed
from train.data.sources import ImageSource


class Subset(Dataset):
    """The images of `source` with these indices, under new ones."""

    def __init__(self, source: ImageSource, indices: list[int]):
        self.source, self.indices, self.classes = source, indices, source.classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """One image and its label; raises DamagedImageError as the source does."""
        return self.source[self.indices[index]]

    def open(self, index: int) -> tuple[Image.Image, int]:
        """One image, of which only the header is read, and its label."""
        return self.source.open(self.indices[index])


def training_share(source: ImageSource, share: float, holdout: float, seed: int) -> ImageSource | Subset:
    """The part of the training images that a run trains on, drawn from every class alike.

    `holdout` of a class is left out for `held_out`; of the others `share` remains, at least one image. The
    images of a smaller share are among those of a larger one with the same seed.
    """
    if share == 1 and holdout == 0:
        return source
    chosen = []
    for indices in _shuffled_classes(source, seed):
        kept = indices[round(holdout * len(indices)) :]
        chosen += kept[: max(1, round(share * len(kept)))]
    return Subset(source, sorted(chosen))


def held_out(source: ImageSource, holdout: float, seed: int) -> Subset:
    """The training images that `training_share` leaves out."""
    classes = _shuffled_classes(source, seed)
    return Subset(source, sorted(i for indices in classes for i in indices[: round(holdout * len(indices))]))


def _shuffled_classes(source: ImageSource, seed: int) -> list[list[int]]:
    """The indices of each class, in an order that depends on nothing but the seed and their number."""
    classes: dict[int, list[int]] = {}
    for index, label in enumerate(source.labels()):
        classes.setdefault(label, []).append(index)
    return [_shuffled(indices, seed, label) for label, indices in sorted(classes.items())]


def _shuffled(indices: list[int], seed: int, label: int) -> list[int]:
    generator = torch.Generator().manual_seed(derive_seed(seed, label))
    return [indices[position] for position in torch.randperm(len(indices), generator=generator).tolist()]
