"""`blocked` with its two kernels in plain PyTorch: what the orchestration is tested with on any device."""

import torch
from torch import Tensor

from dcn_backbones.ops.backends import fixed_point, reference
from dcn_backbones.ops.backends.blocked import BlockedBackend
from dcn_backbones.ops.backends.blocks import Operands, channels_first, channels_last


class PlainPrimitives(BlockedBackend):
    """Samples the whole batch with the reference and keeps the rows of the block; remembers the blocks."""

    name = "plain_primitives"

    def __init__(self) -> None:
        self.blocks: list[tuple[int, int]] = []
        self.shared: list[bool] = []

    def unavailable_reasons(self) -> list[str]:
        return []

    def gather(self, operands, first, columns) -> None:
        rows = columns.shape[1]
        self.blocks.append((first, rows))
        values = sample(operands).value
        if operands.mask is not None:
            values = values * mask_per_tap(operands)
        columns.copy_(rows_of(values, first, rows).unflatten(2, (columns.shape[0], -1)).permute(2, 0, 1, 3))

    def gather_backward(self, operands, first, grad_columns, columns, gradients) -> None:
        rows = grad_columns.shape[1]
        self.shared.append(columns is not None and columns.data_ptr() == grad_columns.data_ptr())
        samples = sample(operands)
        gradient = spread(grad_columns.permute(1, 2, 0, 3).flatten(2), samples.value, first)
        by_value = gradient if operands.mask is None else gradient * mask_per_tap(operands)
        if gradients.offset is not None:
            slopes = [(by_value * slope).sum(2) for slope in (samples.slope_y, samples.slope_x)]
            fill_rows(gradients.offset, torch.stack(slopes, 3).flatten(1, 3), first, rows)
        if gradients.mask is not None:
            fill_rows(gradients.mask, (gradient * samples.value).sum(2).flatten(1, 2), first, rows)
        if gradients.input is not None:
            image = first // operands.geometry.positions
            images = slice(image, image + len(gradients.input))
            scatter(gradients.input, by_value, samples.corners, images, gradients.scale)
        if columns is None:
            self.blocks.append((first, rows))
        else:  # last, since it may take the memory of grad_columns
            self.gather(operands, first, columns)


def sample(operands: Operands):
    """The reference's samples, (N, G, C / G, K, H_out, W_out)."""
    geometry = operands.geometry
    image = channels_first(operands.input).to(operands.offset.dtype)
    shifts = channels_first(operands.offset)
    return reference._sample(
        image, shifts, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation
    )


def mask_per_tap(operands: Operands) -> Tensor:
    shape = (operands.geometry.offset_groups, 1, operands.geometry.taps)
    return channels_first(operands.mask).unflatten(1, shape)


def rows_of(values: Tensor, first: int, rows: int) -> Tensor:
    """(N, G, C / G, K, H_out, W_out) as the rows of a block, (rows, K, C)."""
    return values.permute(0, 4, 5, 3, 1, 2).flatten(4).flatten(0, 2)[first : first + rows]


def spread(rows: Tensor, like: Tensor, first: int) -> Tensor:
    """The inverse of `rows_of`: zero at positions that are not in the block."""
    batch, groups, channels, taps, height, width = like.shape
    everywhere = like.new_zeros(batch * height * width, taps, groups * channels)
    everywhere[first : first + len(rows)] = rows.to(like.dtype)
    return everywhere.view(batch, height, width, taps, groups, channels).permute(0, 4, 5, 3, 1, 2)


def fill_rows(result: Tensor, values: Tensor, first: int, rows: int) -> None:
    result.flatten(0, 2)[first : first + rows] = channels_last(values).flatten(0, 2)[first : first + rows]


def scatter(grad_input: Tensor, by_value: Tensor, corners, images: slice, scale: Tensor | None) -> None:
    """Add the four corners' shares; with a scale as rounded integers, where NOT_FINITE marks the others."""
    sums = grad_input.flatten(1, 2).permute(0, 2, 1)  # (images, C, H * W), a view
    sums = sums.unflatten(1, by_value.shape[1:3])
    for corner in corners:
        share = by_value * torch.where(corner.inside, corner.weight, 0).unsqueeze(2)
        index = corner.index.unsqueeze(2).expand(-1, -1, share.shape[2], -1)[images]
        share = share.flatten(3)[images]
        if scale is None:
            sums.scatter_add_(3, index, share)
            continue
        share = share.to(torch.float64) * scale
        sums.scatter_add_(3, index, torch.where(share.isfinite(), share, 0).round().long())
        lost = torch.zeros_like(sums, dtype=torch.bool)
        lost.scatter_reduce_(3, index, ~share.isfinite(), "amax")
        sums.masked_fill_(lost, fixed_point.NOT_FINITE)
