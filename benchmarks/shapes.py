"""The 3x3 convolutions of conv3-conv5, at 224 px and at a detector's sizes."""

from dataclasses import dataclass
from math import prod

TAPS, CORNERS = 9, 4


@dataclass(frozen=True)
class Shape:
    """A 3x3 convolution with padding 1 that keeps its number of channels."""

    channels: int
    size: tuple[int, int]
    stride: int = 1
    groups: int = 1

    @property
    def name(self) -> str:
        text = f"{self.channels}x{self.size[0]}x{self.size[1]}"
        text += "" if self.stride == 1 else f" /{self.stride}"
        return text if self.groups == 1 else f"{text} g{self.groups}"

    @property
    def output_size(self) -> tuple[int, int]:
        return tuple((size - 1) // self.stride + 1 for size in self.size)

    @property
    def positions(self) -> int:
        """Output positions of one image."""
        return prod(self.output_size)

    @property
    def operations(self) -> int:
        """Multiplications and additions of one image's product with the weight."""
        return 2 * self.positions * TAPS * self.channels * self.channels // self.groups


def _stages(channels: int, size: tuple[int, int], groups: int = 1) -> list[Shape]:
    """conv3 to conv5: in each the 3x3 that halves the size, and those behind it."""
    shapes = []
    for _ in range(3):
        first = Shape(channels, size, 2, groups)
        shapes += [first, Shape(channels, first.output_size, 1, groups)]
        channels, size = 2 * channels, first.output_size
    return shapes


RESNET = _stages(128, (56, 56))
RESNEXT = _stages(256, (56, 56), groups=32)
DETECTION = [Shape(128, (100, 168))]
DETECTION_RESNET = _stages(128, (200, 334))  # an image of 800 x 1333
DETECTION_RESNEXT = _stages(256, (200, 334), groups=32)
