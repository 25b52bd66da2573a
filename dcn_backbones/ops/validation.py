"""Checks of an operator's arguments; every error is one sentence: what is wrong, found, expected."""

from collections.abc import Sequence

import torch
from torch import Tensor

_WHOLE = (int, torch.SymInt)
Shape = tuple[int, ...]


def pair(value: int | Sequence[int], name: str, minimum: int) -> tuple[int, int]:
    """One number for both axes, or two, as two; each at least `minimum`."""
    values = (value, value) if isinstance(value, _WHOLE) else value
    if not isinstance(values, (tuple, list)) or not all(isinstance(v, _WHOLE) for v in values):
        raise TypeError(f"{name} is {value!r}, expected a whole number or a pair (y, x) of them.")
    if len(values) != 2:
        raise ValueError(f"{name} has {len(values)} numbers, expected one or a pair (y, x).")
    if values[0] < minimum or values[1] < minimum:
        raise ValueError(f"{name} is {values}, expected numbers of at least {minimum}.")
    return tuple(values)


def check_tensors(*, bias: object, mask: object, **required: object) -> None:
    """Everything a tensor, and all on one device."""
    tensors = {**required, "bias": bias, "mask": mask}
    for name, value in tensors.items():
        optional = name not in required
        if not (isinstance(value, Tensor) or (optional and value is None)):
            expected = "a Tensor or None" if optional else "a Tensor"
            raise TypeError(f"{name} is a {type(value).__name__}, expected {expected}.")
    device = required["input"].device
    for name, value in tensors.items():
        if value is not None and value.device != device:
            raise ValueError(f"{name} is on {value.device}, expected {device}, where input is.")


def check_types(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
) -> None:
    """Weight and bias typed as the input; offset and mask so too, or float32 beside a half input."""
    dtype = input.dtype
    if not dtype.is_floating_point:
        raise TypeError(f"input is of type {dtype}, expected a float type.")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != dtype:
            raise TypeError(f"{name} is of type {tensor.dtype}, expected {dtype}, the type of input.")
    half = dtype in (torch.float16, torch.bfloat16)
    for name, tensor in (("offset", offset), ("mask", mask)):
        if tensor is None or tensor.dtype == dtype or (half and tensor.dtype == torch.float32):
            continue
        expected = f"{dtype} or torch.float32" if half else f"{dtype}, the type of input"
        raise TypeError(f"{name} is of type {tensor.dtype}, expected {expected}.")


def check_shapes(
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
        if tensor is not None and tensor.dim() != 4:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected 4 dimensions.")
    # Read once: reading a shape takes longer than comparing it.
    input_shape, offset_shape, weight_shape = tuple(input.shape), tuple(offset.shape), tuple(weight.shape)
    _check_weight(input_shape, weight_shape, bias)
    offset_groups = _check_offset_groups(input_shape, offset_shape, weight_shape)
    taps = weight_shape[2] * weight_shape[3]
    size = _output_size(input_shape, weight_shape, stride, padding, dilation)
    _check_shape("offset", offset_shape, (input_shape[0], 2 * offset_groups * taps, *size))
    if mask is not None:
        _check_shape("mask", tuple(mask.shape), (input_shape[0], offset_groups * taps, *size))


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
        _check_shape("bias", tuple(bias.shape), (out_channels,))


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


def _check_shape(name: str, shape: Shape, expected: Shape) -> None:
    if shape != expected:
        raise ValueError(f"{name} has shape {shape}, expected {expected}.")
