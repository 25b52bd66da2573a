"""Effective dilation by object size: which box a filter is on, and the statistics of each class."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dcn_backbones.analysis import (
    DilationBySize,
    dilation_by_size,
    effective_dilation,
    exchange_boxes,
    format_above_background,
    format_dilation,
    read_annotations,
)
from dcn_backbones.analysis.annotations import network_input
from dcn_backbones.analysis.dilation_table import object_classes

SMALL, MEDIUM, LARGE, BACKGROUND, LEFT_OUT = 0, 1, 2, 3, -1


def centres(height: int, width: int, stride: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], dim=-1).double() * stride


def test_a_filter_is_on_the_smallest_box_around_its_centre():
    boxes = torch.tensor(
        [[0.0, 0, 300, 300], [0, 0, 100, 96], [0, 0, 96, 96], [0, 0, 224, 224]], dtype=torch.float64
    )
    none = torch.zeros(0, 4, dtype=torch.float64)
    classes = object_classes(centres(20, 30, 16), boxes, none)
    assert classes[0, 0] == SMALL and classes[5, 5] == SMALL  # 80, of a box of exactly 96x96
    assert classes[5, 6] == MEDIUM and classes[6, 5] == MEDIUM
    assert classes[13, 13] == MEDIUM and classes[14, 13] == LARGE and classes[13, 14] == LARGE
    assert classes[18, 18] == LARGE and classes[19, 18] == BACKGROUND and classes[18, 19] == BACKGROUND
    assert (object_classes(centres(2, 2, 16), none, none) == BACKGROUND).all()


def test_x_is_not_y():
    boxes = torch.tensor([[0.0, 0, 64, 32]], dtype=torch.float64)
    classes = object_classes(centres(6, 6, 16), boxes, boxes[:0])
    assert (classes == SMALL).sum() == 4 * 2 and classes[0, 3] == SMALL and classes[3, 0] == BACKGROUND


def test_crowds_and_difficult_objects_are_left_out():
    boxes = torch.tensor([[0.0, 0, 32, 32]], dtype=torch.float64)
    classes = object_classes(centres(4, 4, 16), boxes, torch.tensor([[0.0, 0, 64, 16]], dtype=torch.float64))
    assert classes[0].tolist() == [SMALL, SMALL, LEFT_OUT, LEFT_OUT] and classes[2, 2] == BACKGROUND


@pytest.fixture
def coco(tmp_path):
    """Two photographs of 96x64, one of them in a folder as VOC's are, and boxes in the first."""
    (tmp_path / "val").mkdir()
    generator = np.random.default_rng(0)
    for path in (tmp_path / "a.png", tmp_path / "val" / "b.png"):
        Image.fromarray(generator.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(path)
    images = [{"id": 7, "file_name": "a.png", "width": 96, "height": 64}, {"id": 3, "file_name": "b.png", "width": 96, "height": 64}]  # noqa: E501  # fmt: skip
    annotations = [
        {"image_id": 7, "bbox": [0, 0, 40, 32], "iscrowd": 0, "ignore": 0},
        {"image_id": 7, "bbox": [60, 0, 36, 64], "iscrowd": 0, "ignore": 1},
        {"image_id": 3, "bbox": [0, 0, 90, 60], "iscrowd": 1},
    ]
    path = tmp_path / "instances_val.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return path


def test_annotations_are_read(coco):
    first, second = read_annotations(coco)
    assert first.path.name == "a.png" and first.size == (96, 64)
    assert first.boxes.tolist() == [[0, 0, 40, 32]] and first.left_out.tolist() == [[60, 0, 96, 64]]
    assert second.path.parent.name == "val" and len(second.boxes) == 0 and len(second.left_out) == 1


def test_exchanged_boxes_are_those_of_the_next_image_in_its_size(coco):
    first, second = read_annotations(coco)
    exchanged = exchange_boxes([first, replace(second, size=(48, 128))])
    assert [image.path for image in exchanged] == [first.path, second.path]
    assert exchanged[1].boxes.tolist() == [[0, 0, 20, 64]] and len(exchanged[0].boxes) == 0
    assert exchanged[0].left_out.tolist() == [[0, 0, 180, 30]]


def test_boxes_grow_with_the_image(coco, make_network):
    first, _ = read_annotations(coco)
    image, boxes, left_out = network_input(make_network(), first, short_side=128)
    assert image.shape == (1, 3, 128, 192)
    assert boxes.tolist() == [[0, 0, 80, 64]] and left_out.tolist() == [[120, 0, 192, 128]]
    assert network_input(make_network(), first)[0].shape == (1, 3, 64, 96)


def test_statistics_of_each_class(coco, make_network):
    model = make_network()
    torch.nn.init.normal_(model.layer2[1].conv1.conv_offset.weight, std=0.2)
    images = read_annotations(coco)
    found = {entry.layer: entry for entry in dilation_by_size(model, images)}["layer2.1.conv1"]
    values = {SMALL: [], BACKGROUND: []}
    for annotated in images:
        image, boxes, left_out = network_input(model, annotated)
        entry = effective_dilation(model, image)[2]
        for y, row in enumerate(entry.values[..., 0].tolist()):
            for x, value in enumerate(row):
                column, line = 8 * x + 0.5, 8 * y + 0.5
                inside = [any(b[0] <= column < b[2] and b[1] <= line < b[3] for b in group.tolist()) for group in (boxes, left_out)]  # noqa: E501  # fmt: skip
                if inside[0] or not inside[1]:
                    values[SMALL if inside[0] else BACKGROUND].append(value)
    for index, members in values.items():
        assert found.count[index] == len(members) > 10
        assert float(found.mean[index]) == pytest.approx(np.mean(members), rel=1e-9)
        assert float(found.std[index]) == pytest.approx(np.std(members), rel=1e-6)
    assert found.std[SMALL] > 0 and found.count[[MEDIUM, LARGE]].tolist() == [0, 0]
    assert found.mean[LARGE].isnan() and found.image_means.shape == (2, 4)
    mean, error, number = found.above_background()
    assert number.tolist() == [1, 0, 0] and error[0].isnan()
    assert mean[0] == found.image_means[0, SMALL] - found.image_means[0, BACKGROUND]
    assert format_above_background([found]).splitlines()[1].split()[:2] == [
        "layer2.1.conv1",
        f"{mean[0]:+.3f}",
    ]


def test_objects_are_compared_with_the_background_of_their_image():
    image_means = torch.tensor(
        [[1.0, 9, 9, 3], [2, 9, 9, 3], [5, float("nan"), 9, 3], [7, 9, 9, float("nan")]]
    )
    entry = DilationBySize("a", *(torch.zeros(4),) * 3, image_means.double())
    mean, error, number = entry.above_background()
    assert number.tolist() == [3, 2, 3] and mean.tolist() == [pytest.approx(-1 / 3), 6, 6]
    assert error.tolist() == [pytest.approx(np.std([-2, -1, 2], ddof=1) / 3**0.5), 0, 0]


def test_without_offsets_everything_is_one(coco, make_network):
    table = dilation_by_size(make_network(), read_annotations(coco))
    assert len(table) == 12
    for entry in table:
        assert entry.mean[SMALL] == entry.mean[BACKGROUND] == 1 and entry.std[SMALL] == 0
    lines = format_dilation(table).splitlines()
    assert lines[0].split() == ["layer", "small", "medium", "large", "background"]
    assert lines[1].startswith("layer2.0.conv1   1.00 +- 0.00") and lines[1].endswith("1.00 +- 0.00")
    assert len(lines) == 14 and lines[-1].startswith("filters")


def test_errors(tmp_path, coco, make_network):
    with pytest.raises(FileNotFoundError, match="none.json is not a file; expected a COCO JSON"):
        read_annotations(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="other.json is not in COCO's format"):
        read_annotations(tmp_path / "other.json")
    for wrong in (
        {"bbox": [0, 0, 5]},
        {"bbox": [0, 0, 5, float("nan")]},
        {"bbox": [0, 0, -5, 5]},
        {"image_id": [7]},
    ):
        content = json.loads(coco.read_text())
        content["annotations"][0] |= wrong
        (tmp_path / "other.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="other.json is not in COCO's format"):
            read_annotations(tmp_path / "other.json")
    for wrong in ({"id": [7]}, {"width": "wide"}, {"height": 0}):
        content = json.loads(coco.read_text())
        content["images"][0] |= wrong
        (tmp_path / "other.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="other.json is not in COCO's format"):
            read_annotations(tmp_path / "other.json")
    resized = replace(read_annotations(coco)[0], size=(192, 128))
    with pytest.raises(ValueError, match="a.png has 96x64 pixels; expected the 192x128 that its boxes are"):
        dilation_by_size(make_network(), [resized])
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="a.png is neither in"):
        read_annotations(coco)
    with pytest.raises(ValueError, match="there are no images"):
        dilation_by_size(make_network(), [])


def test_on_voc(shared_data, make_network):
    images = read_annotations(shared_data("voc07-subset") / "instances_test.json")
    assert len(images) == 400 and sum(len(image.boxes) for image in images) == 1008
    table = dilation_by_size(make_network(), images[:2], short_side=64)
    assert table[0].count.sum() > 0 and table[0].mean[BACKGROUND] == 1
