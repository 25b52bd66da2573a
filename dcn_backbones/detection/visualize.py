"""Detections drawn over a photograph."""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from ..files import written_whole

_GOLDEN_RATIO = 0.618034


@torch.no_grad()
def detect(detector: GeneralizedRCNN, image: Image.Image, threshold: float = 0.5) -> dict[str, Tensor]:
    """What a detector sees in a photograph, the surest first.

    Args:
        detector: In evaluation mode, on any device.
        image: A photograph of any size, mode RGB.
        threshold: The lowest score of a detection.

    Returns:
        On the CPU: ``boxes`` ``(R, 4)``, each ``[x1, y1, x2, y2]`` in pixels of the photograph, ``labels``
        ``(R,)``, ``scores`` ``(R,)`` and, from a Mask R-CNN, ``masks`` ``(R, 1, H, W)``, probabilities.
    """
    parameter = next(detector.parameters())
    pixels = pil_to_tensor(image).to(parameter.device, parameter.dtype) / 255
    (found,) = detector([pixels])
    sure = found["scores"] >= threshold
    return {name: values[sure].cpu() for name, values in found.items()}


def draw_detections(
    image: Image.Image, detections: Mapping[str, Tensor], categories: Sequence[str]
) -> Image.Image:
    """A copy of a photograph with masks, boxes, names and scores of detections, each category in its colour.

    Args:
        image: The photograph, mode RGB.
        detections: As `detect` returns them.
        categories: Names of the labels 1, 2 and so on.

    Raises:
        ValueError: When a label has no name.
    """
    labels = detections["labels"].tolist()
    _check_named(labels, categories)
    if not labels:
        return image.copy()
    pixels = pil_to_tensor(image)
    colours = [category_colour(label) for label in labels]
    if "masks" in detections:
        masks = detections["masks"][:, 0] > 0.5
        pixels = draw_segmentation_masks(pixels, masks, alpha=0.5, colors=colours)
    line = max(2, round(min(image.size) / 200))
    boxes = detections["boxes"]
    drawn = to_pil_image(draw_bounding_boxes(pixels, boxes, colors=colours, width=line))
    words = [
        f"{categories[label - 1]} {score:.0%}"
        for label, score in zip(labels, detections["scores"].tolist(), strict=True)
    ]
    _write(drawn, words, boxes[:, :2].tolist(), colours)
    return drawn


def _check_named(labels: list[int], categories: Sequence[str]) -> None:
    unnamed = [label for label in labels if not 1 <= label <= len(categories)]
    if unnamed:
        raise ValueError(
            f"the detections have the label {unnamed[0]}, but there are names for 1 to {len(categories)}; "
            "expected the categories of their detector."
        )


def category_colour(label: int) -> tuple[int, int, int]:
    """A bright colour, far from those of the labels beside it."""
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(label * _GOLDEN_RATIO % 1, 0.85, 1))


def check_picture(path: Path) -> None:
    """Find out, before anything is computed, whether a picture can be written.

    Raises:
        ValueError: When its suffix is not that of a format that Pillow writes.
        FileNotFoundError: When its folder does not exist.
    """
    if _format(path) not in Image.SAVE:
        raise ValueError(
            f"{path} does not end in the suffix of an image format that Pillow writes; expected .png, .jpg "
            "or the like."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder; expected an existing one for {path.name}.")


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture in the format of its suffix, whole or not at all.

    Raises:
        ValueError: When its suffix is not that of a format that Pillow writes.
        OSError: When its folder does not exist, or it cannot be written.
    """
    check_picture(path)
    with written_whole(path) as temporary:
        image.save(temporary, format=_format(path))


def _format(path: Path) -> str | None:
    """Pillow's name for the format of a suffix; it reads more formats than it writes."""
    return Image.registered_extensions().get(path.suffix.lower())


def _write(
    image: Image.Image, words: list[str], corners: list[list[float]], colours: list[tuple[int, int, int]]
) -> None:
    """Words above their boxes, large as the photograph is large: torchvision writes 10 pixels high."""
    canvas = ImageDraw.Draw(image)
    size = max(12, min(image.size) // 30)
    font = ImageFont.load_default(size)
    for text, (x, y), colour in reversed(list(zip(words, corners, colours, strict=True))):
        text = f" {text} "
        corner = (max(min(x, image.width - font.getlength(text)), 0), max(y - 1.3 * size, 0))
        canvas.rectangle(canvas.textbbox(corner, text, font), fill=colour)
        canvas.text(corner, text, fill="black", font=font)
