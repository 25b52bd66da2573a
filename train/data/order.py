"""Which images a process sees, batch after batch."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from train.data.seeding import derive_seed


class SampleKey(NamedTuple):
    """One appearance of an image; its augmentation is seeded by these numbers."""

    epoch: int
    image: int  # index in the data set
    copy: int  # below the number of repeated augmentations


class TrainingOrder(Sampler[list[SampleKey]]):
    """Shuffled batches of one rank, without the images that fill no whole batch of all ranks.

    A global batch is split over the ranks in contiguous parts, so that R ranks with batches of B / R see
    the images of one rank with batches of B, and rank r what one process sees as its r-th part.

    With `copies` above 1 every image appears that often in its batch, differently augmented (Hoffer et al.,
    "Augment your batch", 2020); an epoch keeps its number of batches and sees a share of the images. The
    copies lie far apart in the batch, so that ranks get different ones.
    """

    def __init__(self, images: int, batch_size: int, seed: int, copies: int, rank: int, world_size: int):
        self.images, self.seed, self.rank = images, seed, rank
        self.batch_size, self.global_batch = batch_size, batch_size * world_size
        self.distinct = -(-self.global_batch // copies)  # images in a global batch
        self.epoch, self.first_batch = 0, 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.images // self.global_batch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        shuffled = torch.randperm(self.images, generator=generator)
        for batch in range(self.first_batch, len(self)):
            chosen = shuffled[batch * self.distinct : (batch + 1) * self.distinct].tolist()
            yield [self._key(chosen, self.rank * self.batch_size + slot) for slot in range(self.batch_size)]

    def _key(self, chosen: list[int], slot: int) -> SampleKey:
        copy, image = divmod(slot, self.distinct)
        return SampleKey(self.epoch, chosen[image], copy)
