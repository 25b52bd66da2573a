"""The evaluation loader: every image once over all ranks."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from timm.data import create_transform

from train.data.finish import BatchFinisher
from train.data.images import Batch, EvaluationImages
from train.data.perturb import PerturbedImages
from train.data.sources import ImageSource, check_labels, check_same_classes, is_stream, open_dataset
from train.data.streams import EncodedStream, StreamImages
from train.data.subsets import Subset, held_out
from train.data.workers import create_worker_loader
from train.recipe import Recipe


class EvalLoader:
    """One rank's share of the images, in order: images (B, 3, H, W) float32, labels (B,)."""

    def __init__(self, batches: Iterable[Batch], finish: BatchFinisher):
        self.batches, self.finish = batches, finish

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in self.batches:
            images, targets = self.finish(batch)
            if len(targets):
                yield images, targets


def create_val_loader(recipe: Recipe, rank: int = 0, world_size: int = 1) -> EvalLoader:
    """The recipe's validation images; raises ValueError where their classes are not those of training."""
    if is_stream(recipe.data_dir):
        source = EncodedStream(
            recipe.data_dir, recipe.val_split, False, recipe.stream_images, recipe.batch_size, recipe.seed
        )
    else:
        source = _open_validation_images(recipe)
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


def _open_validation_images(recipe: Recipe) -> ImageSource | Subset:
    training = open_dataset(recipe.data_dir, recipe.train_split)
    if recipe.holdout > 0:
        return held_out(training, recipe.holdout, recipe.seed)
    source = open_dataset(recipe.data_dir, recipe.val_split)
    check_labels(source, recipe.num_classes, f"split {recipe.val_split!r} of {recipe.data_dir!r}")
    check_same_classes(training, source)
    return source


def eval_data_config(recipe: Recipe) -> dict[str, Any]:
    """The preprocessing of the recipe's validation images, in the keys of timm's data configuration."""
    size = recipe.eval_img_size or recipe.img_size
    return {
        "input_size": (3, size, size),
        # a random choice is for training only
        "interpolation": "bilinear" if recipe.interpolation == "random" else recipe.interpolation,
        "mean": tuple(recipe.mean),
        "std": tuple(recipe.std),
        "crop_pct": recipe.eval_crop_pct,
        "crop_mode": "center",
    }


def create_eval_loader(
    source: ImageSource | Subset | PerturbedImages | EncodedStream,
    data_config: dict[str, Any],
    batch_size: int,
    workers: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    max_damaged: int = 0,
) -> EvalLoader:
    """Images prepared as `data_config` says, each in one batch of one rank.

    Damaged images are left out up to `max_damaged` of a rank, and an error beyond.
    """
    transform = create_transform(**data_config, is_training=False, use_prefetcher=True)
    if isinstance(source, EncodedStream):
        images = _stream_share(source, transform, workers, rank, world_size)
        batching = {"batch_size": batch_size}
    else:
        images = EvaluationImages(source, transform)
        share = rank_share(len(source), batch_size, rank, world_size)
        batching = {"batch_sampler": share, "persistent_workers": workers > 0}
    batches = create_worker_loader(images, workers, device, **batching)
    return EvalLoader(batches, BatchFinisher(device, data_config["mean"], data_config["std"], max_damaged))


def rank_share(images: int, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """Batches of image indices: one rank's contiguous part of all."""
    length = math.ceil(images / world_size)
    indices = range(images)[rank * length : (rank + 1) * length]
    return [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]


def _stream_share(
    stream: EncodedStream, transform: Any, workers: int, rank: int, world_size: int
) -> StreamImages:
    """Every rank reads the whole stream, as shards hardly split evenly, and decodes its share only."""
    stream.share(0, 1, workers)
    images = StreamImages(stream, transform, seed=0, training=False)
    images.first, images.step = rank, world_size
    return images
