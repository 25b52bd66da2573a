"""Average precision of PASCAL VOC: at one IoU, by the area under the curve or at eleven recalls.

Source: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", 2010, and its development kit.
Boxes are continuous here, where the kit counts pixels: an IoU differs by about a pixel's share of the box.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from train.detection.annotations import Annotations


def voc_average_precision(
    annotations: Annotations,
    results: list[dict[str, Any]],
    image_ids: Sequence[int],
    iou: float,
    eleven_points: bool = False,
) -> float:
    """Mean over the categories that have objects, in percent.

    A detection is right when the object of its category that it overlaps most has at least `iou`, and no
    detection of a higher score has that object. Difficult objects count neither way, and neither do crowds.

    Args:
        results: In COCO's format.
        image_ids: The images that were looked at.
        eleven_points: As until 2007: the mean of the best precision at recalls of 0, 0.1, ... 1, not the area
            under it.
    """
    precisions = []
    for category in annotations.category_ids:
        found = [result for result in results if result["category_id"] == category]
        right, counts, objects = _match(annotations, found, category, image_ids, iou)
        if objects:
            precisions.append(_average_precision(right[counts], objects, eleven_points))
    return 100 * float(np.mean(precisions)) if precisions else 0.0


def _match(
    annotations: Annotations, results: list[dict], category: int, image_ids: Sequence[int], iou: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Of detections by falling score: which are right, which count; and how many objects there are."""
    results = sorted(results, key=lambda result: -result["score"])
    places: dict[int, list[int]] = {image: [] for image in image_ids}
    for place, result in enumerate(results):
        places[result["image_id"]].append(place)
    right, counts, objects = np.zeros(len(results), bool), np.ones(len(results), bool), 0
    for image, indices in places.items():
        truth = [box for box in annotations.boxes[image] if box["category_id"] == category]
        ignored = np.array([bool(box["difficult"] or box["iscrowd"]) for box in truth], bool)
        objects += int((~ignored).sum())
        if truth and indices:
            overlaps = box_iou(*(_corners(boxes) for boxes in ([results[i] for i in indices], truth))).numpy()
            best, hits = overlaps.argmax(1), overlaps.max(1) >= iou
            right[indices] = hits & ~ignored[best] & _first(best, hits)
            counts[indices] = ~(hits & ignored[best])
    return right, counts, objects


def _corners(records: list[dict]) -> torch.Tensor:
    boxes = torch.tensor([record["bbox"] for record in records], dtype=torch.float64)
    return box_convert(boxes, "xywh", "xyxy")


def _first(best: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Which hits are the first ones of their object."""
    first = np.zeros(len(best), bool)
    places = np.flatnonzero(hits)
    first[places[np.unique(best[places], return_index=True)[1]]] = True
    return first


def _average_precision(right: np.ndarray, objects: int, eleven_points: bool) -> float:
    found = np.cumsum(right)
    recall = np.concatenate([[0.0], found / objects, [1.0]])
    precision = np.concatenate([[0.0], found / np.arange(1, len(found) + 1), [0.0]])
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    if eleven_points:
        points = np.arange(11) / 10  # of linspace some are above a recall that is equal
        at_points = [best[1:-1][recall[1:-1] >= point].max(initial=0.0) for point in points]
        return float(np.mean(at_points))
    return float(np.sum(np.diff(recall) * best[1:]))
