"""The detector of a recipe: built, and started from a classifier's or a detector's weights."""

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from dcn_backbones.detection import DetectorSettings, build_detector, load_detector
from dcn_backbones.detection.files import DESCRIPTION
from dcn_backbones.models.checkpoints import load_own_state
from train.detection.annotations import check_categories
from train.detection.recipe import DetectionRecipe
from train.networks import start_model
from train.offsets import constrain_offsets
from train.settings import TrainingSettings

AVERAGED = "ema"  # folder of the averaged detector in that of its run
SETTINGS = (  # of `DetectorSettings`, which are keys of a recipe under the same names
    "backbone",
    "neck",
    "box_pool",
    "norm",
    "trainable_backbone_layers",
    "mimic_regions",
    "min_size",
    "max_size",
)


def detector_settings(recipe: DetectionRecipe, num_classes: int = 2) -> DetectorSettings:
    """The settings of the recipe's detector; raises ValueError for one that does not exist or fit."""
    own = {name: getattr(recipe, name) for name in SETTINGS}
    own |= {"architecture": recipe.detector, "mimic": recipe.mimic or None}
    try:
        return DetectorSettings(num_classes=num_classes, **own, **recipe.detector_kwargs)
    except TypeError as error:
        raise ValueError(f"detector_kwargs is {recipe.detector_kwargs}: {error}") from error


def make_detector(recipe: DetectionRecipe, num_classes: int) -> FasterRCNN:
    """The recipe's detector on the CPU, for images that the loader has resized in training.

    Args:
        num_classes: With background.

    Raises:
        ValueError: When a setting is not known or does not fit the others or the backbone.
    """
    settings = detector_settings(recipe, num_classes)
    try:
        detector = build_detector(settings)
    except (RuntimeError, TypeError) as error:  # of torchvision: a setting of another type
        raise ValueError(
            f"{recipe.detector} with detector_kwargs {recipe.detector_kwargs} cannot be built: {error}"
        ) from error
    detector.transform._skip_resize = True  # in training; torchvision's own references set it so
    return fit_to_recipe(detector, recipe)


def fit_to_recipe(detector: FasterRCNN, recipe: TrainingSettings) -> FasterRCNN:
    """The same detector, with what the recipe adds to what it computes."""
    constrain_offsets(detector, recipe.offset_clamp, recipe.offset_penalty)
    if recipe.channels_last:
        detector.backbone.register_forward_pre_hook(_channels_last)
    return detector


def _channels_last(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].contiguous(memory_format=torch.channels_last),)


def start_detector(detector: FasterRCNN, init_from: str, categories: Sequence[str], file: Path) -> None:
    """Load a trained detector of the same categories, or a classifier's weights into the backbone.

    Args:
        init_from: Folder of a detector; or of a classifier a weight file, a run's folder or a timm name with
            its tag (`dcnv2_resnet18.tin100`).
        categories: Of the training data, whose annotations are in `file`.

    Raises:
        FileNotFoundError: When there is no such thing.
        ValueError: When the categories or the network are others.
    """
    if (Path(init_from) / DESCRIPTION).is_file():
        trained, known = load_detector(init_from)
        check_categories(file, categories, known, init_from)
        load_own_state(detector, trained.state_dict(), init_from)
        return
    classifier = timm.create_model(detector.settings["backbone"], **detector.settings["backbone_args"])
    start_model(classifier, init_from)
    state, body = classifier.state_dict(), detector.backbone.body
    load_own_state(body, {key: state[key] for key in body.state_dict() if key in state}, init_from)
