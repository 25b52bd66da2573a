"""Numba's kernels in Numba's simulator. `test_numba.py` runs this file in a process of its own.

The simulator has to be switched on before Numba is imported, and runs every thread of the GPU as one of
Python's: cases are tiny.
"""

import contextlib
from dataclasses import replace

import pytest
import torch

from dcn_backbones.ops import deform_conv2d, dispatch, use_backend
from dcn_backbones.ops.backends import numba_cuda

from .cases import Case, named_leaves
from .compare import assert_near, types_of
from .test_deform_conv2d import check
from .test_hostile_values import HOSTILE, gradients, sample, slopes

TINY = Case(batch=2, channels=3, out_channels=2, size=(3, 2), spread=1.0)
CASES = {
    "modulated": TINY,
    "unmodulated": replace(TINY, mask=False, bias=False),
    "asymmetric": Case(
        batch=1,
        channels=3,
        out_channels=2,
        size=(4, 5),
        kernel_size=(3, 2),
        stride=(2, 1),
        padding=(2, 0),
        dilation=(1, 2),
    ),
    "groups_2_offset_groups_3": replace(TINY, batch=1, channels=6, groups=2, offset_groups=3),
    "depthwise": replace(TINY, batch=1, channels=4, out_channels=4, groups=4, offset_groups=2, mask=False),
    "one_pixel": replace(TINY, size=(1, 1)),
    "one_channel": replace(TINY, channels=1, out_channels=1),
}


class SimulatedNumba(numba_cuda.NumbaCudaBackend):
    """The simulator takes NumPy's arrays and has no streams."""

    name = "numba_simulated"
    devices = frozenset({"cpu"})
    workspace_bytes = 3000  # several blocks, which end inside an image

    def unavailable_reasons(self) -> list[str]:
        return []

    @contextlib.contextmanager
    def _on_device(self, *tensors):
        yield [numba_cuda._flat(tensor).numpy() for tensor in tensors], 0


@pytest.fixture(autouse=True)
def simulated(monkeypatch) -> str:
    backend = SimulatedNumba()
    monkeypatch.setitem(dispatch.BACKENDS, backend.name, backend)
    monkeypatch.setattr(numba_cuda, "_LEAST_BLOCKS", 1)
    monkeypatch.setattr(numba_cuda, "_MOST_BLOCKS", 3)  # every block takes several samples
    return backend.name


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(simulated, name):
    check(simulated, CASES[name], CASES[name].tensors(torch.float32), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_types(simulated, dtype):
    assert dtype in types_of(simulated)
    case = CASES["groups_2_offset_groups_3"]
    check(simulated, case, case.tensors(dtype), dtype)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_fixed_point(simulated, dtype):
    check(simulated, TINY, TINY.tensors(dtype), dtype)


@pytest.mark.usefixtures("deterministic")
def test_fixed_point_passes_on_infinity(simulated):
    leaves = named_leaves(replace(TINY, spread=0.3).tensors(torch.float32))
    with use_backend(simulated):
        output = deform_conv2d(**leaves, padding=1)
    grad_output = torch.ones_like(output)
    grad_output[0, 1, 0, 0] = float("inf")
    output.backward(grad_output)
    lost = ~leaves["input"].grad.isfinite()
    assert lost[0, :, 0, 0].all() and not lost[1].any()


@pytest.mark.parametrize("wanted", ["input", "offset", "weight", "mask"])
def test_each_gradient_alone(simulated, wanted):
    tensors = TINY.tensors(torch.float64)
    expected = gradients("reference", tensors, TINY)[1][wanted]
    tensors[wanted].requires_grad_()
    with use_backend(simulated):
        output = deform_conv2d(**tensors, **TINY.settings)
    (found,) = torch.autograd.grad(output, tensors[wanted], torch.ones_like(output))
    assert_near(found, expected, 1e-11, wanted)


def test_hostile_offsets(simulated):
    """Each hostile value at the y of a tap, and at the x of the next."""
    tensors = TINY.tensors(torch.float32)
    for tap, value in enumerate(HOSTILE[:8]):
        tensors["offset"][0, 2 * tap] = value
        tensors["offset"][1, 2 * tap + 3] = value
    expected_output, expected = gradients("reference", tensors, TINY)
    output, found = gradients(simulated, tensors, TINY)
    assert_near(output, expected_output, 1e-5)
    for name, gradient in found.items():
        assert_near(gradient, expected[name], 1e-4, name)


def test_the_boundary_is_open(simulated):
    image, weight = torch.ones(1, 1, 2, 3, dtype=torch.float64), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for position, value in [(-1.0, 0.0), (-0.75, 0.25), (1.5, 0.5), (2.0, 0.0)]:
        assert sample(simulated, image, weight, position, 1.0) == value
        assert sample(simulated, image.transpose(2, 3), weight, 1.0, position) == value


def test_nothing_has_a_slope_at_the_boundary(simulated):
    image = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    assert not slopes(simulated, image, -1.0, 1.0).any()
    assert not slopes(simulated, image, 1.0, -1.0).any()


def test_bfloat16_is_rounded_to_the_nearest_and_keeps_nan(simulated):
    """A 1x1 convolution on one pixel: the column is the mask times one."""
    values = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-9, float("inf"), float("nan"), 1e-40])
    for value in values:
        one = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)
        with use_backend(simulated):
            found = deform_conv2d(one, torch.zeros(1, 2, 1, 1), one, mask=value.view(1, 1, 1, 1))
        assert torch.equal(found.view(()), value.bfloat16()) or (value.isnan() and found.isnan())
