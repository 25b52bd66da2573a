"""The kernels of `dense_roi_pool` in Numba. A warp takes one cell: a bin of a region, for an offset group.

As in `numba_kernels`, threads of a warp take neighbouring channels, arrays are flat, and the simulator runs
all of it. `numbers` are spatial_scale and gamma; `has` says whether offset and mask are what they are called.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import config, cuda
from numba.cuda import libdevice

from .numba_kernels import LANES, SAMPLES, addition, element_access, sum_over_lanes
from .reference_roi_pool import MOST_POINTS


class RoiSizes(NamedTuple):
    """What the kernels are told beside their arrays; whole numbers only."""

    images: int
    height: int
    width: int
    channels: int
    regions: int
    out_channels: int
    offset_groups: int
    bins_height: int
    bins_width: int
    sampling_ratio: int
    position_sensitive: int


@functools.cache
def roi_pool_kernel(element: str) -> Callable:
    """(input, boxes, offset, mask, has, numbers, sizes, output): `DenseRoiPool.roi_pool`."""
    real, load, store = element_access(element)
    locate, tap = _locate(real), _tap(real)
    zero, one = real(0), real(1)

    @cuda.jit
    def roi_pool(input, boxes, offset, mask, has, numbers, sizes, output):
        start = cuda.blockIdx.x * SAMPLES + cuda.threadIdx.y
        for cell in range(start, _cells(sizes), cuda.gridDim.x * SAMPLES):
            pixels, divisor, axis_y, axis_x = locate(boxes, offset, has[0], cell, numbers, sizes)
            factor = (mask[cell] if has[1] else one) / divisor
            first, last = _channels(cell, sizes)
            for channel in range(first + cuda.threadIdx.x, last, LANES):
                value = zero
                for i in range(axis_y[0]):
                    y0, y1, top, bottom, _ = tap(i, axis_y, sizes.height)
                    line0, line1 = _lines(pixels + channel, y0, y1, sizes)
                    for j in range(axis_x[0] if y0 >= 0 else 0):
                        x0, x1, left, right, _ = tap(j, axis_x, sizes.width)
                        if x0 >= 0:
                            x0, x1 = x0 * sizes.channels, x1 * sizes.channels
                            upper = left * load(input, line0 + x0) + right * load(input, line0 + x1)
                            lower = left * load(input, line1 + x0) + right * load(input, line1 + x1)
                            value += top * upper + bottom * lower
                store(output, _output(cell, channel, sizes), factor * value)

    return roi_pool


@functools.cache
def roi_positions_kernel(element: str) -> Callable:
    """(input, boxes, offset, mask, has, numbers, sizes, grad_output, grad_offset, grad_mask, wants).

    The gradients of offset and mask; `wants` says which of the two.
    """
    real, load, _ = element_access(element)
    locate, tap, sum_up = _locate(real), _tap(real), sum_over_lanes(real)
    zero, one = real(0), real(1)

    @cuda.jit
    def roi_positions(
        input, boxes, offset, mask, has, numbers, sizes, grad_output, grad_offset, grad_mask, wants
    ):
        sums = cuda.shared.array((3, SAMPLES, LANES), real)
        cells = _cells(sizes)
        for start in range(cuda.blockIdx.x * SAMPLES, cells, cuda.gridDim.x * SAMPLES):
            there = start + cuda.threadIdx.y < cells
            cell = start + cuda.threadIdx.y if there else start
            pixels, divisor, axis_y, axis_x = locate(boxes, offset, has[0], cell, numbers, sizes)
            first, last = _channels(cell, sizes)
            sum_y, sum_x, sum_value = zero, zero, zero
            for channel in range(first + cuda.threadIdx.x, last, LANES):
                gradient = load(grad_output, _output(cell, channel, sizes)) / divisor
                for i in range(axis_y[0]):
                    y0, y1, top, bottom, slope_y = tap(i, axis_y, sizes.height)
                    line0, line1 = _lines(pixels + channel, y0, y1, sizes)
                    for j in range(axis_x[0] if y0 >= 0 else 0):
                        x0, x1, left, right, slope_x = tap(j, axis_x, sizes.width)
                        if x0 >= 0:
                            x0, x1 = x0 * sizes.channels, x1 * sizes.channels
                            pixel0, pixel1 = load(input, line0 + x0), load(input, line0 + x1)
                            pixel2, pixel3 = load(input, line1 + x0), load(input, line1 + x1)
                            upper, lower = left * pixel0 + right * pixel1, left * pixel2 + right * pixel3
                            across = top * (pixel1 - pixel0) + bottom * (pixel3 - pixel2)
                            sum_y += gradient * slope_y * (lower - upper)
                            sum_x += gradient * slope_x * across
                            sum_value += gradient * (top * upper + bottom * lower)
            sum_up(sums, sum_y, sum_x, sum_value)
            if cuda.threadIdx.x == 0 and there:
                if wants[0]:
                    factor, index = mask[cell] if has[1] else one, _shift_x(cell, sizes)
                    grad_offset[index] = axis_x[5] * factor * sums[1, cuda.threadIdx.y, 0]
                    grad_offset[index + _bins(sizes)] = axis_y[5] * factor * sums[0, cuda.threadIdx.y, 0]
                if wants[1]:
                    grad_mask[cell] = sums[2, cuda.threadIdx.y, 0]
            cuda.syncthreads()  # the next cell's sums take the same memory

    return roi_positions


@functools.cache
def roi_scatter_kernel(element: str, fixed_point: bool) -> Callable:
    """(boxes, offset, mask, has, numbers, sizes, grad_output, grad_input, scale): adds to grad_input."""
    real, load, _ = element_access(element)
    locate, tap, add = _locate(real), _tap(real), addition(real, fixed_point)
    one = real(1)

    @cuda.jit
    def roi_scatter(boxes, offset, mask, has, numbers, sizes, grad_output, grad_input, scale):
        start = cuda.blockIdx.x * SAMPLES + cuda.threadIdx.y
        for cell in range(start, _cells(sizes), cuda.gridDim.x * SAMPLES):
            pixels, divisor, axis_y, axis_x = locate(boxes, offset, has[0], cell, numbers, sizes)
            factor = (mask[cell] if has[1] else one) / divisor
            first, last = _channels(cell, sizes)
            for channel in range(first + cuda.threadIdx.x, last, LANES):
                gradient = factor * load(grad_output, _output(cell, channel, sizes))
                for i in range(axis_y[0]):
                    y0, y1, top, bottom, _ = tap(i, axis_y, sizes.height)
                    line0, line1 = _lines(pixels + channel, y0, y1, sizes)
                    for j in range(axis_x[0] if y0 >= 0 else 0):
                        x0, x1, left, right, _ = tap(j, axis_x, sizes.width)
                        if x0 >= 0:
                            x0, x1 = x0 * sizes.channels, x1 * sizes.channels
                            add(grad_input, line0, x0, gradient * top * left, scale)
                            add(grad_input, line0, x1, gradient * top * right, scale)
                            add(grad_input, line1, x0, gradient * bottom * left, scale)
                            add(grad_input, line1, x1, gradient * bottom * right, scale)

    return roi_scatter


# Cells are numbered [region][offset group][bin], as masks are.


@cuda.jit(device=True)
def _bins(sizes):
    return sizes.bins_height * sizes.bins_width


@cuda.jit(device=True)
def _cells(sizes):
    return sizes.regions * sizes.offset_groups * _bins(sizes)


@cuda.jit(device=True)
def _channels(cell, sizes):
    """The channels of the output that the cell's group covers: the first, and the one after the last."""
    channels = sizes.out_channels // sizes.offset_groups
    group = cell // _bins(sizes) % sizes.offset_groups
    return group * channels, (group + 1) * channels


