"""What a detector is measured by: COCO's average precision of boxes and masks, and PASCAL VOC's."""

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor, nn
from tqdm import tqdm

from train.data.damage import DamageList
from train.data.images import Batch
from train.detection.annotations import Annotations
from train.detection.coco_evaluation import coco_average_precision
from train.detection.data import as_float
from train.detection.voc_evaluation import voc_average_precision
from train.distribution import World
from train.results import prefixed
from train.signals import Interrupted, StopSignals


def evaluate_detector(
    model: nn.Module,
    loader: Iterable[Batch],
    annotations: Annotations,
    world: World,
    amp_dtype: torch.dtype | None = None,
    max_damaged: int = 0,
    signals: StopSignals | None = None,
) -> dict[str, float]:
    """Average precision in percent over the images of `loader`, in each process its share.

    Returns COCO's `AP`, `AP50`, `AP75`, `AP_small`, `AP_medium` and `AP_large`, the same of masks under
    `mask_AP` and so on, and VOC's `voc_AP50` and `voc_AP70` (area under the curve), `voc07_AP50` and
    `voc07_AP70` (eleven points). Raises DamagedImageError for more than `max_damaged` images that cannot be
    decoded, of which fewer are left out, and Interrupted in all processes when `signals` has received one in
    any.
    """
    start = time.perf_counter()
    found = detect(model, loader, annotations, world, amp_dtype, max_damaged, signals)
    if signals is not None and world.any(signals.received is not None):
        raise Interrupted
    shares = world.gather(found)
    masks = model.roi_heads.has_mask()
    measured = world.on_first(lambda: _measure(annotations, shares, masks))
    return {**measured, "images_per_second": measured["images"] / (time.perf_counter() - start)}


@torch.inference_mode()
def detect(
    model: nn.Module,
    loader: Iterable[Batch],
    annotations: Annotations,
    world: World,
    amp_dtype: torch.dtype | None = None,
    max_damaged: int = 0,
    signals: StopSignals | None = None,
) -> dict[int, list[dict[str, Any]]]:
    """The detections in COCO's format by the image's id; a signal ends it early."""
    model.eval()
    damage, found = DamageList(max_damaged), {}
    for batch in tqdm(loader, desc="validation", disable=None if world.is_first else True, leave=False):
        if signals is not None and signals.received:
            break
        damage.add(batch.damaged)
        images = [as_float(image, world.device) for image in batch.images]
        with torch.autocast(world.device.type, amp_dtype, enabled=amp_dtype is not None):
            outputs = model(images) if images else []
        for image_id, output in zip(batch.targets, outputs, strict=True):
            found[image_id] = list(_records(output, image_id, annotations.category_ids))
    return found


def _records(output: dict[str, Tensor], image_id: int, category_ids: list[int]) -> Iterable[dict[str, Any]]:
    """One image's detections: boxes (n, 4), labels (n,), scores (n,) and maybe masks (n, 1, H, W)."""
    output = {name: tensor.float().cpu().numpy() for name, tensor in output.items()}
    for index, (left, top, right, bottom) in enumerate(output["boxes"].tolist()):
        record = {
            "image_id": image_id,
            "category_id": category_ids[int(output["labels"][index]) - 1],
            "bbox": [left, top, right - left, bottom - top],
            "score": float(output["scores"][index]),
        }
        if "masks" in output:
            mask = output["masks"][index, 0] >= 0.5
            record["segmentation"] = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        yield record


def _measure(
    annotations: Annotations, shares: list[dict[int, list[dict[str, Any]]]], masks: bool
) -> dict[str, float]:
    by_image = {image: records for share in shares for image, records in share.items()}
    results, images = [record for records in by_image.values() for record in records], list(by_image)
    measured = {"images": len(images), **coco_average_precision(annotations, results, images)}
    if masks:
        measured |= prefixed("mask_", coco_average_precision(annotations, results, images, "segm"))
    for iou in (0.5, 0.7):
        name = f"AP{round(100 * iou)}"
        measured[f"voc_{name}"] = voc_average_precision(annotations, results, images, iou)
        measured[f"voc07_{name}"] = voc_average_precision(annotations, results, images, iou, True)
    return measured
