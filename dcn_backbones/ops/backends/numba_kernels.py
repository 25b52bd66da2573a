"""The two kernels of `blocked` in Numba. A warp takes one sample: an output position, an offset group, a tap.

The threads of a warp take neighbouring channels, so that its reads and its atomic additions fall on
neighbouring memory. All arrays are flat; indices have 64 bits, as all whole numbers in Numba.

Written for Numba's simulator too, which has no warp shuffles (sums over channels meet in shared memory)
and runs every thread of a block as one of Python's (hence the smaller blocks there).
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import config, cuda
from numba.cuda import libdevice

from .fixed_point import NOT_FINITE

LANES, SAMPLES = (2, 2) if config.ENABLE_CUDASIM else (32, 4)
"""Threads a sample, and samples a block."""


class Sizes(NamedTuple):
    """What both kernels are told beside their arrays; whole numbers only."""

    first: int  # output position of the batch that the block begins with
    rows: int
    height: int
    width: int
    channels: int
    groups: int  # of the weight
    offset_groups: int
    out_height: int
    out_width: int
    kernel_height: int
    kernel_width: int
    stride_y: int
    stride_x: int
    padding_y: int
    padding_x: int
    dilation_y: int
    dilation_x: int


@functools.cache
def gather_kernel(element: str) -> Callable:
    """(input, offset, mask, has_mask, columns, sizes): `BlockedBackend.gather` for an element type."""
    real, load, store = element_access(element)
    locate, read = _locate(real), _read(real, load)
    one = real(1)

    @cuda.jit
    def gather(input, offset, mask, has_mask, columns, sizes):
        start = cuda.blockIdx.x * SAMPLES + cuda.threadIdx.y
        for sample in range(start, _samples(sizes), cuda.gridDim.x * SAMPLES):
            index, corner0, corner1, corner2, corner3, dy, dx = locate(offset, sample, sizes)
            factor = mask[index] if has_mask else one
            first, last = _channels(sample, sizes)
            for channel in range(first + cuda.threadIdx.x, last, LANES):
                top = (one - dx) * read(input, corner0, channel) + dx * read(input, corner1, channel)
                bottom = (one - dx) * read(input, corner2, channel) + dx * read(input, corner3, channel)
                value = (one - dy) * top + dy * bottom
                store(columns, _column(sample, channel, sizes), factor * value)

    return gather


@functools.cache
def gather_backward_kernel(element: str, fixed_point: bool) -> Callable:
    """(grad_columns, input, offset, mask, columns, grad_offset, grad_mask, grad_input, scale, has, sizes).

    `has` says, in this order, whether mask, columns, grad_offset, grad_mask and grad_input are what they
    are called; what is not there is any array of the right type. grad_input begins with its first image.
    """
    real, load, store = element_access(element)
    locate, read, sum_up = _locate(real), _read(real, load), sum_over_lanes(real)
    add = addition(real, fixed_point)
    zero, one = real(0), real(1)

    @cuda.jit
    def gather_backward(
        grad_columns, input, offset, mask, columns, grad_offset, grad_mask, grad_input, scale, has, sizes
    ):
        has_mask, wants_columns, wants_offset, wants_mask, wants_input = has
        sums = cuda.shared.array((3, SAMPLES, LANES), real)
        samples = _samples(sizes)
        before = _first_pixel(sizes)
        for start in range(cuda.blockIdx.x * SAMPLES, samples, cuda.gridDim.x * SAMPLES):
            sample = start + cuda.threadIdx.y
            sum_y, sum_x, sum_mask = zero, zero, zero
            if sample < samples:
                index, corner0, corner1, corner2, corner3, dy, dx = locate(offset, sample, sizes)
                factor = mask[index] if has_mask else one
                first, last = _channels(sample, sizes)
                for channel in range(first + cuda.threadIdx.x, last, LANES):
                    column = _column(sample, channel, sizes)
                    gradient = load(grad_columns, column)
                    by_value = gradient * factor
                    pixel0, pixel1 = read(input, corner0, channel), read(input, corner1, channel)
                    pixel2, pixel3 = read(input, corner2, channel), read(input, corner3, channel)
                    top = (one - dx) * pixel0 + dx * pixel1
                    bottom = (one - dx) * pixel2 + dx * pixel3
                    value = (one - dy) * top + dy * bottom
                    sum_y += by_value * (bottom - top)
                    sum_x += by_value * ((one - dy) * (pixel1 - pixel0) + dy * (pixel3 - pixel2))
                    sum_mask += gradient * value
                    if wants_columns:
                        store(columns, column, factor * value)
                    if wants_input:
                        at = channel - before
                        add(grad_input, corner0, at, by_value * (one - dy) * (one - dx), scale)
                        add(grad_input, corner1, at, by_value * (one - dy) * dx, scale)
                        add(grad_input, corner2, at, by_value * dy * (one - dx), scale)
                        add(grad_input, corner3, at, by_value * dy * dx, scale)
            if wants_offset or wants_mask:
                sum_up(sums, sum_y, sum_x, sum_mask)
                if cuda.threadIdx.x == 0 and sample < samples:
                    index = sizes.first * _per_position(sizes) + sample
                    if wants_offset:
                        grad_offset[2 * index] = sums[0, cuda.threadIdx.y, 0]
                        grad_offset[2 * index + 1] = sums[1, cuda.threadIdx.y, 0]
                    if wants_mask:
                        grad_mask[index] = sums[2, cuda.threadIdx.y, 0]
                cuda.syncthreads()  # the next sample's sums take the same memory

    return gather_backward


# Samples are numbered [row][offset group][tap], as offsets and mask are.


@cuda.jit(device=True)
def _taps(sizes):
    return sizes.kernel_height * sizes.kernel_width


@cuda.jit(device=True)
def _per_position(sizes):
    """Samples of an output position."""
    return sizes.offset_groups * _taps(sizes)


@cuda.jit(device=True)
def _samples(sizes):
    return sizes.rows * _per_position(sizes)


@cuda.jit(device=True)
def _channels(sample, sizes):
    """The channels that the sample's offset group covers: the first, and the one after the last."""
    channels = sizes.channels // sizes.offset_groups
    group = sample // _taps(sizes) % sizes.offset_groups
    return group * channels, (group + 1) * channels


