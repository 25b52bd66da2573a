"""Deformable RoI pooling from the papers' equations, twice; nothing here is shared with the package.

Equation 6 of the DCNv1 paper, offsets normalised as in its section 2.2; equation 2 of the DCNv2 paper with
the mask. Of a bin, n_y x n_x points in the middles of equal cells are averaged. Sampling is by the DCNv1
paper's equations 3 and 4, a sum over all pixels, at the position that `roi_align`'s border rule makes of it.
"""

import math

import torch
from torch import Tensor

from .scalar_oracle import indices, interpolate


def one_number_at_a_time(
    case, input: Tensor, boxes: Tensor, offset: Tensor | None, mask: Tensor | None
) -> Tensor:
    """The output, each number by the equation itself."""
    kernel_height, kernel_width = case.output_size
    output = torch.zeros(len(boxes), case.out_channels, kernel_height, kernel_width, dtype=torch.float64)
    for r, c, i, j in indices(output.shape):
        image, x1, y1, x2, y2 = boxes[r].tolist()
        left, top, right, bottom = (number * case.spatial_scale - 0.5 for number in (x1, y1, x2, y2))
        width, height = right - left, bottom - top
        group = c // (case.out_channels // case.offset_groups)
        delta_x = delta_y = 0.0
        if offset is not None:
            delta_x = case.gamma * float(offset[r, 2 * group, i, j]) * width
            delta_y = case.gamma * float(offset[r, 2 * group + 1, i, j]) * height
        n_y = case.sampling_ratio if case.sampling_ratio > 0 else math.ceil(height / kernel_height)
        n_x = case.sampling_ratio if case.sampling_ratio > 0 else math.ceil(width / kernel_width)
        channel = (c * kernel_height + i) * kernel_width + j if case.position_sensitive else c
        total = 0.0
        for a, b in [(a, b) for a in range(n_y) for b in range(n_x)]:
            p_y = top + (i + (a + 0.5) / n_y) * height / kernel_height + delta_y
            p_x = left + (j + (b + 0.5) / n_x) * width / kernel_width + delta_x
            total += _interpolate(input[int(image), channel], p_y, p_x)
        modulation = 1.0 if mask is None else float(mask[r, i, j])
        output[r, c, i, j] = modulation * total / max(n_y * n_x, 1)
    return output


def _interpolate(image: Tensor, p_y: float, p_x: float) -> float:
    height, width = image.shape
    if not (-1 <= p_y <= height and -1 <= p_x <= width):
        return 0.0
    return interpolate(image, min(max(p_y, 0.0), height - 1.0), min(max(p_x, 0.0), width - 1.0))


def dense(case, input: Tensor, boxes: Tensor, offset: Tensor | None, mask: Tensor | None) -> Tensor:
    """The same as two matrix products for each region, which autograd differentiates."""
    groups = case.offset_groups
    parts = [input.sum() * input.new_zeros(0, case.out_channels, *case.output_size)]
    for r, (image, x1, y1, x2, y2) in enumerate(boxes.tolist()):
        left, top, right, bottom = (number * case.spatial_scale - 0.5 for number in (x1, y1, x2, y2))
        width, height = right - left, bottom - top
        shifts = input.new_zeros(groups, 2, *case.output_size)
        if offset is not None:
            shifts = case.gamma * offset[r].view(groups, 2, *case.output_size)
        weights_y = _matrix(top, height, shifts[:, 1], 0, input.shape[2], case)
        weights_x = _matrix(left, width, shifts[:, 0], 1, input.shape[3], case)
        if case.position_sensitive:
            pixels = input[int(image)].view(groups, -1, *case.output_size, *input.shape[2:])
            output = torch.einsum("gcijyx,gijy,gijx->gcij", pixels, weights_y, weights_x)
        else:
            pixels = input[int(image)].unflatten(0, (groups, -1))
            output = torch.einsum("gcyx,gijy,gijx->gcij", pixels, weights_y, weights_x)
        output = output.flatten(0, 1)
        parts.append((output if mask is None else output * mask[r])[None])
    return torch.cat(parts)


def _matrix(start: float, size: float, shifts: Tensor, axis: int, length: int, case) -> Tensor:
    """The mean weight of each pixel row (or column) in each bin, (G, kh, kw, length)."""
    bins = case.output_size[axis]
    n = case.sampling_ratio if case.sampling_ratio > 0 else math.ceil(size / bins)
    if n <= 0:
        nothing = torch.where(
            torch.zeros_like(shifts, dtype=torch.bool), shifts, 0
        )  # with a gradient of zero
        return nothing[..., None].expand(*shifts.shape, length)
    numbers = torch.arange(bins, dtype=shifts.dtype, device=shifts.device)
    numbers = numbers[:, None, None] if axis == 0 else numbers[None, :, None]
    points = (torch.arange(n, dtype=shifts.dtype, device=shifts.device) + 0.5) / n
    position = start + (numbers + points) * (size / bins) + size * shifts[..., None]
    inside = (position >= -1) & (position <= length)
    position = torch.where(inside, position, 0).clamp(0, length - 1)
    pixels = torch.arange(length, dtype=shifts.dtype, device=shifts.device)
    weights = (1 - (position[..., None] - pixels).abs()).clamp(min=0)
    return torch.where(inside[..., None], weights, 0).mean(-2)
