"""Deformable RoI pooling in plain PyTorch: the meaning of the operator, on any device.

R regions, G offset groups, K = kh * kw bins, T sampling points of a bin along an axis. Positions of an axis
depend on the point on that axis alone, so a bin is the sum over pairs of a tap in y and a tap in x.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..transforms import values_can_be_read
from .base import Gradients, Pair, accumulate_type

MOST_POINTS = 2**15
"""Of a bin along an axis, chosen by the size of the region; a region that needs more is outside."""

_ELEMENTS_OF_A_CHUNK = 2**22  # of the output; about ten times as many are alive at once


class _Settings(NamedTuple):
    output_size: Pair
    spatial_scale: float
    sampling_ratio: int
    gamma: float
    position_sensitive: bool


class _Tap(NamedTuple):
    """A pixel row (or column) that a sampling point looks at; all (R, G, kh, kw)."""

    index: Tensor
    weight: Tensor
    slope: Tensor  # of the weight, by the position
    counts: Tensor


class _Samples(NamedTuple):
    """Where the bins of some regions look."""

    image: Tensor  # (R, 1, 1, 1), index in the batch
    y: list[_Tap]  # two for each point
    x: list[_Tap]
    points: Tensor  # (R, 1, 1, 1), of a bin, at least 1
    reach: tuple[Tensor, Tensor]  # gamma times height and width of the region, (R, 1, 1)


def deform_roi_pool_formula(
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    output_size: Pair,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
    position_sensitive: bool,
) -> Tensor:
    """Equation 6 of the DCNv1 paper; with a mask, equation 2 of the DCNv2 paper.

    Differentiable any number of times, in reverse and in forward mode, by all but the boxes. Half types
    are computed in float32. Shapes as in `Backend.deform_roi_pool_forward`.
    """
    settings = _Settings(output_size, spatial_scale, sampling_ratio, gamma, position_sensitive)
    rows = _rows(input, _offset_groups(offset, mask), settings)
    return _pool(rows, input.shape, boxes, offset, mask, settings).to(input.dtype)


def forward(input, boxes, offset, mask, *settings) -> Tensor:
    """The formula, some regions at a time."""
    settings = _Settings(*settings)
    rows = _rows(input, _offset_groups(offset, mask), settings)
    parts = [
        _pool(rows, input.shape, boxes[part], _at(offset, part), _at(mask, part), settings)
        for part in _parts(input, boxes, settings)
    ]
    return torch.cat(parts).to(input.dtype)


def backward(grad_output, input, boxes, offset, mask, *settings_and_needs) -> Gradients:
    """The gradients of input, offset and mask, some regions at a time."""
    *settings, (needs_input, needs_offset, needs_mask) = settings_and_needs
    settings = _Settings(*settings)
    rows = _rows(input, _offset_groups(offset, mask), settings)
    grad_rows = torch.zeros_like(rows) if needs_input else None
    positions = [
        _backward_part(
            grad_output[part],
            rows,
            grad_rows,
            input.shape,
            boxes[part],
            _at(offset, part),
            _at(mask, part),
            settings,
            needs_offset or needs_mask,
        )
        for part in _parts(input, boxes, settings)
    ]
    grad_input = _from_rows(grad_rows, input, _offset_groups(offset, mask), settings) if needs_input else None
    grad_offset = torch.cat([part[0] for part in positions]) if needs_offset else None
    grad_mask = torch.cat([part[1] for part in positions]) if needs_mask else None
    return grad_input, grad_offset, grad_mask


def _pool(rows, input_shape, boxes, offset, mask, settings: _Settings) -> Tensor:
    """The output (R, C_out, kh, kw) in the type of `rows`."""
    samples = _sample(boxes, offset, mask, input_shape, rows.dtype, settings)
    total = 0
    for y, x in _pairs(samples):
        pixels = _gather(rows, _index(samples, y, x, input_shape, settings), y.counts & x.counts)
        total = total + (y.weight * x.weight).unsqueeze(-1) * pixels
    total = total / samples.points.unsqueeze(-1)
    if mask is not None:
        total = total * mask.to(rows.dtype).unsqueeze(-1)
    return total.permute(0, 1, 4, 2, 3).flatten(1, 2)


def _backward_part(
    grad_output, rows, grad_rows, input_shape, boxes, offset, mask, settings: _Settings, needs_positions: bool
) -> tuple[Tensor, Tensor] | None:
    """Add to `grad_rows`, where it is there, and return the gradients of offset and mask."""
    samples = _sample(boxes, offset, mask, input_shape, rows.dtype, settings)
    groups = _offset_groups(offset, mask)
    grad_mean = grad_output.to(rows.dtype).unflatten(1, (groups, -1)).permute(0, 1, 3, 4, 2)
    grad_mean = grad_mean / samples.points.unsqueeze(-1)  # (R, G, kh, kw, C_out / G)
    modulation = 1 if mask is None else mask.to(rows.dtype)
    value = slope_y = slope_x = grad_mean.new_zeros(grad_mean.shape[:-1])
    for y, x in _pairs(samples):
        index, counts = _index(samples, y, x, input_shape, settings), y.counts & x.counts
        if grad_rows is not None:
            weight = torch.where(counts, y.weight * x.weight * modulation, 0)
            grad_rows.index_add_(0, index.flatten(), (grad_mean * weight.unsqueeze(-1)).flatten(0, -2))
        if needs_positions:
            product = (grad_mean * _gather(rows, index, counts)).sum(-1)
            value = value + product * y.weight * x.weight
            slope_y = slope_y + product * y.slope * x.weight
            slope_x = slope_x + product * y.weight * x.slope
    reach_y, reach_x = (reach.unsqueeze(1) * modulation for reach in samples.reach)
    return torch.stack([slope_x * reach_x, slope_y * reach_y], 2).flatten(1, 2), value


def _sample(boxes, offset, mask, input_shape, dtype: torch.dtype, settings: _Settings) -> _Samples:
    batch, _, height, width = input_shape
    image, x1, y1, x2, y2 = boxes.detach().to(dtype).unbind(1)
    x1, y1, x2, y2 = (t * settings.spatial_scale - 0.5 for t in (x1, y1, x2, y2))
    sizes = y2 - y1, x2 - x1
    points = [_points(sizes[i], settings.output_size[i], settings.sampling_ratio) for i in range(2)]
    there = (image >= 0) & (image < batch)
    for number in (y1, x1, *sizes):
        there = there & number.isfinite()
    if settings.sampling_ratio <= 0:
        there = there & (points[0] <= MOST_POINTS) & (points[1] <= MOST_POINTS)
    # What is not there is replaced before anything is computed from it: NaN would enter the gradients.
    y1, x1, *sizes, image = (torch.where(there, t, 0) for t in (y1, x1, *sizes, image))
    points = [torch.where(there, n, 0).clamp(min=0) for n in points]
    shifts = [None, None]
    reach = [(settings.gamma * size)[:, None, None] for size in sizes]
    if offset is not None:
        x, y = offset.to(dtype).unflatten(1, (-1, 2)).unbind(2)  # x comes first
        shifts = [reach[0].unsqueeze(1) * y, reach[1].unsqueeze(1) * x]
    shape = (boxes.shape[0], _offset_groups(offset, mask), *settings.output_size)
    taps = [
        list(_taps(axis, start, size, n, shift, length, shape, settings.sampling_ratio))
        for axis, (start, size, n, shift, length) in enumerate(
            zip((y1, x1), sizes, points, shifts, (height, width), strict=True)
        )
    ]
    total = (points[0] * points[1]).clamp(min=1)[:, None, None, None]
    return _Samples(image[:, None, None, None], *taps, total, tuple(reach))


def _points(size: Tensor, bins: int, sampling_ratio: int) -> Tensor:
    """How many points a bin has along an axis, (R,): as many as pixels, rounded up, if none are asked for."""
    return torch.full_like(size, sampling_ratio) if sampling_ratio > 0 else _quotient(size, bins).ceil()


def _quotient(tensor: Tensor, number: int) -> Tensor:
    """Rounded as a division: torch multiplies by the reciprocal where it divides by a number on a GPU."""
    return tensor / torch.full_like(tensor, number)


def _taps(axis: int, start, size, points, shift, length: int, shape, sampling_ratio: int) -> Iterator[_Tap]:
    """The taps of all points along an axis, y being axis 0: those that can be inside, and some around."""
    start, size, points = (t[:, None, None, None] for t in (start, size, points))
    bins = torch.arange(shape[2 + axis], device=start.device, dtype=start.dtype)
    bin_size = _quotient(size, bins.shape[0])
    first = (start if shift is None else start + shift) + (bins[:, None] if axis == 0 else bins) * bin_size
    first = first.expand(shape)
    divisor = points.clamp(min=1)
    skipped = 0
    if sampling_ratio <= 0:
        # Points are then more than half a pixel apart, or the only ones: no more than these can be inside.
        skipped = (((-1 - first.detach()) * divisor / bin_size - 0.5).floor() - 1).clamp(min=0)
        skipped = torch.where(points > 1, skipped, 0)
    for number in range(_most_points(points, length, sampling_ratio)):
        point = number + skipped
        position = first + (point + 0.5) * bin_size / divisor
        yield from _taps_at(position, (point < points) & (position >= -1) & (position <= length), length)


def _most_points(points: Tensor, length: int, sampling_ratio: int) -> int:
    """How many points of a bin to look at; at least one, so that results depend on what they should."""
    if sampling_ratio > 0:
        return sampling_ratio
    bound = 2 * length + 5
    if not values_can_be_read(points):
        return bound
    return min(max(1, int(points.max())), bound) if points.numel() else 1


def _taps_at(position: Tensor, counts: Tensor, length: int) -> tuple[_Tap, _Tap]:
    """The pixels on both sides: beyond the border's own centre the image goes on as its border."""
    position = torch.where(counts, position, 0)
    inner = (position >= 0) & (position < length - 1)
    position = position.clamp(0, length - 1)
    low = position.detach().floor()
    fraction = position - low
    slope = inner.to(position.dtype)
    return (
        _Tap(low, 1 - fraction, -slope, counts),
        _Tap((low + 1).clamp(max=length - 1), fraction, slope, counts),
    )


