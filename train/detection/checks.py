"""What can be wrong with a detection recipe beyond its keys and types, found before anything is trained."""

from train.checks import check_settings
from train.detection.detectors import detector_settings
from train.detection.recipe import DetectionRecipe


def check_recipe(recipe: DetectionRecipe) -> None:
    """Raise ValueError, in one sentence, for a value that no run can have."""
    check_settings(recipe)
    if not recipe.min_size or min(recipe.min_size) < 1:
        raise ValueError(f"min_size is {recipe.min_size}, expected numbers of pixels")
    detector_settings(recipe)
