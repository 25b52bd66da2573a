"""Datasets and loaders through timm's readers, with damaged images reported instead of skipped."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import ImageDataset, create_dataset, create_loader

from train.recipe import Recipe


class StrictImageDataset(ImageDataset):
    """timm's dataset without its retry, which replaces a damaged image by its neighbour."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """One transformed image and its label (-1 if it has none); raises OSError naming a damaged image."""
        try:
            file, target, *_ = self.reader[index]
            image = Image.open(file).convert(self.input_img_mode)
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and others
            raise OSError(f"image {index} ({self._name(index)}) cannot be decoded: {error}") from error
        return self.transform(image) if self.transform else image, -1 if target is None else target

    def _name(self, index: int) -> str:
        return self.reader.filename(index) or "without a file name"


def open_dataset(data_dir: str, split: str) -> StrictImageDataset:
    """Open a folder of class folders, a tar file, a folder of parquet files, or `hfds/NAME` of the Hub.

    Raises ValueError for anything else, so for timm's iterable sources: their length and order are not fixed.
    """
    path = Path(data_dir)
    if any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
        data_dir = f"hfds/{path.resolve()}"
    elif not path.exists() and not data_dir.startswith("hfds/"):
        raise ValueError(
            f"data source {data_dir!r} does not exist, expected a folder, a tar file or hfds/NAME"
        )
    name, root = (data_dir, None) if data_dir.startswith("hfds/") else ("", data_dir)
    return StrictImageDataset(data_dir, reader=create_dataset(name, root=root, split=split).reader)


def create_train_loader(recipe: Recipe) -> Iterable:
    """Shuffled, augmented batches: images (B, 3, img_size, img_size) normalised, labels (B,)."""
    return create_loader(
        open_dataset(recipe.data_dir, recipe.train_split),
        input_size=recipe.img_size,
        batch_size=recipe.batch_size,
        is_training=True,
        scale=tuple(recipe.train_scale),
        hflip=recipe.hflip,
        color_jitter=recipe.color_jitter,
        auto_augment=recipe.auto_augment or None,
        re_prob=recipe.random_erasing,
        interpolation=recipe.interpolation,
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
        num_workers=recipe.workers,
        device=torch.device(recipe.device),
        # New workers each epoch take their seed from the epoch's, so that a resumed run repeats itself.
        persistent_workers=False,
    )


def eval_data_config(recipe: Recipe) -> dict[str, Any]:
    """The preprocessing of the recipe's validation images, in the keys of timm's data configuration."""
    return {
        "input_size": (3, recipe.img_size, recipe.img_size),
        "interpolation": recipe.interpolation,
        "mean": tuple(recipe.mean),
        "std": tuple(recipe.std),
        "crop_pct": recipe.eval_crop_pct,
        "crop_mode": "center",
    }


def create_eval_loader(
    dataset: ImageDataset, data_config: dict[str, Any], batch_size: int, workers: int, device: torch.device
) -> Iterable:
    """Every image once, in order: images (B, 3, H, W) prepared as `data_config` says, labels (B,)."""
    return create_loader(
        dataset,
        **data_config,
        batch_size=batch_size,
        is_training=False,
        num_workers=workers,
        device=device,
        persistent_workers=False,
    )