def _pairs(samples: _Samples) -> Iterator[tuple[_Tap, _Tap]]:
    return ((y, x) for y in samples.y for x in samples.x)


def _index(samples: _Samples, y: _Tap, x: _Tap, input_shape, settings: _Settings) -> Tensor:
    """Into the rows, (R, G, kh, kw)."""
    height, width = input_shape[2:]
    pixel = (samples.image.long() * height + y.index.long()) * width + x.index.long()
    groups, bins = pixel.shape[1], _bins(settings)
    index = pixel * groups + torch.arange(groups, device=pixel.device).view(-1, 1, 1)
    if not settings.position_sensitive:
        return index
    return index * bins + torch.arange(bins, device=pixel.device).view(settings.output_size)


def _gather(rows: Tensor, index: Tensor, counts: Tensor) -> Tensor:
    """The pixels' channels of a group, (R, G, kh, kw, C_out / G), zero where they do not count."""
    pixels = rows.index_select(0, index.flatten()).view(*index.shape, rows.shape[1])
    return torch.where(counts.unsqueeze(-1), pixels, 0)


def _rows(input: Tensor, groups: int, settings: _Settings) -> Tensor:
    """The input (N, C, H, W) as (N * H * W * G * bins, C_out / G): what one bin reads of a pixel is a row.

    Channels are `[group][channel of the output]`, then `[bin]` where they are position-sensitive.
    """
    input = input.to(accumulate_type(input.dtype))
    split = input.unflatten(1, (groups, -1, _bins(settings) if settings.position_sensitive else 1))
    return split.permute(0, 4, 5, 1, 3, 2).flatten(0, 4)


