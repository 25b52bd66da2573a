"""What RoI pooling cannot go below on an H200, and what our kernels are expected to take: `python -m
benchmarks.roi_floors`.

Written before any of it was timed, for `gpu_roi_rows.MAPS` in channels-last; rates are those of `floors.py`.
"""

from typing import NamedTuple

import torch

from .floors import (
    CLOCK,
    DEVICE_MEMORY,
    FIRST_LEVEL,
    FIRST_LEVEL_SHARE,
    LAUNCH,
    MULTIPROCESSORS,
    SECOND_LEVEL,
    SUM,
)
from .gpu_roi_rows import MAPS, TYPES, pixels_of_bins
from .roi_peers import BINS, Map

CELLS = BINS[0] * BINS[1]
REDUCTIONS = 2.5e12  # bytes a second that the second-level cache adds, in vectors of 16; not measured
# Instructions of a warp, estimated: to find where a bin looks, for a slice of channels. Those of a pixel,
# below, are its address, its load, a multiply-add for each channel and, of half types, its widening.
LOCATING = 130
ISSUED = 4 * MULTIPROCESSORS * CLOCK  # instructions of warps a second


class Times(NamedTuple):
    """Seconds."""

    memory: float
    first_level: float
    instructions: float
    predicted: float

    @property
    def floor(self) -> float:
        return max(self.memory, self.first_level)


def forward(map_: Map, dtype: torch.dtype) -> Times:
    """Every pixel that a bin looks at passes the first-level cache once, and the whole map leaves memory."""
    element = dtype.itemsize
    outputs = map_.regions * CELLS * map_.channels
    memory = (_pixels(map_) + outputs) * element / DEVICE_MEMORY
    first_level = outputs * pixels_of_bins(map_) * element / FIRST_LEVEL
    width = 16 // element
    instructions = _instructions(map_, width, pixels_of_bins(map_) * (6 + width * (1 + (element < SUM))))
    busy = max(first_level / FIRST_LEVEL_SHARE, memory, instructions, _second_level(map_, element))
    return Times(memory, first_level, instructions, busy + LAUNCH)


def backward(map_: Map, dtype: torch.dtype) -> Times:
    """The gradient of the input alone: sums are cleared, added to and, where they are wider, converted."""
    element = dtype.itemsize
    outputs = map_.regions * CELLS * map_.channels
    memory = (_pixels(map_) + outputs) * element / DEVICE_MEMORY
    passes = 1 if element == SUM else 2 + element / SUM
    clearing = passes * _pixels(map_) * SUM / DEVICE_MEMORY + LAUNCH
    additions = outputs * pixels_of_bins(map_) * SUM
    instructions = _instructions(map_, 4, pixels_of_bins(map_) * 10)
    adding = max(additions / REDUCTIONS, instructions) + LAUNCH
    return Times(memory, additions / FIRST_LEVEL, instructions, clearing + adding)


def _pixels(map_: Map) -> int:
    """Numbers of the map."""
    return map_.batch * map_.size[0] * map_.size[1] * map_.channels


def _second_level(map_: Map, element: int) -> float:
    """A region's pixels are read from there once for the block that pools it."""
    side = map_.sides[0] * (map_.sides[1] / map_.sides[0]) ** 0.5 / map_.stride + 2
    return map_.regions * side * side * map_.channels * element / SECOND_LEVEL


def _instructions(map_: Map, width: int, of_pixels: float) -> float:
    """Of warps whose lanes take `width` channels each."""
    warps = map_.regions * CELLS * -(-map_.channels // (32 * width))
    return warps * (LOCATING + of_pixels) / ISSUED


def table() -> str:
    """Markdown: microseconds."""
    lines = [
        "| map | N | type | memory | L1 | floor, forward | predicted | floor, backward | predicted |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for map_ in MAPS:
        for dtype in TYPES:
            there, back = forward(map_, dtype), backward(map_, dtype)
            times = there.memory, there.first_level, there.floor, there.predicted, back.floor, back.predicted
            cells = [map_.name, str(map_.batch), str(dtype).removeprefix("torch.")]
            cells += [f"{1e6 * time:.0f}" for time in times]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