@cuda.jit(device=True)
def _output(cell, channel, sizes):
    """Index into the output, (R, kh, kw, C_out)."""
    region = cell // (_bins(sizes) * sizes.offset_groups)
    return (region * _bins(sizes) + cell % _bins(sizes)) * sizes.out_channels + channel


@cuda.jit(device=True)
def _shift_x(cell, sizes):
    """Index into the offset, (R, G, 2, K), of the shift in x; that in y is K later."""
    return cell // _bins(sizes) * 2 * _bins(sizes) + cell % _bins(sizes)


@cuda.jit(device=True)
def _lines(at, y0, y1, sizes):
    """Indices into the input of two rows of pixels."""
    line = sizes.width * sizes.channels
    return at + y0 * line, at + y1 * line


def _locate(real) -> Callable:
    """Where a cell looks: the index of its image's first pixel in the input, the points of a bin, both axes.

    A region that is outside has no points to look at, and no offset leads it back.
    """
    axis, one = _axis(real), real(1)

    @cuda.jit(device=True)
    def locate(boxes, offset, has_offset, cell, numbers, sizes):
        box = cell // (_bins(sizes) * sizes.offset_groups) * 5
        tap, shift_x = cell % _bins(sizes), _shift_x(cell, sizes)
        x = axis(
            (boxes[box + 1], boxes[box + 3]),
            (offset, shift_x, has_offset),
            (tap % sizes.bins_width, sizes.bins_width, sizes.width),
            numbers,
            sizes,
        )
        y = axis(
            (boxes[box + 2], boxes[box + 4]),
            (offset, shift_x + _bins(sizes), has_offset),
            (tap // sizes.bins_width, sizes.bins_height, sizes.height),
            numbers,
            sizes,
        )
        if not (x[0] > 0 and y[0] > 0 and boxes[box] >= 0 and boxes[box] < real(sizes.images)):
            nothing = (0, real(0), real(0), real(0), 0, real(0))
            return 0, one, nothing, nothing
        pixels = np.int64(boxes[box]) * sizes.height * sizes.width * sizes.channels
        return pixels + tap * sizes.out_channels * sizes.position_sensitive, y[3] * x[3], y, x

    return locate


def _axis(real) -> Callable:
    """A bin along an axis: how many points are looked at, its position, its size, how many points it has, how
    many of them are skipped, and how far an offset of one reaches.

    All in the order of `csrc/README.md`, each product rounded by itself.
    """
    multiply, half, one, zero = _multiply(real), real(0.5), real(1), real(0)

    @cuda.jit(device=True)
    def axis(ends, shift, bin, numbers, sizes):
        offset, index, has_offset = shift
        number, bins, length = bin
        start = multiply(ends[0], numbers[0]) - half
        size = (multiply(ends[1], numbers[0]) - half) - start
        nothing = (0, zero, zero, zero, 0, zero)
        if not (math.isfinite(start) and math.isfinite(size)):
            return nothing
        bin_size, reach = size / real(bins), multiply(numbers[1], size)
        adaptive = sizes.sampling_ratio <= 0
        if adaptive and not (bin_size > 0 and bin_size <= real(MOST_POINTS)):
            return nothing
        points = math.ceil(bin_size) if adaptive else sizes.sampling_ratio
        first = start + multiply(reach, offset[index]) if has_offset else start
        first = first + multiply(real(number), bin_size)
        visited, skipped = points, 0
        if adaptive and points > 1:
            # They are over half a pixel apart: no more than these can be inside.
            visited = min(points, 2 * length + 5)
            before = (-one - first) * real(points) / bin_size - half
            if before > 0:
                skipped = max(np.int64(math.floor(before)) - 1, 0) if before < real(points) else points
        return visited, first, bin_size, real(points), skipped, reach

    return axis


def _tap(real) -> Callable:
    """Both pixels around a point along an axis, their weights, and the slope of the second's."""
    half, one, zero = real(0.5), real(1), real(0)

    @cuda.jit(device=True)
    def tap(number, axis, length):
        _, first, bin_size, points, skipped, _ = axis
        point, most = real(number + skipped), real(length - 1)
        position = first + (point + half) * bin_size / points
        # Every comparison is false for NaN, and only positions that fit an integer are converted.
        if not (point < points and position >= -one and position <= real(length)):
            return -1, -1, zero, zero, zero
        slope = one if position >= 0 and position < most else zero
        position = min(max(position, zero), most)
        low = np.int64(math.floor(position))
        fraction = position - real(low)
        return low, min(low + 1, length - 1), one - fraction, fraction, slope

    return tap


def _multiply(real) -> Callable:
    """A product that is rounded before anything is added to it: the compiler fuses both otherwise."""
    if config.ENABLE_CUDASIM:
        return lambda a, b: a * b
    return libdevice.dmul_rn if real is np.float64 else libdevice.fmul_rn
