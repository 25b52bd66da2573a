"""Images drawn by code, with their COCO annotations: red and blue rectangles on grey."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from train.detection.recipe import DetectionRecipe

SIDE = 64  # of an image, in pixels
COLOURS = {"red": (200, 40, 40), "blue": (40, 40, 200)}
CATEGORY_IDS = {"red": 3, "blue": 7}


def draw(folder: Path, name: str, count: int, seed: int, first_empty: bool = True) -> None:
    """`name.json` beside a folder `name` of images with one or two rectangles, the first one without any."""
    chosen = random.Random(seed)
    images, annotations = [], []
    (folder / name).mkdir(parents=True)
    for number in range(count):
        image = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
        images.append({"id": 10 + number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        for _ in range(0 if first_empty and number == 0 else chosen.choice([1, 2])):
            colour = chosen.choice(list(COLOURS))
            width, height = chosen.randint(20, 40), chosen.randint(20, 40)
            x, y = chosen.randint(0, SIDE - width), chosen.randint(0, SIDE - height)
            right, bottom = x + width, y + height
            ImageDraw.Draw(image).rectangle([x, y, right - 1, bottom - 1], fill=COLOURS[colour])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": images[-1]["id"],
                    "category_id": CATEGORY_IDS[colour],
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [[x, y, right, y, right, bottom, x, bottom]],
                }
            )
        image.save(folder / name / f"{number}.png")
    categories = [{"id": number, "name": colour} for colour, number in CATEGORY_IDS.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def rectangles(tmp_path: Path) -> Path:
    """`{train,val}.json` beside folders of 9 and 4 images."""
    draw(tmp_path / "data", "train", 9, seed=0)
    draw(tmp_path / "data", "val", 4, seed=1)
    return tmp_path / "data"


@pytest.fixture
def annotations_file(rectangles: Path) -> Callable[[Callable[[dict], Any]], Path]:
    """A function that changes the training annotations, in place or as the text it returns."""

    def change(edit: Callable[[dict], Any]) -> Path:
        file = rectangles / "train.json"
        content = json.loads(file.read_text())
        changed = edit(content)
        file.write_text(changed if isinstance(changed, str) else json.dumps(content))
        return file

    return change


@pytest.fixture
def detection_recipe(rectangles: Path) -> Callable[..., DetectionRecipe]:
    """A recipe of a few seconds on `rectangles`, a narrow DCNv2 network: 2 epochs of 2 steps of 4 images."""

    def make(**settings) -> DetectionRecipe:
        detector = {
            "backbone_args": {"channels": [8, 8, 16, 16], "zero_init_last": False},
            "anchor_sizes": [24, 40],
            "rpn_post_nms_top_n_train": 32,
            "rpn_post_nms_top_n_test": 32,
            "box_batch_size_per_image": 16,
            **settings.pop("detector_kwargs", {}),
        }
        defaults = {
            "backbone": "dcnv2_resnet18",
            "trainable_backbone_layers": 5,
            "box_pool": "align",
            "min_size": [SIDE],
            "max_size": 2 * SIDE,
            "detector_kwargs": detector,
            "data_dir": str(rectangles),
            "train_annotations": "train.json",
            "train_images": "train",
            "val_annotations": "val.json",
            "val_images": "val",
            "batch_size": 2,
            "accumulate": 2,
            "epochs": 2,
            "decay_milestones": [9],
            "workers": 0,
            "lr": 0.01,
            "threads": 1,
        }
        return DetectionRecipe(**{**defaults, **settings})

    return make
