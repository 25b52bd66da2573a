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


def check_tensors(required: dict[str, object], optional: dict[str, object]) -> None:
    """Everything a tensor, what is optional a tensor or None, and all on the device of "input"."""
    tensors = {**required, **optional}
    for name, value in tensors.items():
        if not (isinstance(value, Tensor) or (value is None and name in optional)):
            expected = "a Tensor or None" if name in optional else "a Tensor"
            raise TypeError(f"{name} is a {type(value).__name__}, expected {expected}.")
    device = required["input"].device
    for name, value in tensors.items():
        if value is not None and value.device != device:
            raise ValueError(f"{name} is on {value.device}, expected {device}, where input is.")


def check_types(
    input: Tensor, operands: dict[str, Tensor | None], positions: dict[str, Tensor | None]
) -> None:
    """Operands typed as the input; positions (offset, mask, boxes) so too, or float32 beside a half input."""
    dtype = input.dtype
    if not dtype.is_floating_point:
        raise TypeError(f"input is of type {dtype}, expected a float type.")
    for name, tensor in operands.items():
        if tensor is not None and tensor.dtype != dtype:
            raise TypeError(f"{name} is of type {tensor.dtype}, expected {dtype}, the type of input.")
    half = dtype in (torch.float16, torch.bfloat16)
    for name, tensor in positions.items():
        if tensor is None or tensor.dtype == dtype or (half and tensor.dtype == torch.float32):
            continue
        expected = f"{dtype} or torch.float32" if half else f"{dtype}, the type of input"
        raise TypeError(f"{name} is of type {tensor.dtype}, expected {expected}.")


def check_rank(name: str, tensor: Tensor | None, rank: int) -> None:
    """The tensor, where it is there, of as many dimensions."""
    if tensor is not None and tensor.dim() != rank:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {rank} dimensions.")


def check_shape(name: str, shape: Shape, expected: Shape) -> None:
    if shape != expected:
        raise ValueError(f"{name} has shape {shape}, expected {expected}.")
