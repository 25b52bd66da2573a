"""The comparison that all operator tests use, and where its tolerances come from."""

import torch
from torch import Tensor

from dcn_backbones.ops.dispatch import BACKENDS


def assert_near(found: Tensor, expected: Tensor, tolerance: float, name: str = "result") -> None:
    """Compare to `tolerance` of the largest expected magnitude; NaN anywhere fails."""
    assert found.shape == expected.shape, f"{name}: {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if expected.numel() == 0:
        return
    error = (found.double() - expected.double()).abs().max().item()
    scale = max(expected.double().abs().max().item(), 1e-3)
    assert error <= tolerance * scale, f"{name}: off by {error:.3g}, largest value {scale:.3g}"


def tolerance_of(backend: str, dtype: torch.dtype):
    """The one table of tolerances: what the backend declares."""
    return BACKENDS[backend].tolerances[dtype]


def types_of(backend: str) -> list[torch.dtype]:
    return sorted(BACKENDS[backend].tolerances, key=str)
