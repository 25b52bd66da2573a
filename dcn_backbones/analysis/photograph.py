"""From a photograph to a network's input, and the way back for positions.

Positions are ``(x, y)`` in pixels: ``(0, 0)`` is the centre of the top left pixel.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn


def read_image(path: str | Path) -> Image.Image:
    """The photograph in a file as RGB, turned upright as its camera noted.

    Raises:
        OSError: When there is no such file, or it holds no image that Pillow can decode.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file; expected the path of an image.")
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at white
                upright = upright.point(lambda value: value * (1 / 256))
            return upright.convert("RGB")
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and others
        reason = "" if isinstance(error, Image.UnidentifiedImageError) else f": {error}".rstrip(".")
        raise OSError(f"{path} is not an image that Pillow can decode{reason}.") from error


@dataclass(frozen=True)
class InputGeometry:
    """Where a network's input lies on the photograph: it was scaled, then cropped or padded.

    Attributes:
        scale: Pixels of the input for each pixel of the photograph, ``(x, y)``.
        corner: Pixel of the scaled photograph that became the input's top left one; negative under padding.
        size: Width and height of the input, in pixels.
    """

    scale: tuple[float, float]
    corner: tuple[int, int]
    size: tuple[int, int]

    def to_input(self, positions: Tensor) -> Tensor:
        """Positions on the photograph, ``(..., 2)``, as positions on the input."""
        scale, corner = positions.new_tensor(self.scale), positions.new_tensor(self.corner)
        return (positions + 0.5) * scale - 0.5 - corner

    def to_photograph(self, positions: Tensor) -> Tensor:
        """Positions on the input, ``(..., 2)``, as positions on the photograph."""
        scale, corner = positions.new_tensor(self.scale), positions.new_tensor(self.corner)
        return (positions + corner + 0.5) / scale - 0.5

    def borders(self) -> tuple[float, float, float, float]:
        """Left, upper, right and lower border of the input, as positions on the photograph."""
        width, height = self.size
        edges = torch.tensor([[-0.5, -0.5], [width - 0.5, height - 0.5]], dtype=torch.float64)
        return tuple(self.to_photograph(edges).flatten().tolist())


class Preprocessing:
    """A model's own evaluation transform, as timm makes it, that also knows its geometry.

    Args:
        model: A timm model; the input goes to the device and type of its parameters.
    """

    def __init__(self, model: nn.Module) -> None:
        self._transform = create_transform(**resolve_model_data_config(model, use_test_size=True))
        self._parameter = next(model.parameters())

    def __call__(self, image: Image.Image) -> Tensor:
        """The network's input, ``(1, 3, H, W)``, normalised."""
        return self._transform(image)[None].to(self._parameter)

    def seen(self, image: Image.Image) -> Image.Image:
        """What the network sees of ``image``, as large as its input."""
        resize, crop = self._transform.transforms[:2]  # in each of timm's crop modes
        return crop(resize(image))

    def geometry(self, image: Image.Image) -> InputGeometry:
        """Where the input lies on ``image``."""
        resize, crop = self._transform.transforms[:2]  # in each of timm's crop modes
        resized = resize(image)
        cropped = crop(resized)
        return InputGeometry(
            scale=(resized.width / image.width, resized.height / image.height),
            corner=tuple(map(_cut_off, resized.size, cropped.size)),
            size=cropped.size,
        )


def _cut_off(whole: int, part: int) -> int:
    """Pixels that a centred crop takes off the left or upper side; minus what it adds when it is larger."""
    return round((whole - part) / 2) if whole > part else -((part - whole) // 2)


def image_centre(image: Image.Image) -> tuple[float, float]:
    """The position in the middle of an image."""
    return (image.width - 1) / 2, (image.height - 1) / 2


def input_point(
    image: Image.Image, geometry: InputGeometry, point: tuple[float, float]
) -> tuple[float, float]:
    """A point of the photograph as a point of the network's input.

    Raises:
        ValueError: When the point is outside the photograph, or in a part that the network does not see.
    """
    if not (0 <= point[0] <= image.width - 1 and 0 <= point[1] <= image.height - 1):
        raise ValueError(
            f"point ({point[0]:g}, {point[1]:g}) is outside the image; "
            f"expected x from 0 to {image.width - 1} and y from 0 to {image.height - 1}."
        )
    left, upper, right, lower = geometry.borders()
    if not (left <= point[0] <= right and upper <= point[1] <= lower):
        (x1, x2), (y1, y2) = _pixels(left, right, image.width), _pixels(upper, lower, image.height)
        raise ValueError(
            f"point ({point[0]:g}, {point[1]:g}) is cut off before the network sees the image; "
            f"expected x from {x1} to {x2} and y from {y1} to {y2}."
        )
    x, y = geometry.to_input(torch.tensor(point, dtype=torch.float64)).tolist()
    return x, y


def _pixels(low: float, high: float, length: int) -> tuple[int, int]:
    """The first and the last whole pixel between two borders, of those along an axis."""
    return max(math.ceil(low), 0), min(math.floor(high), length - 1)
