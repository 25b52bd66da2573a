"""The 3x3 convolutions of conv3-conv5 at 224 px, and one of a detector's."""

from dataclasses import dataclass


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


def _square(channels: int, size: int, stride: int = 1, groups: int = 1) -> Shape:
    return Shape(channels, (size, size), stride, groups)


RESNET = [
    _square(128, 56, 2),
    _square(128, 28),
    _square(256, 28, 2),
    _square(256, 14),
    _square(512, 14, 2),
    _square(512, 7),
]
RESNEXT = [
    _square(256, 56, 2, 32),
    _square(256, 28, 1, 32),
    _square(512, 28, 2, 32),
    _square(512, 14, 1, 32),
    _square(1024, 14, 2, 32),
    _square(1024, 7, 1, 32),
]
DETECTION = [Shape(128, (100, 168))]
