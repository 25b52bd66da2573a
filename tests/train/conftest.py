"""Generated images for the training scripts: random pixels in class folders."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.transforms.functional import to_pil_image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from train.recipe import Recipe

CLASSES = ("cat", "dog", "owl")


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny images are faster on one thread than on several that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """`data/{train,validation}/{cat,dog,owl}/N.png`: 9 images for training, 7 for validation, 32x32 px."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 9), ("validation", 7)):
        for number in range(count):
            file = tmp_path / "data" / split / CLASSES[number % len(CLASSES)] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(torch.rand(3, 32, 32, generator=generator)).save(file)
    return tmp_path / "data"


@pytest.fixture
def small_recipe(image_folder: Path) -> Callable[..., Recipe]:
    """A recipe of a few seconds on `image_folder`: 2 epochs of 2 steps; keywords replace its settings."""

    def make(**settings) -> Recipe:
        defaults = {
            "model": "test_resnet",
            "num_classes": len(CLASSES),
            "data_dir": str(image_folder),
            "img_size": 32,
            "batch_size": 4,
            "epochs": 2,
            "workers": 0,
            "lr": 0.05,
        }
        return Recipe(**{**defaults, **settings})

    return make


@pytest.fixture
def deformable_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe of a narrow DCNv2 network on 26 images of its own: 3 epochs of 3 steps of 2 batches of 4."""
    generator = torch.Generator().manual_seed(1)
    for split, count in (("train", 26), ("validation", 7)):
        for number in range(count):
            file = tmp_path / "more" / split / CLASSES[number % len(CLASSES)] / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(torch.rand(3, 40, 40, generator=generator)).save(file)

    def make(**settings) -> Recipe:
        defaults = {
            "model": "dcnv2_resnet18",
            "model_kwargs": {"channels": [8, 8, 16, 16]},
            "num_classes": len(CLASSES),
            "data_dir": str(tmp_path / "more"),
            "img_size": 32,
            "batch_size": 4,
            "accumulate": 2,
            "epochs": 3,
            "workers": 0,
            "lr": 0.02,
            "threads": 1,
        }
        return Recipe(**{**defaults, **settings})

    return make
