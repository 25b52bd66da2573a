"""Batches for a detector, whose augmentation depends on seed, epoch and image only."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as rle
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from train.data.damage import DamageList
from train.data.evaluation import rank_share
from train.data.images import Batch, EvaluationImages, Sample, TrainingImages
from train.data.loader import EpochLoader
from train.data.order import TrainingOrder
from train.data.seeding import derive_seed
from train.data.sources import DamagedImageError, describe_damage
from train.data.workers import create_worker_loader
from train.detection.annotations import Annotations
from train.detection.recipe import DetectionRecipe

Target = dict[str, Tensor]


class DetectionBatch(NamedTuple):
    """What a detector is trained on in one pass.

    Attributes:
        images: Each (3, H, W) float32 in 0 to 1, of sizes of their own.
        targets: `boxes` (n, 4) float32 [x1, y1, x2, y2] in pixels, `labels` (n,) int64 from 1, `image_id` and
            for a detector of masks `masks` (n, H, W) uint8.
        seed: Of the proposals that the detector draws: the same for any number of processes.
    """

    images: list[Tensor]
    targets: list[Target]
    seed: int


class DetectionSource(Dataset):
    """RGB images and the objects to train on, by index; crowds and difficult objects are left out."""

    def __init__(self, annotations: Annotations, masks: bool):
        self.annotations, self.masks = annotations, masks

    def __len__(self) -> int:
        return len(self.annotations.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        """One image and its target; raises DamagedImageError, for a mask that is damaged too."""
        record = self.annotations.images[index]
        path = self.annotations.folder / record["file_name"]
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and others
            raise DamagedImageError(describe_damage(f"{record['id']} ({path})", error)) from error
        return image, self._target(record)

    def _target(self, record: dict[str, Any]) -> Target:
        objects = self.annotations.training_boxes(record["id"])
        size = (record["height"], record["width"])
        corners = [[x, y, x + width, y + height] for x, y, width, height in (box["bbox"] for box in objects)]
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.tensor(corners, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=size
            ),
            "labels": torch.tensor([self.annotations.label(box["category_id"]) for box in objects]).long(),
            "image_id": torch.tensor(record["id"]),
        }
        if self.masks:
            masks = [self._mask(box, *size) for box in objects]
            target["masks"] = tv_tensors.Mask(np.stack(masks) if masks else np.zeros((0, *size), np.uint8))
        return target

    def _mask(self, annotation: dict[str, Any], height: int, width: int) -> np.ndarray:
        try:
            return decode_mask(annotation["segmentation"], height, width)
        except Exception as error:  # pycocotools raises ValueError and TypeError
            name = (
                f"annotation {annotation['id']} of {self.annotations.file} (image {annotation['image_id']})"
            )
            raise DamagedImageError(f"{name} has a segmentation that cannot be decoded: {error}") from error


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Polygons, or runs that are compressed or not, as (H, W) uint8 of 0 and 1."""
    return rle.decode(encode_mask(segmentation, height, width))


def encode_mask(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Any of COCO's segmentations as compressed runs."""
    if isinstance(segmentation, list):
        return rle.merge(rle.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return rle.frPyObjects(segmentation, height, width)
    return segmentation


class DetectionTrainingImages(TrainingImages):
    """Augmented images and targets; the next image that can be decoded stands in for a damaged one."""

    def prepare(self, image: Image.Image, target: Target) -> tuple[Tensor, Target]:
        """The image (3, H, W) uint8 and its target, turned into plain tensors."""
        image, target = self.transform(image, target)
        return image.as_subclass(Tensor), {key: value.as_subclass(Tensor) for key, value in target.items()}


class DetectionEvaluationImages(EvaluationImages):
    """Every image by its index, (3, H, W) uint8, with its id as the target."""

    def prepare(self, image: Image.Image, target: Target) -> tuple[Tensor, int]:
        """The image as it is."""
        return v2.functional.pil_to_tensor(image), int(target["image_id"])


def train_transform(min_size: list[int], max_size: int, hflip: float) -> v2.Transform:
    """A flip, and a size whose shorter side is drawn and whose longer one is at most `max_size`.

    Sizes change as the detector changes them in evaluation, without antialiasing.
    """
    resize = v2.RandomShortestSize(min_size, max_size=max_size, antialias=False)
    return v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(hflip), resize])


def collate(samples: list[Sample]) -> Batch:
    """The samples that have an image, as lists."""
    found = [sample for sample in samples if sample.image is not None]
    damaged = [name for sample in samples for name in sample.damaged]
    return Batch([sample.image for sample in found], [sample.target for sample in found], damaged)


class DetectionTrainLoader(EpochLoader):
    """Batches of one rank."""

    def __init__(self, recipe: DetectionRecipe, batches: Iterable[Batch], order: TrainingOrder):
        super().__init__(batches, order)
        self.seed, self.device = recipe.seed, torch.device(recipe.device)
        self.damage = DamageList(recipe.max_damaged)

    def __iter__(self) -> Iterator[DetectionBatch]:
        epoch, first_batch = self.order.epoch, self.order.first_batch
        for number, batch in enumerate(self.batches, start=first_batch):
            self.damage.add(batch.damaged)
            images = [as_float(image, self.device) for image in batch.images]
            to_device = partial(torch.Tensor.to, device=self.device, non_blocking=True)
            targets = [{key: to_device(value) for key, value in target.items()} for target in batch.targets]
            yield DetectionBatch(images, targets, derive_seed(self.seed, epoch, self.place(number)))


def as_float(image: Tensor, device: torch.device) -> Tensor:
    """Bytes (3, H, W) on the device, as float32 in 0 to 1."""
    return image.to(device, non_blocking=True).float().div_(255)


def create_train_loader(
    recipe: DetectionRecipe, source: DetectionSource, rank: int = 0, world_size: int = 1
) -> DetectionTrainLoader:
    """Shuffled, augmented batches of `recipe.batch_size`, the rank's part of each global batch."""
    order = TrainingOrder(len(source), recipe.batch_size, recipe.seed, 1, rank, world_size)
    if len(order) == 0:
        raise ValueError(f"the training images fill no batch, expected at least {order.global_batch}")
    transform = train_transform(recipe.min_size, recipe.max_size, recipe.hflip)
    images = DetectionTrainingImages(source, transform, recipe.seed, recipe.max_damaged)
    return DetectionTrainLoader(recipe, _batches(recipe, images, order), order)


def create_val_loader(
    recipe: DetectionRecipe, source: DetectionSource, rank: int = 0, world_size: int = 1
) -> Iterable[Batch]:
    """One rank's images, each a batch of its own: padded to others' sizes they would be seen otherwise."""
    images = DetectionEvaluationImages(source, None)
    return _batches(recipe, images, rank_share(len(source), 1, rank, world_size))


def _batches(recipe: DetectionRecipe, images: Dataset, sampler: Any) -> Iterable[Batch]:
    return create_worker_loader(
        images,
        recipe.workers,
        torch.device(recipe.device),
        batch_sampler=sampler,
        collate_fn=collate,
        persistent_workers=recipe.workers > 0,
    )
