"""Detections as pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcn_backbones.detection import check_picture, detect, draw_detections, save_picture
from dcn_backbones.detection.visualize import category_colour

from .conftest import small_mask_rcnn

NAMES = ["cat", "dog", "rocket"]


@pytest.fixture
def image() -> Image.Image:
    return Image.new("RGB", (200, 120), "white")


@pytest.fixture
def found() -> dict[str, torch.Tensor]:
    """A rocket with a mask of its left half."""
    masks = torch.zeros(1, 1, 120, 200)
    masks[:, :, 40:100, 60:100] = 0.9
    return {
        "boxes": torch.tensor([[60.0, 40, 140, 100]]),
        "labels": torch.tensor([3]),
        "scores": torch.tensor([0.87]),
        "masks": masks,
    }


def test_boxes_and_masks_are_where_they_were_found(image, found):
    drawn = np.asarray(draw_detections(image, found, NAMES)).astype(int)
    colour = np.array(category_colour(3))
    assert (drawn[70, 60] == colour).all() and (drawn[99, 120] == colour).all()
    assert abs(drawn[70, 80] - (255 + colour) / 2).max() <= 2
    assert (drawn[70, 120] == 255).all() and (drawn[110] == 255).all()
    assert (np.asarray(image) == 255).all()


def test_words_stand_above_the_box(image, found):
    del found["masks"]
    drawn = np.asarray(draw_detections(image, found, NAMES)).astype(int)
    above = drawn[20:39, 60:150]
    assert (above.max(-1) < 80).sum() > 30 and (drawn[:20] == 255).all()
    shorter = np.asarray(draw_detections(image, {**found, "labels": torch.tensor([1])}, NAMES)).astype(int)
    assert (shorter[20:39] == 255).all(-1).sum() > (drawn[20:39] == 255).all(-1).sum()


def test_words_grow_with_the_photograph(found):
    heights = []
    for size in (200, 2000):
        drawn = draw_detections(
            Image.new("RGB", (size, size), "white"),
            {
                **{name: values for name, values in found.items() if name != "masks"},
                "boxes": torch.tensor([[0.25, 0.5, 0.75, 0.8]]) * size,
            },
            NAMES,
        )
        rows = (np.asarray(drawn)[: size // 2 - 1] != 255).any((1, 2))
        heights.append(rows.sum())
    assert heights[1] > 3 * heights[0]


def test_words_stay_inside_the_photograph(image, found):
    del found["masks"]
    drawn = [
        np.asarray(draw_detections(image, {**found, "boxes": torch.tensor([box])}, NAMES)).astype(int)
        for box in ([60.0, 40, 140, 100], [190.0, 2, 199, 100])
    ]
    inside, at_the_corner = ((pixels.max(-1) < 80).sum() for pixels in drawn)
    assert at_the_corner == pytest.approx(inside, rel=0.1)


@pytest.mark.parametrize("label, names", [(3, NAMES[:2]), (0, NAMES)])
def test_a_label_without_a_name_is_one_sentence(image, found, label, names):
    message = f"label {label}, but there are names for 1 to {len(names)}"
    with pytest.raises(ValueError, match=message):
        draw_detections(image, {**found, "labels": torch.tensor([label])}, names)


def test_nothing_found_draws_nothing(image, found):
    none = {name: values[:0] for name, values in found.items()}
    drawn = draw_detections(image, none, NAMES)
    assert drawn is not image and (np.asarray(drawn) == 255).all()


def test_neighbouring_labels_differ():
    colours = np.array([category_colour(label) for label in range(1, 21)])
    assert all(abs(first - second).sum() > 150 for first, second in zip(colours, colours[1:], strict=False))


def test_detect_gives_positions_on_the_photograph_above_the_threshold(image):
    detector = small_mask_rcnn(backbone="resnet18", box_pool="align")().eval()
    everything = detect(detector, image, 0)
    assert len(everything["boxes"]) > 3 and everything["masks"].shape[1:] == (1, 120, 200)
    assert everything["boxes"][:, 0::2].max() > 100 and everything["boxes"].amax(0)[3] <= 120
    middle = everything["scores"].median().item()
    sure = detect(detector, image, middle)
    assert 0 < len(sure["boxes"]) < len(everything["boxes"])
    assert sure["scores"].min() >= middle and len(sure["masks"]) == len(sure["boxes"])


@pytest.mark.parametrize("name", ["picture.png", "picture.JPG"])
def test_saved_whole(image, tmp_path, name):
    save_picture(image, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    with Image.open(tmp_path / name) as saved:
        assert saved.size == image.size


@pytest.mark.parametrize(
    "name, message",
    [
        ("a.xyz", "a.xyz does not end in"),
        ("a.psd", "a.psd does not end in"),  # Pillow reads these only
        ("absent/a.png", "absent is not a folder"),
    ],
)
def test_a_picture_that_cannot_be_written(tmp_path, name, message):
    with pytest.raises((ValueError, OSError), match=message):
        check_picture(tmp_path / Path(name))