@cuda.jit(device=True)
def _column(sample, channel, sizes):
    """Index into columns, (groups, rows, K, channels of a group)."""
    taps = _taps(sizes)
    line = sample // _per_position(sizes) * taps + sample % taps
    if sizes.groups == 1:  # spares the most common case two divisions a channel
        return line * sizes.channels + channel
    channels = sizes.channels // sizes.groups
    return (channel // channels * sizes.rows * taps + line) * channels + channel % channels


@cuda.jit(device=True)
def _first_pixel(sizes):
    """Index, in the input, of the image that holds the block's first position."""
    return sizes.first // (sizes.out_height * sizes.out_width) * sizes.height * sizes.width * sizes.channels


@cuda.jit(device=True)
def _pixel(image, y, x, sizes):
    """Index of the first channel of a pixel of the input, -1 where there is none."""
    if y < 0 or y >= sizes.height or x < 0 or x >= sizes.width:
        return -1
    return ((image * sizes.height + y) * sizes.width + x) * sizes.channels


def _locate(real) -> Callable:
    """The corners around a sample; a sample that does not count has none."""

    @cuda.jit(device=True)
    def locate(offset, sample, sizes):
        position, tap = sizes.first + sample // _per_position(sizes), sample % _taps(sizes)
        row, column = position // sizes.out_width % sizes.out_height, position % sizes.out_width
        index = sizes.first * _per_position(sizes) + sample
        tap_y, tap_x = tap // sizes.kernel_width, tap % sizes.kernel_width
        grid_y = row * sizes.stride_y - sizes.padding_y + tap_y * sizes.dilation_y
        grid_x = column * sizes.stride_x - sizes.padding_x + tap_x * sizes.dilation_x
        y, x = real(grid_y) + offset[2 * index], real(grid_x) + offset[2 * index + 1]
        # Every comparison is false for NaN, and only positions that fit an integer are converted.
        if not (y > -1 and y < real(sizes.height) and x > -1 and x < real(sizes.width)):
            return index, -1, -1, -1, -1, real(0), real(0)
        image = position // (sizes.out_height * sizes.out_width)
        top, left = np.int64(math.floor(y)), np.int64(math.floor(x))
        return (
            index,
            _pixel(image, top, left, sizes),
            _pixel(image, top, left + 1, sizes),
            _pixel(image, top + 1, left, sizes),
            _pixel(image, top + 1, left + 1, sizes),
            y - real(top),
            x - real(left),
        )

    return locate


def _read(real, load) -> Callable:
    @cuda.jit(device=True)
    def read(input, corner, channel):
        return load(input, corner + channel) if corner >= 0 else real(0)

    return read


def sum_over_lanes(real) -> Callable:
    @cuda.jit(device=True)
    def sum_up(sums, first, second, third):
        """Leave the sums over the lanes of each sample in lane 0; every thread of the block takes part."""
        lane, sample = cuda.threadIdx.x, cuda.threadIdx.y
        sums[0, sample, lane], sums[1, sample, lane], sums[2, sample, lane] = first, second, third
        cuda.syncthreads()
        step = LANES // 2
        while step > 0:
            if lane < step:
                for i in range(3):
                    sums[i, sample, lane] += sums[i, sample, lane + step]
            cuda.syncthreads()
            step //= 2

    return sum_up


def addition(real, fixed_point: bool) -> Callable:
    """Adds atomically to a channel of a pixel; of none where the pixel is -1."""
    half = real(0.5)

    @cuda.jit(device=True)
    def add(grad_input, corner, channel, value, scale):
        if corner >= 0:
            cuda.atomic.add(grad_input, corner + channel, value)

    @cuda.jit(device=True)
    def add_fixed_point(grad_input, corner, channel, value, scale):
        if corner < 0:
            return
        if math.isfinite(value):
            units = value * scale[0]
            rounded = np.int64(units + half if units > 0 else units - half)
            cuda.atomic.add(grad_input, corner + channel, rounded)
        else:
            cuda.atomic.exch(grad_input, corner + channel, np.int64(NOT_FINITE))

    return add_fixed_point if fixed_point else add


def element_access(name: str) -> tuple[Callable, Callable, Callable]:
    """The type to compute in, how an element is read in it and how it is written.

    bfloat16, which neither torch's array interface nor NumPy has, comes as the upper 16 bits of a float32.
    """
    real = np.float64 if name == "float64" else np.float32

    @cuda.jit(device=True)
    def load(array, index):
        return real(array[index])

    @cuda.jit(device=True)
    def store(array, index, value):
        array[index] = value

    return (real, _load_bfloat16, _store_bfloat16) if name == "bfloat16" else (real, load, store)


if config.ENABLE_CUDASIM:

    def _as_float(bits):
        return np.int32(bits).view(np.float32)

    def _as_int(value):
        return np.float32(value).view(np.int32)

else:
    _as_float, _as_int = libdevice.int_as_float, libdevice.float_as_int


@cuda.jit(device=True)
def _load_bfloat16(array, index):
    bits = np.int64(array[index]) << 16
    return _as_float(np.int32(bits if bits < 2**31 else bits - 2**32))


@cuda.jit(device=True)
def _store_bfloat16(array, index, value):
    """Round to the nearest, ties to even; NaN stays NaN."""
    bits = np.int64(_as_int(value)) & 0xFFFFFFFF
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    array[index] = np.uint16(rounded if value == value else 0x7FC0)
