"""Autocast by hand: `torch.library.register_autocast` would cast the positions too."""

import contextlib

import torch
from torch import Tensor


def cast_operands(input: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """Cast as autocast casts the operands of a convolution: every float type but float64."""
    device = input.device.type
    if not _enabled(device):
        return input, *others
    dtype = torch.get_autocast_dtype(device)
    return tuple(None if tensor is None else _cast(tensor, dtype) for tensor in (input, *others))


def without_autocast(input: Tensor) -> contextlib.AbstractContextManager:
    """Keep autocast out of a backend, whose own products choose their types on purpose."""
    device = input.device.type
    if not _enabled(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def _enabled(device: str) -> bool:
    # The meta device has no autocast: asking about it is an error.
    return device != "meta" and torch.is_autocast_enabled(device)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
