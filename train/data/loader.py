"""The loaders of a run: batches on its device, normalised and mixed, the same for any number of workers."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from timm.data import Mixup, create_transform
from torch.utils.data import DataLoader

from train.data.damage import DamageList
from train.data.images import Batch, EvaluationImages, TrainingImages, collate
from train.data.order import TrainingOrder
from train.data.seeding import seeded
from train.data.sources import ImageSource, check_labels, open_dataset
from train.recipe import Recipe


class BatchFinisher:
    """Moves batches to the device and normalises those that workers left as bytes."""

    def __init__(self, device: torch.device, mean: Iterable[float], std: Iterable[float], max_damaged: int):
        self.device = device
        self.mean = 255 * torch.tensor(tuple(mean), device=device).view(-1, 1, 1)  # (3, 1, 1)
        self.std = 255 * torch.tensor(tuple(std), device=device).view(-1, 1, 1)
        self.damage = DamageList(max_damaged)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) float32 and labels (B,); raises DamagedImageError beyond the limit."""
        self.damage.add(batch.damaged)
        images = batch.images.to(self.device, non_blocking=True)
        if images.dtype == torch.uint8:  # a quarter of the bytes on the way here
            images = images.float().sub_(self.mean).div_(self.std)
        return images, batch.targets.to(self.device, non_blocking=True)


class TrainLoader:
    """Batches of one rank: images (B, 3, H, W) float32, labels (B,) int64 or soft labels (B, num_classes)."""

    def __init__(self, recipe: Recipe, order: TrainingOrder, images: TrainingImages):
        device = torch.device(recipe.device)
        self.order, self.seed, self.mixup = order, recipe.seed, create_mixup(recipe)
        self.finish = BatchFinisher(device, recipe.mean, recipe.std, recipe.max_damaged)
        self.loader = create_worker_loader(images, order, recipe.workers, device)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.order)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose what the next iteration yields: an epoch from one of its batches on, both from 0."""
        self.order.epoch, self.order.first_batch = epoch, first_batch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        epoch, first_batch = self.order.epoch, self.order.first_batch
        for number, batch in enumerate(self.loader, start=first_batch):
            images, targets = self.finish(batch)
            yield self._mixed(images, targets, epoch, number) if self.mixup else (images, targets)

    def _mixed(self, images, targets, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        # Counted over all ranks in the order of their parts, as one process that accumulates them counts.
        ranks = self.order.global_batch // self.order.batch_size
        with seeded(self.seed, epoch, number * ranks + self.order.rank):
            return self.mixup(images, targets)


class EvalLoader:
    """Every image of one rank's share once, in order: images (B, 3, H, W) float32, labels (B,)."""

    def __init__(self, loader: DataLoader, finish: BatchFinisher):
        self.loader, self.finish = loader, finish

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in self.loader:
            images, targets = self.finish(batch)
            if len(targets):
                yield images, targets


def create_train_loader(recipe: Recipe, rank: int = 0, world_size: int = 1) -> TrainLoader:
    """Shuffled, augmented, mixed batches of `recipe.batch_size`, the rank's part of each global batch.

    With mixup or cutmix the label smoothing is in the soft labels, so that a loss adds none. Raises
    ValueError for data that the recipe cannot be trained on.
    """
    source = open_dataset(recipe.data_dir, recipe.train_split)
    check_labels(source, recipe.num_classes, f"split {recipe.train_split!r} of {recipe.data_dir!r}")
    order = TrainingOrder(
        len(source), recipe.batch_size, recipe.seed, recipe.repeated_augmentation, rank, world_size
    )
    if len(order) == 0:
        raise ValueError(f"{len(source)} images fill no batch, expected at least {order.global_batch}")
    images = TrainingImages(source, train_transform(recipe), recipe.seed, recipe.max_damaged)
    return TrainLoader(recipe, order, images)


def train_transform(recipe: Recipe) -> Any:
    """timm's augmentation of one PIL image, to bytes, or to float32 where random erasing needs them."""
    return create_transform(
        recipe.img_size,
        is_training=True,
        use_prefetcher=recipe.random_erasing == 0,
        scale=tuple(recipe.train_scale),
        hflip=recipe.hflip,
        color_jitter=recipe.color_jitter,
        auto_augment=recipe.auto_augment or None,
        re_prob=recipe.random_erasing,
        re_mode="pixel",
        interpolation=recipe.interpolation,
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
    )


def create_mixup(recipe: Recipe) -> Mixup | None:
    """timm's mixup and cutmix over a batch, or None; raises ValueError for an odd batch."""
    if recipe.mixup == 0 and recipe.cutmix == 0:
        return None
    if recipe.batch_size % 2:
        raise ValueError(f"batch_size is {recipe.batch_size}, expected an even one as mixup mixes pairs")
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mixup_prob,
        switch_prob=recipe.mixup_switch_prob,
        label_smoothing=recipe.label_smoothing,
        num_classes=recipe.num_classes,
    )


def create_val_loader(recipe: Recipe, rank: int = 0, world_size: int = 1) -> EvalLoader:
    """The recipe's validation images; raises ValueError where their classes are not those of training."""
    source = open_dataset(recipe.data_dir, recipe.val_split)
    check_labels(source, recipe.num_classes, f"split {recipe.val_split!r} of {recipe.data_dir!r}")
    return create_eval_loader(
        source,
        eval_data_config(recipe),
        2 * recipe.batch_size,  # without gradients twice as many fit
        recipe.workers,
        torch.device(recipe.device),
        rank,
        world_size,
        recipe.max_damaged,
    )


def eval_data_config(recipe: Recipe) -> dict[str, Any]:
    """The preprocessing of the recipe's validation images, in the keys of timm's data configuration."""
    size = recipe.eval_img_size or recipe.img_size
    return {
        "input_size": (3, size, size),
        "interpolation": recipe.interpolation,
        "mean": tuple(recipe.mean),
        "std": tuple(recipe.std),
        "crop_pct": recipe.eval_crop_pct,
        "crop_mode": "center",
    }


def create_eval_loader(
    source: ImageSource,
    data_config: dict[str, Any],
    batch_size: int,
    workers: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    max_damaged: int = 0,
) -> EvalLoader:
    """Images prepared as `data_config` says; each is in one batch of one rank, ranks in contiguous shares.

    Damaged images are left out up to `max_damaged` of a rank, and an error beyond.
    """
    images = EvaluationImages(source, create_transform(**data_config, is_training=False, use_prefetcher=True))
    share = math.ceil(len(source) / world_size)
    indices = range(len(source))[rank * share : (rank + 1) * share]
    batches = [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]
    finish = BatchFinisher(device, data_config["mean"], data_config["std"], max_damaged)
    return EvalLoader(create_worker_loader(images, batches, workers, device), finish)


def create_worker_loader(images: Any, batches: Iterable, workers: int, device: torch.device) -> DataLoader:
    """torch's loader, which draws its workers' seed from a generator of its own and so disturbs none."""
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        generator=torch.Generator(),
    )
