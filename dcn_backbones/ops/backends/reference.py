"""The operators in plain PyTorch: their meaning, on any device. Here is deformable convolution."""

from typing import NamedTuple

import torch
from torch import Tensor

from . import reference_roi_pool
from .base import OPERATORS, Backend, Gradients, Pair, accumulate_type


class ReferenceBackend(Backend):
    """Slow and readable; every other backend is checked against it."""

    name = "reference"
    operators = frozenset(OPERATORS)

    def unavailable_reasons(self) -> list[str]:
        return []

    def deform_conv2d_forward(self, input, offset, weight, bias, mask, stride, padding, dilation) -> Tensor:
        return deform_conv2d_formula(input, offset, weight, bias, mask, stride, padding, dilation)

    def deform_conv2d_backward(
        self, grad_output, input, offset, weight, mask, stride, padding, dilation, needs
    ) -> Gradients:
        needs_input, needs_offset, needs_weight, needs_mask = needs
        compute_type = accumulate_type(input.dtype)
        samples = _sample(input.to(compute_type), offset, weight.shape[2:], stride, padding, dilation)
        mask_ = _per_sample(mask, samples.value)

        grad_output = grad_output.to(compute_type)
        grad_columns = _product_with_weight_transposed(grad_output, weight.to(compute_type), samples.value)
        grad_value = grad_columns if mask is None else grad_columns * mask_
        grad_input = grad_offset = grad_weight = grad_mask = None
        if needs_input:
            grad_input = _scatter(grad_value, samples.corners, input)
        if needs_offset:
            slopes = torch.stack([samples.slope_y, samples.slope_x], dim=3)  # (N, G, C/G, 2, K, H_out, W_out)
            grad_offset = (grad_value.unsqueeze(3) * slopes).sum(2).transpose(2, 3).reshape(offset.shape)
        if needs_weight:
            columns = samples.value if mask is None else samples.value * mask_
            grad_weight = _product_of_columns(grad_output, columns, weight)
        if needs_mask:
            grad_mask = (grad_columns * samples.value).sum(2).reshape(mask.shape)
        return grad_input, grad_offset, grad_weight, grad_mask

    def deform_roi_pool_forward(self, *arguments) -> Tensor:
        return reference_roi_pool.forward(*arguments)

    def deform_roi_pool_backward(self, *arguments) -> Gradients:
        return reference_roi_pool.backward(*arguments)


