"""What an H200 cannot go below, and what our kernels are expected to take: `python -m benchmarks.floors`.

Written before any of it was timed. For each 3x3 convolution of bfloat16, four times of which the largest
is the floor: bytes through device memory, matrix operations, bytes through the first-level caches, and
the arithmetic of the interpolation. `predict` adds up what our design does on the way.
"""

from dataclasses import dataclass

from dcn_backbones.ops.backends.blocked import BlockedBackend

from . import shapes
from .shapes import CORNERS, TAPS, Shape

ELEMENT, SUM, POSITION = 2, 4, 4 * 3 * TAPS  # bytes: bfloat16, float32, offsets and mask of a position

# Of an H200. The first two rates per second are measured ones; the others follow from its multiprocessors:
# 128 bytes a cycle from cache or shared memory, 128 float32 operations a cycle.
MULTIPROCESSORS, CLOCK = 132, 1.7e9
DEVICE_MEMORY = 4.3e12
MATRIX = 790e12
FIRST_LEVEL = MULTIPROCESSORS * 128 * CLOCK
ARITHMETIC = MULTIPROCESSORS * 128 * CLOCK
SECOND_LEVEL = 6e12  # bytes of the 50 MB cache, as others measured on the same chip; 64 a cycle in theory

# Of a corner: a fused multiply-add and the widening of a bfloat16; of a column: half of a packing.
OPERATIONS = CORNERS * 2 + 0.5

# What the kernels are assumed to reach of those rates.
CUBLAS_PRODUCT = 0.75  # a few thousand rows at a time leave some multiprocessors without a tile
FIRST_LEVEL_SHARE = 0.6  # of scattered vectors of 16 bytes
# Positions and output channels of a fused kernel's tile, and the cycles of its step (csrc/README.md).
FUSED_TILES = {(128, 256): 1920, (96, 256): 1632, (256, 128): 2432, (128, 128): 1536, (64, 128): 960}
FUSED_TILES_OF_NARROW_GROUPS = {(64, 64): 550}
LAUNCH = 4e-6  # a kernel of its own: start, end and the last tiles


@dataclass(frozen=True)
class Times:
    """Seconds."""

    memory: float
    matrix: float
    first_level: float
    arithmetic: float

    @property
    def floor(self) -> float:
        return max(self.memory, self.matrix, self.first_level, self.arithmetic)

    @property
    def binding(self) -> str:
        names = {"memory": "memory", "matrix": "matrix", "first_level": "L1", "arithmetic": "arithmetic"}
        return names[max(names, key=lambda name: getattr(self, name))]


def forward(shape: Shape, batch: int) -> Times:
    """Input, offsets and mask are read once, the output written once; every tap reads four corners."""
    rows, channels = batch * shape.positions, shape.channels
    pixels = batch * shape.size[0] * shape.size[1]
    return Times(
        memory=((pixels + rows) * channels * ELEMENT + rows * POSITION + _weight(shape)) / DEVICE_MEMORY,
        matrix=batch * shape.operations / MATRIX,
        first_level=rows * TAPS * CORNERS * channels * ELEMENT / FIRST_LEVEL,
        arithmetic=rows * TAPS * channels * OPERATIONS / ARITHMETIC,
    )


def backward(shape: Shape, batch: int) -> Times:
    """Two products; corners are read again, and each is added to: read and written in float32."""
    once = forward(shape, batch)
    rows, channels = batch * shape.positions, shape.channels
    added = rows * TAPS * CORNERS * channels
    output = rows * channels * ELEMENT / DEVICE_MEMORY
    return Times(
        memory=2 * once.memory - output,  # what forward reads, and the gradients of that and of the output
        matrix=2 * once.matrix,
        first_level=once.first_level + added * 2 * SUM / FIRST_LEVEL,
        arithmetic=once.arithmetic + 3 * added / ARITHMETIC,  # slopes, mask and the four shares
    )


def predict_forward(shape: Shape, batch: int) -> float:
    """The fused kernel: rounds of tiles on the multiprocessors, each a step for every tap and 64 channels."""
    rows, narrow = batch * shape.positions, shape.groups > 1
    tiles = FUSED_TILES_OF_NARROW_GROUPS if narrow else FUSED_TILES
    steps = TAPS * (1 if narrow else -(-shape.channels // 64))
    rounds = [
        -(-(-(-rows // height) * -(-shape.channels // width)) // MULTIPROCESSORS) for height, width in tiles
    ]
    cycles = min(count * cost for count, cost in zip(rounds, tiles.values(), strict=True))
    return max(cycles * steps / CLOCK, forward(shape, batch).memory) + LAUNCH


def predict_backward(shape: Shape, batch: int) -> float:
    """Block by block: grad_columns, samples' gradients, scatter and grad_weight, one after the other."""
    times, rows = backward(shape, batch), batch * shape.positions
    columns = rows * TAPS * shape.channels * ELEMENT
    products = times.matrix / CUBLAS_PRODUCT
    kernels = max(times.first_level / FIRST_LEVEL_SHARE, times.arithmetic)
    passes = 5 * columns / SECOND_LEVEL  # written, read twice, and the columns themselves written and read
    blocks = -(-2 * columns // BlockedBackend.workspace_bytes)
    return max(products + kernels + passes, times.memory) + 5 * blocks * LAUNCH


def _weight(shape: Shape) -> int:
    return TAPS * shape.channels * shape.channels // shape.groups * ELEMENT


SETTINGS = [
    (64, shapes.RESNET + shapes.RESNEXT),
    (256, shapes.RESNET + shapes.RESNEXT),
    (2, shapes.DETECTION_RESNET + shapes.DETECTION_RESNEXT),
]
"""Batches, and the shapes measured with them."""


def table() -> str:
    """Markdown: microseconds."""
    lines = [
        "| shape | N | memory | matrix | L1 | arithmetic | floor, forward | predicted | "
        "floor, backward | predicted |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for batch, chosen in SETTINGS:
        for shape in chosen:
            there, back = forward(shape, batch), backward(shape, batch)
            parts = (there.memory, there.matrix, there.first_level, there.arithmetic)
            cells = [shape.name, str(batch), *(f"{1e6 * part:.0f}" for part in parts)]
            cells += [
                f"{1e6 * there.floor:.0f} ({there.binding})",
                f"{1e6 * predict_forward(shape, batch):.0f}",
            ]
            cells += [
                f"{1e6 * back.floor:.0f} ({back.binding})",
                f"{1e6 * predict_backward(shape, batch):.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
