"""COCO's average precision, by pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from train.detection.annotations import Annotations

# Of COCOeval's twelve figures the six that the papers report, in its order.
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


class _Evaluation(COCOeval):
    """COCO's evaluation, to which difficult objects are neither right nor wrong."""

    def _prepare(self) -> None:
        super()._prepare()  # sets `ignore` from `iscrowd` alone
        for objects in self._gts.values():
            for one in objects:
                one["ignore"] = one["ignore"] or one["difficult"]


def coco_average_precision(
    annotations: Annotations, results: list[dict[str, Any]], image_ids: Sequence[int], kind: str = "bbox"
) -> dict[str, float]:
    """Average precision in percent over IoU 0.5 to 0.95, at 0.5, at 0.75, and of objects by size.

    `results` are in COCO's format, on the images `image_ids`; `kind` is `bbox` or `segm`. A size that no
    object has is left out.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # tables and times
        truth = COCO()
        truth.dataset = _dataset(annotations)
        truth.createIndex()
        evaluation = _Evaluation(truth, _detections(truth, results, kind), kind)
        evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: 100 * float(value)
        for name, value in zip(NAMES, evaluation.stats[: len(NAMES)], strict=True)
        if value >= 0  # -1: there is nothing to be found
    }


def _dataset(annotations: Annotations) -> dict[str, Any]:
    categories = zip(annotations.category_ids, annotations.categories, strict=True)
    objects = (box for boxes in annotations.boxes.values() for box in boxes)
    return {
        "info": {},
        "images": annotations.images,
        # COCOeval takes the id 0, with which some tools begin, for "matches nothing".
        "annotations": [{**box, "id": number} for number, box in enumerate(objects, start=1)],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }


def _detections(truth: COCO, results: list[dict[str, Any]], kind: str) -> COCO:
    other = {"bbox": "segmentation", "segm": "bbox"}[kind]  # loadRes would take areas from boxes
    if results:
        return truth.loadRes([{key: result[key] for key in result if key != other} for result in results])
    nothing = COCO()  # loadRes takes no empty list
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing
