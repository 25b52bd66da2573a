"""What can be wrong with COCO annotations, each in one sentence with the file and the id, before training."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from train.data.sources import describe_damage

_logger = logging.getLogger(__name__)

KEYS = {
    "images": {"id": int, "file_name": str, "width": int, "height": int},
    "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": object},
    "categories": {"id": int, "name": str},
}
KINDS = {int: "a whole number", str: "a text"}
# COCO's own boxes reach up to a rounding beyond the edge; they are clipped.
TOLERANCE = 1.0  # pixels
# The corners of a narrower box may be one number in float32.
SMALLEST_SIDE = 0.01  # pixels


def check_tables(file: Path, content: Any) -> None:
    """Raise ValueError unless the three lists are there, with what is needed and with ids of their own."""
    for table, keys in KEYS.items():
        records = content.get(table) if isinstance(content, dict) else None
        if not isinstance(records, list):
            raise ValueError(f"annotation file {file} has no list of {table}, expected COCO JSON")
        for record in records:
            _check_record(f"{table} of {file} have", record, keys)
        _check_ids(file, table, [record["id"] for record in records])
    for table in ("images", "categories"):
        if not content[table]:
            raise ValueError(f"annotation file {file} has no {table}, expected at least one")


def _check_record(table: str, record: Any, keys: dict[str, type]) -> None:
    for key, kind in keys.items():
        if not isinstance(record, dict) or key not in record:
            raise ValueError(f"{table} the record {str(record)[:80]} without {key}")
        if not isinstance(record[key], kind):
            name = "" if key == "id" else f" in the record of id {record['id']}"
            raise ValueError(f"{table} the {key} {record[key]!r}{name}, expected {KINDS[kind]}")


def _check_ids(file: Path, table: str, ids: list[int]) -> None:
    seen = set()
    for number in ids:
        if number in seen:
            raise ValueError(f"{table} of {file} have the id {number} twice, expected an id for each")
        seen.add(number)


def check_annotations(
    file: Path, content: dict[str, Any], images: dict[int, dict[str, Any]], masks: bool
) -> None:
    """Raise ValueError for an annotation of an unknown image or category, or without a segmentation."""
    categories = {category["id"] for category in content["categories"]}
    for annotation in content["annotations"]:
        name = f"annotation {annotation['id']} of {file}"
        if annotation["image_id"] not in images:
            raise ValueError(f"{name} is of image {annotation['image_id']}, which is not among its images")
        if annotation["category_id"] not in categories:
            raise ValueError(
                f"{name} is of category {annotation['category_id']}, which is not among its categories"
            )
        for key in ("iscrowd", "ignore"):
            if annotation.get(key, 0) not in (0, 1):
                raise ValueError(f"{name} has {key} {annotation[key]!r}, expected 0 or 1")
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


def usable_annotations(
    file: Path, annotations: list[dict[str, Any]], images: dict[int, dict[str, Any]], masks: bool, limit: int
) -> Iterator[dict[str, Any]]:
    """The annotations, boxes clipped to their images; raises ValueError for more than `limit` bad ones."""
    bad = 0
    for annotation in annotations:
        image = images[annotation["image_id"]]
        problem = _box_problem(annotation["bbox"], image["width"], image["height"])
        if masks and not problem:
            problem = _segmentation_problem(annotation["segmentation"], [image["height"], image["width"]])
        if not problem:
            yield {**annotation, "bbox": _clipped(annotation["bbox"], image["width"], image["height"])}
            continue
        bad += 1
        message = f"annotation {annotation['id']} of {file} (image {image['id']}) {problem}"
        if bad > limit:
            raise ValueError(f"{message}; max_bad_boxes={limit} allows no more such")
        _logger.warning("%s; it is left out (%d of at most %d)", message, bad, limit)


def _box_problem(box: Any, width: int, height: int) -> str:
    if not isinstance(box, list) or len(box) != 4 or not _are_numbers(box):
        return f"has the box {box}, expected [x, y, width, height]"
    if min(box[2:]) <= 0:
        return f"has the box {box} of width {box[2]} and height {box[3]}, expected more than 0"
    right, bottom = box[0] + box[2], box[1] + box[3]
    beyond = max(-box[0], -box[1], right - width, bottom - height)
    clipped = _clipped(box, width, height)
    if beyond > TOLERANCE or min(clipped[2:]) <= 0:
        return f"has the box {box}, which reaches outside of its image of {width}x{height} pixels"
    if min(clipped[2:]) < SMALLEST_SIDE:
        return f"has the box {box}, narrower in its image than the expected {SMALLEST_SIDE} pixels"
    return ""


def _clipped(box: list[float], width: int, height: int) -> list[float]:
    left, top = max(box[0], 0), max(box[1], 0)
    right, bottom = min(box[0] + box[2], width), min(box[1] + box[3], height)
    inside = (left, top, right, bottom) == (box[0], box[1], box[0] + box[2], box[1] + box[3])
    return list(box) if inside else [left, top, right - left, bottom - top]


def _segmentation_problem(segmentation: Any, size: list[int]) -> str:
    """What is inside compressed runs shows only when they are decoded."""
    if isinstance(segmentation, list):
        fits = all(_is_polygon(part) for part in segmentation)
    else:
        fits = isinstance(segmentation, dict) and _are_runs(segmentation, size)
    if fits:
        return ""
    return (
        f"has the segmentation {str(segmentation)[:80]}, expected polygons [[x, y, x, y, x, y, ...], ...] or "
        f"runs of the image's size {size}"
    )


def _is_polygon(part: Any) -> bool:
    return isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 and _are_numbers(part)


def _are_runs(runs: dict[str, Any], size: list[int]) -> bool:
    counts = runs.get("counts")
    if isinstance(counts, list):
        fits = _are_numbers(counts) and min(counts, default=0) >= 0 and sum(counts) == math.prod(size)
    else:
        fits = isinstance(counts, str)
    return fits and runs.get("size") == size


def _are_numbers(values: list[Any]) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)
