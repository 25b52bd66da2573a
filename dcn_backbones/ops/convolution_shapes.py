"""Checks of the shapes that deformable convolution is given."""

from torch import Tensor

from .validation import Shape, check_rank, check_shape


def check(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    """Ranks, then channels and groups, then sizes: each check relies on those before it."""
    for name, tensor in (("input", input), ("offset", offset), ("weight", weight), ("mask", mask)):
        check_rank(name, tensor, 4)
    # Read once: reading a shape takes longer than comparing it.
    input_shape, offset_shape, weight_shape = tuple(input.shape), tuple(offset.shape), tuple(weight.shape)
    _check_weight(input_shape, weight_shape, bias)
    offset_groups = _check_offset_groups(input_shape, offset_shape, weight_shape)
    taps = weight_shape[2] * weight_shape[3]
    size = _output_size(input_shape, weight_shape, stride, padding, dilation)
    check_shape("offset", offset_shape, (input_shape[0], 2 * offset_groups * taps, *size))
    if mask is not None:
        check_shape("mask", tuple(mask.shape), (input_shape[0], offset_groups * taps, *size))


def _check_weight(input: Shape, weight: Shape, bias: Tensor | None) -> None:
    if min(weight) < 1:
        raise ValueError(f"weight has shape {weight}, expected no dimension of size 0.")
    channels, out_channels, channels_per_group = input[1], weight[0], weight[1]
    if channels < 1 or channels % channels_per_group != 0:
        raise ValueError(
            f"input has shape {input}, expected channels (dimension 1) in a multiple of "
            f"{channels_per_group}, the channels per group of weight {weight}."
        )
    groups = channels // channels_per_group
    if out_channels % groups != 0:
        raise ValueError(
            f"weight has shape {weight}, expected output channels (dimension 0) in a multiple "
            f"of {groups}, the groups that it makes of the {channels} channels of input."
        )
    if bias is not None:
        check_shape("bias", tuple(bias.shape), (out_channels,))


def _check_offset_groups(input: Shape, offset: Shape, weight: Shape) -> int:
    per_group = 2 * weight[2] * weight[3]
    channels = offset[1]
    offset_groups = channels // per_group
    if channels < 1 or channels % per_group != 0:
        raise ValueError(
            f"offset has shape {offset}, expected channels (dimension 1) in a multiple of "
            f"{per_group}, two for each tap of weight {weight}."
        )
    if input[1] % offset_groups != 0:
        raise ValueError(
            f"offset has shape {offset}, which makes {offset_groups} offset groups, expected a "
            f"number that divides the {input[1]} channels of input."
        )
    return offset_groups


def _output_size(
    input: Shape,
    weight: Shape,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    height = (input[2] + 2 * padding[0] - dilation[0] * (weight[2] - 1) - 1) // stride[0] + 1
    width = (input[3] + 2 * padding[1] - dilation[1] * (weight[3] - 1) - 1) // stride[1] + 1
    if input[2] < 1 or input[3] < 1 or height < 1 or width < 1:
        raise ValueError(
            f"input has shape {input}, expected a height and width that leave an output of at "
            f"least 1 x 1 (dimensions 2 and 3), found {height} x {width}."
        )
    return height, width
