"""Small data sets decoded once into memory that the workers of a process share."""

import sys
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from train.data.sources import DamagedImageError, ImageSource


class MemoryCache:
    """The images of `source` as bytes, larger ones reduced to `shorter_side`, 0 keeping every size.

    Writes how much memory it takes to stderr before it decodes; raises ValueError for more than
    `limit_bytes`.
    """

    def __init__(self, source: ImageSource, limit_bytes: float, shorter_side: int = 0):
        self.classes, self.shorter_side = source.classes, shorter_side
        self.sizes = _measure(source, limit_bytes, shorter_side)
        ends = torch.tensor([3 * width * height for width, height in self.sizes]).cumsum(0).tolist()
        self.starts = [0, *ends]
        print(f"caching {len(source)} images in {ends[-1] / 1e9:.2f} GB of this process", file=sys.stderr)
        self.pixels = torch.empty(ends[-1], dtype=torch.uint8).share_memory_()
        self.targets: list[int] = []
        self.damaged: dict[int, str] = {}
        for index in tqdm(range(len(source)), desc="caching", disable=None, leave=False):
            self._store(index, source)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """One image and its label; raises DamagedImageError as the source did."""
        if index in self.damaged:
            raise DamagedImageError(self.damaged[index])
        return Image.fromarray(self._view(index).numpy()), self.targets[index]

    def _store(self, index: int, source: ImageSource) -> None:
        try:
            image, target = source[index]
        except DamagedImageError as error:
            self.damaged[index] = str(error)
            self.targets.append(-1)
            return
        if image.size != self.sizes[index]:
            image = image.resize(self.sizes[index], Image.Resampling.LANCZOS)
        self._view(index).copy_(torch.from_numpy(np.array(image)))
        self.targets.append(target)

    def _view(self, index: int) -> torch.Tensor:
        width, height = self.sizes[index]
        return self.pixels[self.starts[index] : self.starts[index + 1]].view(height, width, 3)


def _measure(source: ImageSource, limit_bytes: float, shorter_side: int) -> list[tuple[int, int]]:
    sizes, total = [], 0
    for index in range(len(source)):
        sizes.append(_cached_size(source, index, shorter_side))
        total += 3 * sizes[-1][0] * sizes[-1][1]
        if total > limit_bytes:
            raise ValueError(
                f"the first {index + 1} of {len(source)} images take {total / 1e9:.2f} GB in memory, "
                f"expected all of them to fit in cache_limit_gb={limit_bytes / 1e9:g}"
            )
    return sizes


def _cached_size(source: Any, index: int, shorter_side: int) -> tuple[int, int]:
    """Width and height of an image from its header; none for one that cannot be opened."""
    try:
        width, height = source.open(index)[0].size
    except DamagedImageError:
        return 0, 0
    scale = min(1.0, shorter_side / min(width, height)) if shorter_side else 1.0
    return round(width * scale), round(height * scale)
