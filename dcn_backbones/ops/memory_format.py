"""The strides of results: those of the tensor that they answer to, also where a size is one.

PyTorch calls a tensor with a size-one dimension contiguous whatever the stride there, so kernels
and fake kernels that agree on the memory format can still disagree on the strides. One function
decides both.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def with_format_of(tensor: Tensor, result: Tensor) -> Tensor:
    """Give a 4-d result the memory format of `tensor`, copying only when it has another one."""
    strides = _strides(tensor, result.shape)
    if result.stride() == strides:
        return result
    if result.is_contiguous(memory_format=_memory_format(tensor)):
        return result.as_strided(result.shape, strides)
    return torch.empty_strided(result.shape, strides, dtype=result.dtype, device=result.device).copy_(result)


def empty_strided_like(tensor: Tensor, size: Sequence[int]) -> Tensor:
    """An uninitialised 4-d tensor of this size in the memory format of `tensor`."""
    return tensor.new_empty_strided(size, _strides(tensor, size))


def _memory_format(tensor: Tensor) -> torch.memory_format:
    if tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def _strides(tensor: Tensor, size: Sequence[int]) -> tuple[int, ...]:
    _, channels, height, width = size
    if _memory_format(tensor) is torch.channels_last:
        return (height * width * channels, 1, width * channels, channels)
    return (channels * height * width, height * width, width, 1)
