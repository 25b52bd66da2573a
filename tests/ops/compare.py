"""The comparison that all operator tests use, and where its tolerances come from."""

import torch
from torch import Tensor

from dcn_backbones.ops.backends.base import Request
from dcn_backbones.ops.dispatch import BACKENDS


def assert_near(found: Tensor, expected: Tensor, tolerance: float, name: str = "result") -> None:
    """Compare to `tolerance` of the largest expected magnitude; NaN anywhere fails."""
    assert found.shape == expected.shape, f"{name}: {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if expected.numel() == 0:
        return
    error = (found.double() - expected.double()).abs().max().item()
    scale = max(expected.double().abs().max().item(), 1e-3)
    assert error <= tolerance * scale, f"{name}: off by {error:.3g}, largest value {scale:.3g}"


def assert_same(found: Tensor, expected: Tensor, backend: str, name: str = "result") -> None:
    """The same bits; the backend's tolerance on a GPU, whose threads add in an order that changes."""
    if found.is_cuda:
        assert_near(found, expected, tolerance_of(backend, found.dtype).backward, name)
    else:
        assert torch.equal(found, expected), f"{name}: not the same bits"


def assert_same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Of all results by name."""
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def backends_on(
    device: str, leave_out: tuple[str, ...] = (), operator: str = "deform_conv2d", deformed: bool = True
) -> list[str]:
    """Names of the backends that run here, have the operator and take tensors of this device."""
    request = Request(device, torch.float32, False, operator, deformed)
    names = [name for name in BACKENDS if name not in leave_out]
    return [name for name in names if not BACKENDS[name].not_supported_reasons(request)]


def tolerance_of(backend: str, dtype: torch.dtype):
    """The one table of tolerances: what the backend declares."""
    return BACKENDS[backend].tolerances[dtype]


def types_of(backend: str) -> list[torch.dtype]:
    return sorted(BACKENDS[backend].tolerances, key=str)
