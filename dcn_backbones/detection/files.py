"""A detector in a folder: its weights beside what rebuilds it. And one that torchvision has trained."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from ..models.checkpoints import load_own_weights
from .detectors import build_detector
from .settings import DetectorSettings

WEIGHTS = "model.safetensors"
DESCRIPTION = "detector.json"


def save_detector(detector: GeneralizedRCNN, folder: str | Path, categories: Sequence[str]) -> None:
    """Write ``model.safetensors`` and ``detector.json``, each of them whole or not at all.

    Args:
        detector: One of `faster_rcnn` or `mask_rcnn`.
        folder: Where to; it is made if it does not exist.
        categories: Names of the labels 1, 2 and so on.

    Raises:
        ValueError: When there are more or fewer names than the detector has classes.
    """
    categories = [*categories]
    _check_count(categories, detector.settings["num_classes"], "categories")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    description = {"settings": detector.settings, "categories": categories}
    state = {name: tensor.contiguous() for name, tensor in detector.state_dict().items()}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        save_file(state, Path(temporary) / WEIGHTS)
        text = json.dumps(description, indent=2) + "\n"
        (Path(temporary) / DESCRIPTION).write_text(text, encoding="utf-8")
        for name in (WEIGHTS, DESCRIPTION):
            (Path(temporary) / name).chmod(0o644)  # safetensors' files are their owner's alone
            os.replace(Path(temporary) / name, folder / name)


def load_detector(
    folder: str | Path, categories: Sequence[str] | None = None
) -> tuple[GeneralizedRCNN, list[str]]:
    """The detector that `save_detector` wrote, in evaluation mode on the CPU, and the names of its labels.

    Args:
        folder: Where it is.
        categories: The names that it has to have, in order; by default any.

    Raises:
        OSError: When a file is missing or cannot be read.
        ValueError: When a file is damaged, the weights are another detector's, or the categories are others.
    """
    folder = Path(folder)
    settings, known = _description(folder / DESCRIPTION)
    if categories is not None and [*categories] != known:
        raise ValueError(
            f"{folder} detects {_named(known)}, but {_named([*categories])} are asked for; "
            "expected the same categories in the same order."
        )
    detector = build_detector(settings)
    _load_weights(detector, folder / WEIGHTS)
    return detector.eval(), known


def coco_detector() -> tuple[GeneralizedRCNN, list[str]]:
    """torchvision's Mask R-CNN of COCO on a plain ResNet-50, in evaluation mode, and the names of its labels.

    Its weights are downloaded at the first call, and kept in torch's cache.

    Raises:
        OSError: When they cannot be downloaded.
    """
    weights = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:
        raise OSError(f"{weights.url} could not be downloaded: {error}.") from error
    detector = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    detector.load_state_dict(state)
    return detector.eval(), weights.meta["categories"][1:]


def _description(path: Path) -> tuple[DetectorSettings, list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; expected a folder that save_detector wrote.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings, categories = DetectorSettings(**content["settings"]), content["categories"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a detector: {error}") from error
    _check_count(categories, settings.num_classes, f"{path}")
    return settings, categories


def _load_weights(detector: GeneralizedRCNN, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; expected the weights of the detector beside it.")
    load_own_weights(detector, path)


def _check_count(categories: list[str], num_classes: int, name: str) -> None:
    if len(categories) != num_classes - 1:
        raise ValueError(
            f"{name} has {len(categories)} names for a detector of {num_classes} classes; "
            f"expected {num_classes - 1}, one for each class but the background."
        )


def _named(categories: list[str]) -> str:
    more = ", ..." if len(categories) > 3 else ""
    return f"{len(categories)} categories ({', '.join(categories[:3])}{more})"
