import re

import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from train.data.sources import DamagedImageError
from train.detection.annotations import read_annotations
from train.detection.data import DetectionSource, create_train_loader, create_val_loader, decode_mask

SIZES = [48, 64, 96]


@pytest.fixture
def source(rectangles):
    return DetectionSource(read_annotations(rectangles / "train.json", rectangles / "train"), masks=True)


def train_batches(recipe, source, rank=0, world_size=1, epoch=1, first_batch=0):
    recipe.min_size = SIZES
    loader = create_train_loader(recipe, source, rank, world_size)
    loader.set_epoch(epoch, first_batch)
    return list(loader)


def assert_same_batches(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.seed == other.seed
        assert all(torch.equal(*images) for images in zip(one.images, other.images, strict=True))
        for targets in zip(one.targets, other.targets, strict=True):
            assert all(torch.equal(targets[0][key], targets[1][key]) for key in targets[1])


def test_batches_do_not_depend_on_workers_or_on_where_they_begin(detection_recipe, source):
    expected = train_batches(detection_recipe(), source)
    assert_same_batches(train_batches(detection_recipe(workers=2), source), expected)
    assert_same_batches(train_batches(detection_recipe(), source, first_batch=2), expected[2:])
    other = train_batches(detection_recipe(), source, epoch=2)
    assert [batch.seed for batch in other] != [batch.seed for batch in expected]


def test_two_processes_see_what_one_sees(detection_recipe, source):
    expected = train_batches(detection_recipe(), source)
    shares = [train_batches(detection_recipe(), source, rank, 2) for rank in range(2)]
    together = [batch for pair in zip(*shares, strict=True) for batch in pair]
    assert_same_batches(together, expected)


def test_boxes_and_masks_follow_flips_and_sizes(detection_recipe, source):
    batches = [
        batch for epoch in range(3) for batch in train_batches(detection_recipe(), source, epoch=epoch)
    ]
    colours = {1: 0, 2: 2}  # the channel in which a label's rectangle is bright
    sizes, seen = set(), 0
    for image, target in ((i, t) for batch in batches for i, t in zip(*batch[:2], strict=True)):
        sizes.add(image.shape[-1])
        assert target["masks"].shape[1:] == image.shape[1:] and target["masks"].dtype == torch.uint8
        if len(target["boxes"]) != 1:
            continue  # rectangles may hide each other
        left, top, right, bottom = target["boxes"][0].round().int().tolist()
        inside = torch.zeros(image.shape[1:], dtype=torch.bool)
        inside[top:bottom, left:right] = True
        bright = image[colours[int(target["labels"])]] > 0.64  # 0.5 outside, 0.78 inside
        for area in (bright, target["masks"][0].bool()):
            overlap = (inside & area).sum() / (inside | area).sum()
            assert overlap > 0.9
        seen += 1
    assert sizes == set(SIZES) and seen > 5


def test_images_without_objects_have_empty_targets(source):
    _, target = source[0]
    assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)
    assert target["labels"].dtype == torch.int64 and target["masks"].shape == (0, 64, 64)


def test_polygons_and_both_kinds_of_runs_are_the_same_mask():
    polygon = [[2, 1, 7, 1, 7, 5, 2, 5]]
    expected = np.zeros((6, 9), np.uint8)
    expected[1:5, 2:7] = 1
    compressed = rle.encode(np.asfortranarray(expected))
    flat = expected.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    for segmentation in (
        polygon,
        {"size": [6, 9], "counts": compressed["counts"].decode()},
        {"size": [6, 9], "counts": runs},
    ):
        assert (decode_mask(segmentation, 6, 9) == expected).all()


def test_every_image_is_measured_once_and_alone(detection_recipe, source):
    shares = [list(create_val_loader(detection_recipe(), source, rank, 2)) for rank in range(2)]
    assert [len(batch.images) for share in shares for batch in share] == [1] * 9
    ids = [image for share in shares for batch in share for image in batch.targets]
    assert ids == [image["id"] for image in source.annotations.images]


def test_damage_behind_the_header_is_replaced_up_to_the_limit(detection_recipe, rectangles, source, caplog):
    image = rectangles / "train" / "4.png"
    image.write_bytes(image.read_bytes()[:60])
    batches = train_batches(detection_recipe(), source)
    assert all(len(batch.images) == 2 for batch in batches)
    assert "image 14 (" in caplog.text and "(1 of at most 10)" in caplog.text
    with pytest.raises(DamagedImageError, match="1 damaged images, expected at most 0"):
        train_batches(detection_recipe(max_damaged=0), source)


def test_a_damaged_mask_is_told_by_its_annotation_and_not_as_a_damaged_image(
    detection_recipe, annotations_file, caplog
):
    runs = {"size": [64, 64], "counts": "damaged"}
    file = annotations_file(lambda content: content["annotations"][0].update(segmentation=runs))
    source = DetectionSource(read_annotations(file, file.parent / "train", masks=True), masks=True)
    message = f"annotation 1 of {file} (image 11) has a segmentation that cannot be decoded"
    with pytest.raises(DamagedImageError, match=re.escape(message)):
        source[1]
    train_batches(detection_recipe(workers=1), source)
    (record,) = caplog.records
    assert record.getMessage().startswith(message) and "(1 of at most 10)" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert DetectionSource(source.annotations, masks=False)[1][1]["labels"].tolist()