def _from_rows(rows: Tensor, input: Tensor, groups: int, settings: _Settings) -> Tensor:
    """The transpose of `_rows`."""
    batch, _, height, width = input.shape
    bins = _bins(settings) if settings.position_sensitive else 1
    split = rows.view(batch, height, width, groups, bins, rows.shape[1])
    return split.permute(0, 3, 5, 4, 1, 2).reshape(input.shape)


def _bins(settings: _Settings) -> int:
    return settings.output_size[0] * settings.output_size[1]


def _out_channels(input_shape, settings: _Settings) -> int:
    return input_shape[1] // _bins(settings) if settings.position_sensitive else input_shape[1]


def _offset_groups(offset: Tensor | None, mask: Tensor | None) -> int:
    if offset is not None:
        return offset.shape[1] // 2
    return 1 if mask is None else mask.shape[1]


def _at(tensor: Tensor | None, part: slice) -> Tensor | None:
    return None if tensor is None else tensor[part]


def _parts(input: Tensor, boxes: Tensor, settings: _Settings) -> list[slice]:
    """Slices of the regions, at least one."""
    per_region = _out_channels(input.shape, settings) * _bins(settings)
    step = max(1, _ELEMENTS_OF_A_CHUNK // max(1, per_region))
    return [slice(first, first + step) for first in range(0, max(1, boxes.shape[0]), step)]
