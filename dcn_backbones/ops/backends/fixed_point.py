"""Sums in 64-bit fixed point: integers add up to the same bits in whatever order they come.

For the gradient of the input, which threads on a GPU add to in an order that changes from run to run.
A kernel adds `round(contribution * scale)` atomically; for a contribution that is not finite it stores
`NOT_FINITE`, which no later addition can lift above `_LOWEST_SUM`, and the pixel becomes NaN.
"""

import torch
from torch import Tensor

_LARGEST_EXPONENT = 60  # of two, of any sum; one bit is left for the rounding of half types
NOT_FINITE = -(2**63) + 2 ** (_LARGEST_EXPONENT + 1)
_LOWEST_SUM = -(2 ** (_LARGEST_EXPONENT + 1))


def scale_of(
    grad_output: Tensor, weight: Tensor | None, mask: Tensor | None, contributions: int, dtype: torch.dtype
) -> Tensor:
    """A power of two, as a tensor of `dtype` without dimensions, that lets no sum overflow.

    No gradient of a column exceeds the largest element of grad_output times the largest sum of
    |weight| `(groups, C_out / groups, columns)` over output channels, times that of the mask; at most
    `contributions` of them meet in a pixel, each with a bilinear weight of at most one. 28,000 of
    them (9 taps of 56 x 56 positions) leave 45 bits for a single one. Nothing is read back to the host.
    RoI pooling has no weight: a contribution is what a bin adds to a pixel, whatever its points.
    """
    bound = grad_output.new_full((), contributions, dtype=torch.double)
    if weight is not None:
        bound = bound * _finite(weight).double().sum(1).amax()
    for tensor in (grad_output, mask):
        if tensor is not None and tensor.numel():
            bound = bound * _finite(tensor).amax().double()
    exponent = _LARGEST_EXPONENT - bound.log2().ceil()
    limit = 126 if dtype == torch.float32 else 1000  # neither the scale nor its inverse may overflow
    return exponent.clamp(-limit, limit).exp2().to(dtype)


def to_floating_point(sums: Tensor, scale: Tensor) -> Tensor:
    """The sums that the integers stand for, in the type of the scale."""
    values = sums.to(scale.dtype) / scale
    return values.masked_fill_(sums < _LOWEST_SUM, torch.nan)


def _finite(tensor: Tensor) -> Tensor:
    """Magnitudes, with zero in place of inf and NaN."""
    return torch.where(tensor.isfinite(), tensor.abs(), 0)