def deform_conv2d_formula(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    """Equation 2 of the DCNv1 paper; with a mask, equation 1 of the DCNv2 paper.

    Differentiable any number of times, in reverse and in forward mode. Half types are computed in
    float32. Shapes as in `dcn_backbones.ops.deform_conv2d`.
    """
    compute_type = accumulate_type(input.dtype)
    columns = _sample(input.to(compute_type), offset, weight.shape[2:], stride, padding, dilation).value
    if mask is not None:
        columns = columns * _per_sample(mask, columns)
    output = _product_with_weight(columns, weight.to(compute_type))
    if bias is not None:
        output = output + bias.to(compute_type)[:, None, None]
    return output.to(input.dtype)


class _Corner(NamedTuple):
    """One of the four pixels around each position."""

    index: Tensor  # (N, G, K * H_out * W_out), into the H * W pixels
    inside: Tensor  # (N, G, K, H_out, W_out)
    weight: Tensor  # (N, G, K, H_out, W_out)


class _Samples(NamedTuple):
    """What the taps see; the first three are (N, G, C/G, K, H_out, W_out)."""

    value: Tensor
    slope_y: Tensor  # of the value, by the position
    slope_x: Tensor
    corners: list[_Corner]


def _sample(
    input: Tensor, offset: Tensor, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> _Samples:
    """Interpolate the input where each tap looks: equations 3 and 4 of the DCNv1 paper."""
    y, x = _positions(offset.to(input.dtype), kernel_size, stride, padding, dilation, input.shape[2:])
    image = input.unflatten(1, (y.shape[1], -1)).flatten(3)  # (N, G, C/G, H * W)
    top, left = y.detach().floor(), x.detach().floor()
    below, right = y - top, x - left
    corners = [
        _corner(top, left, (1 - below) * (1 - right), input.shape),
        _corner(top, left + 1, (1 - below) * right, input.shape),
        _corner(top + 1, left, below * (1 - right), input.shape),
        _corner(top + 1, left + 1, below * right, input.shape),
    ]
    pixels = [_gather(image, corner) for corner in corners]
    value = sum(p * corner.weight.unsqueeze(2) for p, corner in zip(pixels, corners, strict=True))
    top_left, top_right, bottom_left, bottom_right = pixels
    below, right = below.unsqueeze(2), right.unsqueeze(2)
    slope_y = (bottom_left - top_left) * (1 - right) + (bottom_right - top_right) * right
    slope_x = (top_right - top_left) * (1 - below) + (bottom_right - bottom_left) * below
    return _Samples(value, slope_y, slope_x, corners)


def _positions(
    offset: Tensor, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, input_size: Pair
) -> tuple[Tensor, Tensor]:
    """Where each tap samples: y and x, both (N, G, K, H_out, W_out).

    A position outside the image, NaN or infinite becomes -2, where no corner counts and nothing has a
    slope. It is replaced before interpolation: selecting afterwards would let NaN into the gradients.
    """
    offset = offset.unflatten(1, (-1, kernel_size[0], kernel_size[1], 2))
    shifts = offset.unbind(4)  # two of (N, G, kh, kw, H_out, W_out)
    grids = [_grid(shifts[i], i, stride[i], padding[i], dilation[i]) for i in range(2)]
    y, x = (shift + grid for shift, grid in zip(shifts, grids, strict=True))
    inside = (y > -1) & (y < input_size[0]) & (x > -1) & (x < input_size[1])
    return torch.where(inside, y, -2).flatten(2, 3), torch.where(inside, x, -2).flatten(2, 3)


def _grid(shift: Tensor, axis: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Positions of the undeformed taps on one axis, broadcastable to (N, G, kh, kw, H_out, W_out)."""
    taps = torch.arange(shift.shape[2 + axis], device=shift.device, dtype=shift.dtype) * dilation
    starts = torch.arange(shift.shape[4 + axis], device=shift.device, dtype=shift.dtype) * stride - padding
    shape = [1] * 6
    shape[2 + axis], shape[4 + axis] = len(taps), len(starts)
    return (taps[:, None] + starts).reshape(shape)


def _corner(row: Tensor, column: Tensor, weight: Tensor, input_shape: torch.Size) -> _Corner:
    height, width = input_shape[2:]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    return _Corner(index.long().flatten(2), inside, weight)


def _gather(image: Tensor, corner: _Corner) -> Tensor:
    """Pixels (N, G, C/G, K, H_out, W_out) of the image (N, G, C/G, H * W), zero outside."""
    index = corner.index.unsqueeze(2).expand(-1, -1, image.shape[2], -1)
    pixels = image.gather(3, index).unflatten(3, corner.inside.shape[2:])
    return torch.where(corner.inside.unsqueeze(2), pixels, 0)


def _scatter(grad_value: Tensor, corners: list[_Corner], input: Tensor) -> Tensor:
    """The transpose of the four gathers: the gradient of the input."""
    groups, channels = grad_value.shape[1:3]
    grad_image = grad_value.new_zeros(input.shape[0], groups, channels, input.shape[2] * input.shape[3])
    for corner in corners:
        source = grad_value * torch.where(corner.inside, corner.weight, 0).unsqueeze(2)
        index = corner.index.unsqueeze(2).expand(-1, -1, channels, -1)
        grad_image.scatter_add_(3, index, source.flatten(3))
    return grad_image.reshape(input.shape)


def _per_sample(mask: Tensor | None, columns: Tensor) -> Tensor | None:
    """Give the mask (N, G * K, H_out, W_out) the shape of the columns, broadcast over C/G."""
    if mask is None:
        return None
    return mask.to(columns.dtype).unflatten(1, (columns.shape[1], -1)).unsqueeze(2)


def _product_with_weight(columns: Tensor, weight: Tensor) -> Tensor:
    """Sum columns times weight (C_out, C/groups, kh, kw) over channels and taps."""
    columns, weight = _grouped(columns, weight)
    return torch.einsum("ngckhw,gock->ngohw", columns, weight).flatten(1, 2)


def _product_with_weight_transposed(grad_output: Tensor, weight: Tensor, columns: Tensor) -> Tensor:
    """The gradient of the columns, in the shape of `columns`."""
    grouped_columns, weight = _grouped(columns, weight)
    grad_output = grad_output.unflatten(1, weight.shape[:2])
    grad_columns = torch.einsum("ngohw,gock->ngckhw", grad_output, weight)
    return grad_columns.reshape(columns.shape)


def _product_of_columns(grad_output: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the weight."""
    grouped_columns, grouped_weight = _grouped(columns, weight)
    grad_output = grad_output.unflatten(1, grouped_weight.shape[:2])
    return torch.einsum("ngohw,ngckhw->gock", grad_output, grouped_columns).reshape(weight.shape)


def _grouped(columns: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Split (N, groups, C/groups, K, H_out, W_out) and (groups, C_out/groups, C/groups, K)."""
    columns = columns.flatten(1, 2)
    groups = columns.shape[1] // weight.shape[1]
    return columns.unflatten(1, (groups, -1)), weight.flatten(2).unflatten(0, (groups, -1))
