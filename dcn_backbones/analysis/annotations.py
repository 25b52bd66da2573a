"""Photographs with boxes around their objects, from a file in COCO's format."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.transforms import functional

from .photograph import read_image


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file and the boxes in it, ``(x1, y1, x2, y2)`` in its pixels.

    Attributes:
        path: The file.
        size: Width and height, in pixels.
        boxes: ``(B, 4)``, the objects.
        left_out: ``(L, 4)``, what counts neither as object nor as background: crowds and difficult objects.
    """

    path: Path
    size: tuple[int, int]
    boxes: Tensor
    left_out: Tensor


def read_annotations(path: str | Path) -> list[AnnotatedImage]:
    """The images that a COCO JSON names, in its order.

    The files are beside it: in its folder, or in the one that ``instances_<folder>.json`` names.

    Raises:
        OSError: When there is no such file, or an image is not beside it.
        ValueError: When it is not in COCO's format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; expected a COCO JSON.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        boxes = _boxes_by_image(content["annotations"])
        entries = [
            (str(image["file_name"]), _size(image), *boxes[image["id"]]) for image in content["images"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not in COCO's format; expected images with file_name, width, height and id, "
            "and annotations with image_id and bbox."
        ) from error
    return [AnnotatedImage(_beside(path, name), *entry) for name, *entry in entries]


def network_input(
    model: nn.Module, annotated: AnnotatedImage, short_side: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """A whole photograph as a model's input, not cropped, and its boxes in pixels of that.

    Args:
        model: A timm model; the input goes to the device and type of its parameters.
        annotated: What is read.
        short_side: Pixels of the shorter side; those of the file when None.

    Returns:
        The image ``(1, 3, H, W)``, and ``boxes`` and ``left_out`` of `AnnotatedImage`.

    Raises:
        OSError: When the file holds no image.
        ValueError: When the photograph has another size than the annotations say.
    """
    photograph = read_image(annotated.path)
    size = photograph.size
    if size != annotated.size:
        raise ValueError(
            f"{annotated.path} has {size[0]}x{size[1]} pixels; "
            f"expected the {annotated.size[0]}x{annotated.size[1]} that its boxes are for."
        )
    if short_side:
        photograph = functional.resize(photograph, short_side, antialias=True)
    config = resolve_model_data_config(model)
    image = functional.normalize(functional.to_tensor(photograph), config["mean"], config["std"])
    scale = torch.tensor([new / old for new, old in zip(photograph.size, size, strict=True)] * 2)
    return image[None].to(next(model.parameters())), annotated.boxes * scale, annotated.left_out * scale


def exchange_boxes(images: Sequence[AnnotatedImage]) -> list[AnnotatedImage]:
    """The same images, each with the boxes of the next, stretched to its size: a control.

    What still differs between these boxes and the background comes from where objects are in photographs,
    and not from the objects.
    """
    return [
        replace(image, boxes=other.boxes * scale, left_out=other.left_out * scale)
        for image, other in zip(images, [*images[1:], *images[:1]], strict=True)
        for scale in (torch.tensor([new / old for new, old in zip(image.size, other.size, strict=True)] * 2),)
    ]


def _size(image: dict) -> tuple[int, int]:
    width, height = int(image["width"]), int(image["height"])
    if width < 1 or height < 1:
        raise ValueError("an image of no size")
    return width, height


def _boxes_by_image(annotations: Sequence[dict]) -> dict[int, tuple[Tensor, Tensor]]:
    found: dict[int, tuple[list, list]] = defaultdict(lambda: ([], []))
    for annotation in annotations:
        x, y, width, height = map(float, annotation["bbox"])
        if not (math.isfinite(x + y) and 0 <= width < math.inf and 0 <= height < math.inf):
            raise ValueError("a box of no place or size")
        is_left_out = bool(annotation.get("iscrowd") or annotation.get("ignore"))
        found[annotation["image_id"]][is_left_out].append([x, y, x + width, y + height])
    tensors = {number: tuple(map(_box_tensor, lists)) for number, lists in found.items()}
    return defaultdict(lambda: (_box_tensor([]), _box_tensor([])), tensors)


def _box_tensor(boxes: list) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float64).view(-1, 4)


def _beside(path: Path, name: str) -> Path:
    for folder in _folders(path):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{name} is neither in {' nor in '.join(map(str, _folders(path)))}.")


def _folders(path: Path) -> tuple[Path, Path]:
    return path.parent, path.parent / path.stem.removeprefix("instances_")
