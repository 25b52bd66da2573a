"""What all operator tests compare by, and where its tolerances come from."""

from collections.abc import Callable

import pytest
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


def assert_refused(function: Callable, error: type[Exception], words: list[str]) -> None:
    """By an error of that type: one sentence with these words."""
    with pytest.raises(error) as raised:
        function()
    message = str(raised.value)
    for word in words:
        assert word in message
    assert message.endswith(".") and "\n" not in message


def assert_gradients_can_be_batched(output: Tensor, leaves: dict[str, Tensor]) -> None:
    """Of three directions at once, as vmap of the backward makes them, and of each by itself."""
    directions, values = torch.randn(3, *output.shape, dtype=output.dtype), list(leaves.values())
    batched = torch.autograd.grad(output, values, directions, is_grads_batched=True, retain_graph=True)
    for i, direction in enumerate(directions):
        single = torch.autograd.grad(output, values, direction, retain_graph=True)
        for name, found, expected in zip(leaves, batched, single, strict=True):
            assert_near(found[i], expected, 1e-11, name)


def assert_tangents(differentiate: Callable, function: Callable, primal: Tensor, least: float) -> None:
    """Those of a function are its differences, and at least one is not below `least`."""
    direction = torch.randn_like(primal)
    found, step = differentiate(function, primal, direction), 1e-6 * direction
    assert found.abs().max() > least
    assert_near(found, (function(primal + step) - function(primal - step)) / 2e-6, 1e-6)


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
