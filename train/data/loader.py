"""The training loader: batches on the run's device, the same for any number of workers."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from timm.data import create_transform

from train.data.cache import MemoryCache
from train.data.finish import BatchFinisher, create_mixup
from train.data.images import Batch, TrainingImages
from train.data.order import TrainingOrder
from train.data.seeding import seeded
from train.data.sources import ImageSource, check_labels, is_stream, open_dataset
from train.data.streams import StreamOrder, open_training_stream
from train.data.subsets import Subset, training_share
from train.data.workers import create_worker_loader
from train.recipe import Recipe


class EpochLoader:
    """Batches of one rank, which begin where they are asked to."""

    def __init__(self, batches: Iterable[Batch], order: TrainingOrder | StreamOrder):
        self.batches, self.order = batches, order

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.order)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose what the next iteration yields: an epoch from one of its batches on, both from 0."""
        self.order.epoch, self.order.first_batch = epoch, first_batch

    def place(self, number: int) -> int:
        """A batch of the epoch counted over all ranks, as one process that accumulates them counts."""
        ranks = self.order.global_batch // self.order.batch_size
        return number * ranks + self.order.rank


class TrainLoader(EpochLoader):
    """Batches of one rank: images (B, 3, H, W) float32, labels (B,) int64 or soft labels (B, num_classes)."""

    def __init__(self, recipe: Recipe, batches: Iterable[Batch], order: TrainingOrder | StreamOrder):
        super().__init__(batches, order)
        self.seed, self.mixup = recipe.seed, create_mixup(recipe)
        self.finish = BatchFinisher(torch.device(recipe.device), recipe.mean, recipe.std, recipe.max_damaged)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        epoch, first_batch = self.order.epoch, self.order.first_batch
        for number, batch in enumerate(self.batches, start=first_batch):
            images, targets = self.finish(batch)
            yield self._mixed(images, targets, epoch, number) if self.mixup else (images, targets)

    def _mixed(self, images, targets, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        with seeded(self.seed, epoch, self.place(number)):
            return self.mixup(images, targets)


def create_train_loader(recipe: Recipe, rank: int = 0, world_size: int = 1) -> TrainLoader:
    """Shuffled, augmented, mixed batches of `recipe.batch_size`, the rank's part of each global batch.

    With mixup or cutmix the label smoothing is in the soft labels, so that a loss adds none. Raises
    ValueError for data that the recipe cannot be trained on.
    """
    if is_stream(recipe.data_dir):
        batches, order = open_training_stream(recipe, train_transform(recipe), rank, world_size)
    else:
        batches, order = _open_by_index(recipe, rank, world_size)
    if len(order) == 0:
        raise ValueError(f"the training images fill no batch, expected at least {order.global_batch}")
    return TrainLoader(recipe, batches, order)


def _open_by_index(recipe: Recipe, rank: int, world_size: int) -> tuple[Iterable[Batch], TrainingOrder]:
    source = _maybe_cached(_open_training_images(recipe), recipe)
    order = TrainingOrder(
        len(source), recipe.batch_size, recipe.seed, recipe.repeated_augmentation, rank, world_size
    )
    images = TrainingImages(source, train_transform(recipe), recipe.seed, recipe.max_damaged)
    batches = create_worker_loader(
        images,
        recipe.workers,
        torch.device(recipe.device),
        batch_sampler=order,
        persistent_workers=recipe.workers > 0,
    )
    return batches, order


def _open_training_images(recipe: Recipe) -> ImageSource | Subset:
    source = open_dataset(recipe.data_dir, recipe.train_split)
    check_labels(source, recipe.num_classes, f"split {recipe.train_split!r} of {recipe.data_dir!r}")
    return training_share(source, recipe.train_share, recipe.holdout, recipe.seed)


def _maybe_cached(source: ImageSource | Subset, recipe: Recipe) -> ImageSource | Subset | MemoryCache:
    if recipe.cache not in ("", "memory"):
        raise ValueError(f"cache is {recipe.cache!r}, expected 'memory' or nothing")
    if not recipe.cache:
        return source
    return MemoryCache(source, recipe.cache_limit_gb * 1e9, recipe.cache_size)


def train_transform(recipe: Recipe) -> Any:
    """timm's augmentation of one PIL image, to bytes, or to float32 where random erasing needs them."""
    return create_transform(
        recipe.img_size,
        is_training=True,
        use_prefetcher=recipe.random_erasing == 0,
        scale=tuple(recipe.train_scale),
        hflip=recipe.hflip,
        color_jitter=recipe.color_jitter or None,
        auto_augment=recipe.auto_augment or None,
        re_prob=recipe.random_erasing,
        re_mode="pixel",
        interpolation=recipe.interpolation,
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
    )
