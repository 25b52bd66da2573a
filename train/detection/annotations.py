"""COCO annotations as they are trained on and measured with: read from a file, checked, counted from 1."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.detection.annotation_checks import (
    check_annotations,
    check_image_files,
    check_tables,
    usable_annotations,
)


@dataclass(frozen=True)
class Annotations:
    """The annotated images of one file.

    Attributes:
        file: The COCO JSON.
        folder: Of the images.
        images: COCO's records, in the order of the file.
        boxes: COCO's records of the objects by the image's id, with `area`, `iscrowd` and `difficult`.
        category_ids: COCO's ids in ascending order; a detector's label 1 is the first one.
        categories: Their names, in the same order.
    """

    file: Path
    folder: Path
    images: list[dict[str, Any]]
    boxes: dict[int, list[dict[str, Any]]]
    category_ids: list[int]
    categories: list[str]

    def training_boxes(self, image_id: int) -> list[dict[str, Any]]:
        """The objects of an image without crowd regions and difficult ones."""
        return [box for box in self.boxes[image_id] if not (box["iscrowd"] or box["difficult"])]

    def label(self, category_id: int) -> int:
        """The detector's label of a category."""
        return self.category_ids.index(category_id) + 1


def read_annotations(file: Path, folder: Path, masks: bool = False, max_bad_boxes: int = 0) -> Annotations:
    """Read a COCO JSON whose images are in `folder`; without `masks` it may lack segmentations.

    `ignore: 1` marks difficult objects, `iscrowd: 1` regions of many. Up to `max_bad_boxes` boxes without
    area or outside of their image are named and left out, and with `masks` segmentations that are none.

    Raises ValueError, in one sentence with the file and the id, for anything that cannot be trained on.
    """
    content = _read_json(file)
    check_tables(file, content)
    images = {image["id"]: image for image in content["images"]}
    check_annotations(file, content, images, masks)
    check_image_files(file, folder, content["images"])
    boxes: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in images}
    for annotation in usable_annotations(file, content["annotations"], images, masks, max_bad_boxes):
        boxes[annotation["image_id"]].append(_completed(annotation))
    names = {category["id"]: category["name"] for category in content["categories"]}
    ids = sorted(names)
    return Annotations(file, folder, content["images"], boxes, ids, [names[number] for number in ids])


def check_categories(file: Path, found: Sequence[str], expected: Sequence[str], owner: str) -> None:
    """Raise ValueError unless an annotation file has the categories that something else has, in order."""
    if list(found) == list(expected):
        return
    unknown = [name for name in found if name not in expected]
    missing = [name for name in expected if name not in found]
    raise ValueError(
        f"{file} has {len(found)} categories, expected the {len(expected)} of {owner} in the same order: "
        f"{unknown[:3]} are unknown there, {missing[:3]} missing here"
    )


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"annotation file {file} does not exist, expected COCO JSON")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON, or of bytes that are no text
        raise ValueError(f"annotation file {file} is no JSON: {error}") from error


def _completed(annotation: dict[str, Any]) -> dict[str, Any]:
    """The record with all that COCO's evaluation asks for, which has its own use for the key `ignore`."""
    x, y, width, height = annotation["bbox"]
    return {
        "area": width * height,
        **annotation,
        "iscrowd": int(annotation.get("iscrowd", 0)),
        "difficult": int(annotation.get("ignore", 0)),
    }
