"""The annotations of a recipe: one file to train on and one to measure with, of the same categories."""

import json
from pathlib import Path

from train.detection.annotations import Annotations, check_categories, read_annotations
from train.detection.recipe import DetectionRecipe
from train.results import write_text

CATEGORIES = "categories.json"  # in the folder of a run


def open_splits(recipe: DetectionRecipe) -> tuple[Annotations, Annotations]:
    """Training and validation; raises ValueError for anything that the recipe cannot be trained on."""
    training = _open(recipe, recipe.train_annotations, recipe.train_images)
    validation = open_validation(recipe)
    check_categories(validation.file, validation.categories, training.categories, str(training.file))
    return training, validation


def open_validation(recipe: DetectionRecipe) -> Annotations:
    """What the recipe measures with."""
    return _open(recipe, recipe.val_annotations, recipe.val_images)


def _open(recipe: DetectionRecipe, file: str, images: str) -> Annotations:
    folder = Path(recipe.data_dir)
    masks = recipe.detector == "mask_rcnn"
    return read_annotations(folder / file, folder / images, masks, recipe.max_bad_boxes)


def check_run_categories(output: Path, annotations: Annotations) -> None:
    """Raise ValueError when the run in a folder has other categories than these annotations."""
    if (output / CATEGORIES).is_file():
        known = json.loads((output / CATEGORIES).read_text(encoding="utf-8"))
        check_categories(annotations.file, annotations.categories, known, f"the run in {output}")


def save_categories(output: Path, annotations: Annotations) -> None:
    """Note the categories of a run in its folder."""
    write_text(output / CATEGORIES, json.dumps(annotations.categories) + "\n")
