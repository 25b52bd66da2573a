from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from train.detection.annotations import Annotations, read_annotations
from train.detection.coco_evaluation import coco_average_precision
from train.detection.data import DetectionSource, create_val_loader
from train.detection.evaluation import evaluate_detector
from train.detection.voc_evaluation import voc_average_precision
from train.distribution import World


def annotated(*objects, categories=("a",)) -> Annotations:
    """Objects (image, category, box[, difficult, crowd]) on images of 100x100 pixels."""
    images = sorted({1, 2} | {one[0] for one in objects})
    boxes = {image: [] for image in images}
    for number, (image, category, box, *flags) in enumerate(objects, start=1):
        difficult, crowd = (*flags, 0, 0)[:2]
        record = {"id": number, "image_id": image, "category_id": category, "bbox": box}
        boxes[image].append({**record, "area": box[2] * box[3], "iscrowd": crowd, "difficult": difficult})
    sizes = [{"id": image, "file_name": "", "width": 100, "height": 100} for image in images]
    return Annotations(None, None, sizes, boxes, list(range(1, len(categories) + 1)), list(categories))


def detected(*found):
    keys = ("image_id", "category_id", "bbox", "score")
    return [dict(zip(keys, one, strict=True)) for one in found]


BOX, FAR = [10, 10, 20, 20], [60, 60, 20, 20]
THREE_QUARTERS = [10, 10, 20, 15]  # IoU 0.75 with BOX


def test_average_precision_by_hand():
    """Two objects; found by falling score: a right one, a wrong one, a right one of IoU 0.75."""
    truth = annotated((1, 1, BOX), (2, 1, BOX))
    results = detected((1, 1, BOX, 0.9), (1, 1, FAR, 0.8), (2, 1, THREE_QUARTERS, 0.7))
    # Precision is 1 up to recall 0.5 and 2/3 up to 1; area, 11 points and COCO's 101 points (51 and 50).
    assert voc_average_precision(truth, results, [1, 2], 0.5) == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))
    assert voc_average_precision(truth, results, [1, 2], 0.5, True) == pytest.approx(
        100 * (6 + 5 * 2 / 3) / 11
    )
    assert voc_average_precision(truth, results, [1, 2], 0.8) == pytest.approx(50)
    measured = coco_average_precision(truth, results, [1, 2])
    at_50, beyond = 100 * (51 + 50 * 2 / 3) / 101, 100 * 51 / 101
    assert measured["AP50"] == pytest.approx(at_50) and measured["AP75"] == pytest.approx(at_50)
    assert measured["AP"] == pytest.approx(
        (6 * at_50 + 4 * beyond) / 10
    )  # six of the ten IoUs are up to 0.75
    assert measured["AP_small"] == measured["AP"] and "AP_large" not in measured


def test_second_detection_of_an_object_is_wrong():
    truth = annotated((1, 1, BOX), (2, 1, BOX))
    results = detected((1, 1, BOX, 0.9), (1, 1, THREE_QUARTERS, 0.8), (2, 1, BOX, 0.7))
    assert voc_average_precision(truth, results, [1, 2], 0.5) == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))


@pytest.mark.parametrize("flags", [(1, 0), (0, 1)], ids=["difficult", "crowd"])
def test_difficult_objects_and_crowds_are_neither_right_nor_wrong(flags):
    truth = annotated((1, 1, BOX), (1, 1, FAR, *flags))
    results = detected((1, 1, FAR, 0.9), (1, 1, BOX, 0.8))
    for found in (results, results[1:]):  # with it and without it
        assert voc_average_precision(truth, found, [1, 2], 0.5) == pytest.approx(100)
        assert coco_average_precision(truth, found, [1, 2])["AP"] == pytest.approx(100)
    other_truth = annotated((1, 1, BOX), (1, 1, FAR)), annotated((1, 1, BOX))
    for truth, found in zip(other_truth, (results[1:], results), strict=True):
        assert voc_average_precision(truth, found, [1, 2], 0.5) == pytest.approx(50)
        assert coco_average_precision(truth, found, [1, 2])["AP"] < 60


def test_object_of_id_zero_counts():
    truth = annotated((1, 1, BOX))
    truth.boxes[1][0]["id"] = 0
    assert coco_average_precision(truth, detected((1, 1, BOX, 0.9)), [1, 2])["AP"] == pytest.approx(100)


def test_nothing_found_is_zero():
    truth = annotated((1, 1, BOX))
    assert voc_average_precision(truth, [], [1, 2], 0.5) == 0
    assert coco_average_precision(truth, [], [1, 2])["AP"] == 0


def test_category_without_objects_does_not_count():
    truth = annotated((1, 1, BOX), categories=("a", "b"))
    results = detected((1, 1, BOX, 0.9), (1, 2, BOX, 0.9))
    assert voc_average_precision(truth, results, [1, 2], 0.5) == pytest.approx(100)
    assert coco_average_precision(truth, results, [1, 2])["AP"] == pytest.approx(100)


