"""What can be wrong with COCO annotations, each in one sentence with the file and the id, before training."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from train.data.sources import describe_damage

_logger = logging.getLogger(__name__)

KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
# COCO's own boxes reach up to a rounding beyond the edge; they are clipped.
TOLERANCE = 1.0  # pixels


def check_tables(file: Path, content: Any) -> None:
    """Raise ValueError unless the three lists are there, with what is needed and with ids of their own."""
    for table, keys in KEYS.items():
        records = content.get(table) if isinstance(content, dict) else None
        if not isinstance(records, list):
            raise ValueError(f"annotation file {file} has no list of {table}, expected COCO JSON")
        for record in records:
            missing = [key for key in keys if not isinstance(record, dict) or key not in record]
            if missing:
                raise ValueError(f"{table} of {file} have the record {str(record)[:80]} without {missing[0]}")
        _check_ids(file, table, [record["id"] for record in records])
    for table in ("images", "categories"):
        if not content[table]:
            raise ValueError(f"annotation file {file} has no {table}, expected at least one")


def _check_ids(file: Path, table: str, ids: list[Any]) -> None:
    seen = set()
    for number in ids:
        if not isinstance(number, int):
            raise ValueError(f"{table} of {file} have the id {number!r}, expected a whole number")
        if number in seen:
            raise ValueError(f"{table} of {file} have the id {number} twice, expected an id for each")
        seen.add(number)


def check_annotations(
    file: Path, content: dict[str, Any], images: dict[int, dict[str, Any]], masks: bool
) -> None:
    """Raise ValueError for an annotation of an unknown image or category, or without its segmentation."""
    categories = {category["id"] for category in content["categories"]}
    for annotation in content["annotations"]:
        name = f"annotation {annotation['id']} of {file}"
        if annotation["image_id"] not in images:
            raise ValueError(f"{name} is of image {annotation['image_id']}, which is not among its images")
        if annotation["category_id"] not in categories:
            raise ValueError(
                f"{name} is of category {annotation['category_id']}, which is not among its categories"
            )
        if masks and not annotation.get("segmentation"):
            raise ValueError(f"{name} has no segmentation, expected one for a detector with masks")


def check_image_files(file: Path, folder: Path, images: list[dict[str, Any]]) -> None:
    """Raise ValueError for an image that is missing, cannot be opened, or has another size than it should.

    Only headers are read: damage behind them shows in training, up to the recipe's limit.
    """
    if not folder.is_dir():
        raise ValueError(f"image folder {folder} of {file} does not exist")
    missing = [image for image in images if not (folder / image["file_name"]).is_file()]
    if missing:
        raise ValueError(
            f"image {missing[0]['id']} of {file} is missing: {folder / missing[0]['file_name']} does not "
            f"exist ({len(missing)} of {len(images)} images)"
        )
    for image in tqdm(images, desc="checking images", disable=None, leave=False):
        _check_header(file, folder / image["file_name"], image)


def _check_header(file: Path, path: Path, image: dict[str, Any]) -> None:
    try:
        with Image.open(path) as opened:
            size = opened.size
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and others
        reason = ValueError("the file is empty") if path.stat().st_size == 0 else error
        raise ValueError(describe_damage(f"{image['id']} of {file} ({path})", reason)) from error
    if size != (image["width"], image["height"]):
        raise ValueError(
            f"image {image['id']} of {file} is {size[0]}x{size[1]} pixels ({path}), expected "
            f"{image['width']}x{image['height']} as the file says"
        )


def usable_boxes(
    file: Path, annotations: list[dict[str, Any]], images: dict[int, dict[str, Any]], limit: int
) -> Iterator[dict[str, Any]]:
    """The annotations, boxes clipped to their images; raises ValueError for more than `limit` bad ones."""
    bad = 0
    for annotation in annotations:
        image = images[annotation["image_id"]]
        problem = _box_problem(annotation["bbox"], image["width"], image["height"])
        if not problem:
            yield {**annotation, "bbox": _clipped(annotation["bbox"], image["width"], image["height"])}
            continue
        bad += 1
        message = f"annotation {annotation['id']} of {file} (image {image['id']}) {problem}"
        if bad > limit:
            raise ValueError(f"{message}; max_bad_boxes={limit} allows no more such boxes")
        _logger.warning("%s; it is left out (%d of at most %d)", message, bad, limit)


def _box_problem(box: Any, width: int, height: int) -> str:
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
        return f"has the box {box}, expected [x, y, width, height]"
    if not (box[2] > 0 and box[3] > 0):  # NaN too
        return f"has the box {box} of width {box[2]} and height {box[3]}, expected more than 0"
    right, bottom = box[0] + box[2], box[1] + box[3]
    beyond = max(-box[0], -box[1], right - width, bottom - height)
    clipped = _clipped(box, width, height)
    if not beyond <= TOLERANCE or min(clipped[2:]) <= 0:
        return f"has the box {box}, which reaches outside of its image of {width}x{height} pixels"
    return ""


def _clipped(box: list[float], width: int, height: int) -> list[float]:
    left, top = max(box[0], 0), max(box[1], 0)
    right, bottom = min(box[0] + box[2], width), min(box[1] + box[3], height)
    inside = (left, top, right, bottom) == (box[0], box[1], box[0] + box[2], box[1] + box[3])
    return list(box) if inside else [left, top, right - left, bottom - top]
