"""What `blocked` works on: the tensors in the layout of its kernels, cut into blocks, and their buffers."""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from . import fixed_point
from .base import Gradients, Pair, accumulate_type


class Geometry(NamedTuple):
    """What a kernel has to know beyond the shapes of its tensors; pairs are (y, x)."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    output_size: Pair
    offset_groups: int

    @property
    def taps(self) -> int:
        return prod(self.kernel)

    @property
    def positions(self) -> int:
        """Output positions of one image."""
        return prod(self.output_size)


class Operands(NamedTuple):
    """Everything dense and channels-last."""

    input: Tensor  # (N, H, W, C_in)
    offset: Tensor  # (N, H_out, W_out, 2 * G * K), accumulate type
    mask: Tensor | None  # (N, H_out, W_out, G * K), accumulate type
    weight: Tensor  # (groups, C_out / groups, K * C_in / groups)
    geometry: Geometry

    @property
    def sampled(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.input, self.offset, self.mask

    @property
    def batch(self) -> int:
        return self.input.shape[0]

    @property
    def groups(self) -> int:
        return self.weight.shape[0]

    @property
    def out_channels(self) -> int:
        return self.groups * self.weight.shape[1]

    @property
    def column_length(self) -> int:
        """Elements of the columns of one output position."""
        return self.geometry.taps * self.input.shape[3]

    def columns_buffer(self, rows: int) -> Tensor:
        """Memory for the columns of the largest block: no block is larger than the batch."""
        rows = min(rows, self.batch * self.geometry.positions)
        return self.input.new_empty(rows * self.column_length)

    def columns(self, buffer: Tensor, rows: int) -> Tensor:
        """The buffer as (groups, rows, K, C_in / groups): dense for each group of the weight."""
        shape = (self.groups, rows, self.geometry.taps, self.input.shape[3] // self.groups)
        return buffer[: prod(shape)].view(shape)

    def by_group(self, rows: Tensor) -> Tensor:
        """(rows, C_out) as (groups, rows, C_out / groups)."""
        return rows.unflatten(1, (self.groups, -1)).transpose(0, 1)


def prepare(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Operands:
    kernel = tuple(weight.shape[2:])
    groups = input.shape[1] // weight.shape[1]
    offset_groups = offset.shape[1] // (2 * prod(kernel))
    geometry = Geometry(
        kernel, tuple(stride), tuple(padding), tuple(dilation), tuple(offset.shape[2:]), offset_groups
    )
    positions = accumulate_type(input.dtype)
    return Operands(
        channels_last(input),
        channels_last(offset.to(positions)),
        None if mask is None else channels_last(mask.to(positions)),
        channels_last(weight).flatten(1).unflatten(0, (groups, -1)),
        geometry,
    )


class Images(NamedTuple):
    """Neighbouring images and the blocks that their output positions are cut into."""

    first: int
    count: int
    blocks: list[tuple[int, int]]  # the first position in the batch, and the number of positions


def cut(operands: Operands, rows: int) -> Iterator[Images]:
    """Several whole images as one block of up to `rows` positions; an image that is larger, as several."""
    positions = operands.geometry.positions
    for first, count in _equal_parts(operands.batch, max(1, rows // positions)):
        parts = _equal_parts(count * positions, rows)
        yield Images(first, count, [(first * positions + start, size) for start, size in parts])


def _equal_parts(total: int, most: int) -> Iterator[tuple[int, int]]:
    """Where each part begins and its size: as few parts as `most` allows, alike to within one."""
    parts = -(-total // most)
    for part in range(parts):
        first = part * total // parts
        yield first, (part + 1) * total // parts - first


class GradientBuffers:
    """The gradients that are asked for, and what they are summed in; None stands for the others."""

    def __init__(self, operands: Operands, grad_output: Tensor, needs: list[bool]) -> None:
        needs_input, needs_offset, needs_weight, needs_mask = needs
        self._operands = operands
        self._of_samples = needs_input or needs_offset or needs_mask
        self._sums = _sums_of_grad_input(operands, grad_output) if needs_input else None
        self.offset = torch.empty_like(operands.offset) if needs_offset else None
        self.mask = torch.empty_like(operands.mask) if needs_mask else None
        self._needs_weight, self._weight = needs_weight, None
        self.input: Tensor | None = None

    @property
    def scale(self) -> Tensor | None:
        return self._sums.scale if self._sums else None

    @property
    def bytes_per_position(self) -> int:
        """What the sums of grad_input take for each output position of a block of whole images."""
        return self._sums.image_bytes // self._operands.geometry.positions if self._sums else 0

    def allocate_columns(self, rows: int, shared: bool) -> None:
        """Buffers for blocks of up to `rows`; one for both where they may share their memory."""
        new = self._operands.columns_buffer
        self._grad_columns = new(rows) if self._of_samples else None
        self._columns = None
        if self._needs_weight:
            self._columns = self._grad_columns if shared and self._of_samples else new(rows)

    def columns(self, rows: int) -> tuple[Tensor | None, Tensor | None]:
        """Columns and their gradient, of a block."""
        buffers = (self._columns, self._grad_columns)
        return tuple(None if buffer is None else self._operands.columns(buffer, rows) for buffer in buffers)

    def begin(self, images: Images) -> None:
        self.input = self._sums.begin(images) if self._sums else None

    def add_to_weight(self, left: Tensor, right: Tensor) -> None:
        """Add left x right, each (groups, ., .); half types are summed in float32, between blocks too."""
        dtype = accumulate_type(left.dtype)
        if self._weight is None:
            self._weight = _product(left, right, dtype)
        elif left.dtype != dtype:
            self._weight += _product(left, right, dtype)
        elif len(left) == 1:
            self._weight[0].addmm_(left[0], right[0])
        else:
            self._weight.baddbmm_(left, right)

    def end(self, images: Images) -> None:
        if self._sums:
            self._sums.end(images)

    def results(self) -> Gradients:
        grad_input = self._sums.result if self._sums else None
        grad_weight = self._grad_weight() if self._needs_weight else None
        return tuple(map(channels_first, (grad_input, self.offset, grad_weight, self.mask)))

    def _grad_weight(self) -> Tensor:
        """(C_out, kh, kw, C_in / groups); zeros where there was no block."""
        weight, geometry = self._operands.weight, self._operands.geometry
        sums = torch.zeros_like(weight) if self._weight is None else self._weight
        return sums.reshape(-1, *geometry.kernel, self._operands.input.shape[3] // self._operands.groups)


def _product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """left x right, each (groups, ., .), in a type that may be wider: on CUDA torch has such products."""
    wider = {"out_dtype": dtype} if left.is_cuda and left.dtype != dtype else {}
    if not wider:
        left, right = left.to(dtype), right.to(dtype)
    if len(left) == 1:
        return torch.mm(left[0], right[0], **wider)[None]
    return torch.bmm(left, right, **wider)


class SumsInPlace:
    """grad_input is of the accumulate type: its own memory holds the sums."""

    scale = None
    image_bytes = 0

    def __init__(self, input: Tensor) -> None:
        self.result = torch.zeros_like(input)

    def begin(self, images: Images) -> Tensor:
        return self.result[images.first : images.first + images.count]

    def end(self, images: Images) -> None:
        pass


class SumsApart:
    """The sums of some images at a time in another type, float32 or (with a scale) integer."""

    def __init__(self, input: Tensor, scale: Tensor | None) -> None:
        self.scale = scale
        self.result = torch.empty_like(input)
        self._type = accumulate_type(input.dtype) if scale is None else torch.int64
        # Integers are converted through a copy in the accumulate type.
        self.image_bytes = input[0].numel() * (4 if scale is None else 16) if len(input) else 0

    def begin(self, images: Images) -> Tensor:
        self._sums = None  # returned before its successor is taken
        self._sums = torch.zeros_like(self.result[: images.count], dtype=self._type)
        return self._sums

    def end(self, images: Images) -> None:
        sums = self._sums if self.scale is None else fixed_point.to_floating_point(self._sums, self.scale)
        self.result[images.first : images.first + images.count] = sums


def sums_like(input: Tensor, scale: Tensor | None) -> SumsInPlace | SumsApart:
    """Sums for the gradient of `input` (N, H, W, C), in fixed point where there is a scale."""
    in_place = scale is None and input.dtype == accumulate_type(input.dtype)
    return SumsInPlace(input) if in_place else SumsApart(input, scale)


def _sums_of_grad_input(operands: Operands, grad_output: Tensor) -> SumsInPlace | SumsApart:
    geometry, scale = operands.geometry, None
    if torch.are_deterministic_algorithms_enabled():
        contributions = geometry.positions * geometry.taps
        accumulate = accumulate_type(operands.input.dtype)
        scale = fixed_point.scale_of(grad_output, operands.weight, operands.mask, contributions, accumulate)
    return sums_like(operands.input, scale)


def channels_last(tensor: Tensor) -> Tensor:
    """(N, C, H, W) as dense (N, H, W, C)."""
    return tensor.permute(0, 2, 3, 1).contiguous()


def channels_first(tensor: Tensor | None) -> Tensor | None:
    """(N, H, W, C) as (N, C, H, W), without a copy."""
    return None if tensor is None else tensor.permute(0, 3, 1, 2)
