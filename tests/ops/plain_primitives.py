"""`blocked` with its two kernels in plain PyTorch: what the orchestration is tested with on any device."""

import torch
from torch import Tensor

from dcn_backbones.ops.backends import fixed_point, reference
from dcn_backbones.ops.backends.blocked import BlockedBackend
from dcn_backbones.ops.backends.blocks import Geometry, channels_last


class PlainPrimitives(BlockedBackend):
    """Samples the whole batch with the reference and keeps the rows of the block; remembers the blocks."""

    name = "plain_primitives"

    def __init__(self) -> None:
        self.blocks: list[tuple[int, int]] = []
        self.shared: list[bool] = []

    def unavailable_reasons(self) -> list[str]:
        return []

    def gather(self, input, offset, mask, geometry, first, columns) -> None:
        _, rows, taps, _ = columns.shape
        self.blocks.append((first, rows))
        values = sample(input, offset, geometry).value
        if mask is not None:
            values = values * per_tap(mask, geometry)
        columns.copy_(rows_of(values, first, rows).unflatten(2, (columns.shape[0], -1)).permute(2, 0, 1, 3))

    def gather_backward(
        self,
        grad_columns,
        input,
        offset,
        mask,
        geometry,
        first,
        columns,
        grad_offset,
        grad_mask,
        grad_input,
        scale,
    ) -> None:
        rows = grad_columns.shape[1]
        self.shared.append(columns is not None and columns.data_ptr() == grad_columns.data_ptr())
        samples = sample(input, offset, geometry)
        gradient = spread(grad_columns.permute(1, 2, 0, 3).flatten(2), samples.value, first)
        by_value = gradient if mask is None else gradient * per_tap(mask, geometry)
        if grad_offset is not None:
            slopes = [(by_value * slope).sum(2) for slope in (samples.slope_y, samples.slope_x)]
            fill_rows(grad_offset, torch.stack(slopes, 3).flatten(1, 3), first, rows)
        if grad_mask is not None:
            fill_rows(grad_mask, (gradient * samples.value).sum(2).flatten(1, 2), first, rows)
        if grad_input is not None:
            images = slice(first // geometry.positions, first // geometry.positions + len(grad_input))
            scatter(grad_input, by_value, samples.corners, images, scale)
        if columns is None:
            self.blocks.append((first, rows))
        else:  # last, since it may take the memory of grad_columns
            self.gather(input, offset, mask, geometry, first, columns)


def sample(input: Tensor, offset: Tensor, geometry: Geometry):
    """The reference's samples, (N, G, C / G, K, H_out, W_out)."""
    image = input.permute(0, 3, 1, 2).to(offset.dtype)
    shifts = offset.permute(0, 3, 1, 2)
    return reference._sample(
        image, shifts, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation
    )


def per_tap(mask: Tensor, geometry: Geometry) -> Tensor:
    return mask.permute(0, 3, 1, 2).unflatten(1, (geometry.offset_groups, 1, geometry.taps))


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