def scalar_iou(one, other):
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    return common / (one[2] * one[3] + other[2] * other[3] - common)


def scalar_average_precision(truth, results, iou, eleven_points):
    """The development kit's loop, a detection at a time."""
    values = []
    for category in truth.category_ids:
        objects = {
            i: [box for box in boxes if box["category_id"] == category] for i, boxes in truth.boxes.items()
        }
        total = sum(not box["difficult"] for boxes in objects.values() for box in boxes)
        if total == 0:
            continue
        taken, outcomes = set(), []
        own = [result for result in results if result["category_id"] == category]
        for result in sorted(own, key=lambda result: -result["score"]):
            best, match = -1.0, None
            for box in objects[result["image_id"]]:
                overlap = scalar_iou(result["bbox"], box["bbox"])
                if overlap > best:
                    best, match = overlap, box
            if best < iou:
                outcomes.append(False)
            elif not match["difficult"]:
                outcomes.append(match["id"] not in taken)
                taken.add(match["id"])
        curve = [
            (sum(outcomes[: n + 1]) / total, sum(outcomes[: n + 1]) / (n + 1)) for n in range(len(outcomes))
        ]
        if eleven_points:
            values.append(sum(max((p for r, p in curve if r >= t / 10), default=0) for t in range(11)) / 11)
            continue
        area, reached = 0.0, 0.0
        for recall, _ in curve:
            area += (recall - reached) * max(p for r, p in curve if r >= recall)
            reached = recall
        values.append(area)
    return 100 * sum(values) / len(values)


@pytest.mark.parametrize("eleven_points", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_voc_average_precision_is_that_of_the_loop(seed, eleven_points):
    numbers = np.random.default_rng(seed)

    def box(near=None):
        if near is None:
            return [*map(float, numbers.uniform(0, 50, 2)), *map(float, numbers.uniform(10, 40, 2))]
        return [float(value + numbers.normal(0, 2)) for value in near]

    objects = [
        (int(numbers.integers(1, 7)), int(numbers.integers(1, 4)), box(), int(numbers.random() < 0.2))
        for _ in range(40)
    ]
    truth = annotated(*objects, categories=("a", "b", "c"))
    scores = iter(numbers.permutation(160) / 160)
    results = detected(
        *[
            (image, category, box(place), float(next(scores)))
            for image, category, place, _ in objects
            for _ in range(3)
        ]
    )
    results += detected(
        *[
            (int(numbers.integers(1, 7)), int(numbers.integers(1, 4)), box(), float(next(scores)))
            for _ in range(40)
        ]
    )
    for iou in (0.5, 0.7):
        expected = scalar_average_precision(truth, results, iou, eleven_points)
        found = voc_average_precision(truth, results, list(truth.boxes), iou, eleven_points)
        assert found == pytest.approx(expected) and 5 < found < 95


class KnowsAll(nn.Module):
    """What a perfect detector of these images returns, in torchvision's format; image by image, in order."""

    def __init__(self, source: DetectionSource) -> None:
        super().__init__()
        self.targets = iter([source[index][1] for index in range(len(source))])
        self.roi_heads = SimpleNamespace(has_mask=lambda: True)

    def forward(self, images):
        assert len(images) == 1
        target = next(self.targets)
        masks = 0.9 * target["masks"].float()[:, None]
        return [{**target, "scores": torch.ones(len(target["labels"])), "masks": masks}]


def test_perfect_detections_have_all_of_every_average_precision(rectangles, detection_recipe):
    annotations = read_annotations(rectangles / "train.json", rectangles / "train", masks=True)
    source = DetectionSource(annotations, masks=True)
    loader = create_val_loader(detection_recipe(), source)
    measured = evaluate_detector(KnowsAll(source), loader, annotations, World())
    assert measured.pop("images") == 9 and measured.pop("images_per_second") > 0
    assert {"AP", "AP_medium", "mask_AP", "mask_AP75", "voc_AP50", "voc07_AP70"} <= measured.keys()
    assert list(measured.values()) == pytest.approx([100] * len(measured))


def test_damaged_images_are_left_out_of_what_is_measured(rectangles, detection_recipe, caplog):
    annotations = read_annotations(rectangles / "train.json", rectangles / "train", masks=True)
    source = DetectionSource(annotations, masks=True)
    detector = KnowsAll(source)
    last = rectangles / "train" / "8.png"
    last.write_bytes(last.read_bytes()[:60])
    loader = create_val_loader(detection_recipe(), source)
    measured = evaluate_detector(detector, loader, annotations, World(), max_damaged=1)
    assert measured["images"] == 8 and measured["AP"] == pytest.approx(100) and "image 18 (" in caplog.text
