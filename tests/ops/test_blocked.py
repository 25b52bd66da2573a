"""The orchestration that the GPU's backends share, run on the CPU with kernels in plain PyTorch."""

from dataclasses import replace

import pytest
import torch

from dcn_backbones.ops import deform_conv2d, dispatch, use_backend

from .cases import AWKWARD, Case, named_leaves
from .compare import assert_near
from .plain_primitives import PlainPrimitives
from .test_deform_conv2d import check, expected
from .test_hostile_values import HOSTILE, gradients

# Bytes for blocks that end inside an image, one image a block, several, and the whole batch.
WORKSPACES = [20_000, 40_000, 100_000, 10_000_000]


@pytest.fixture
def plain(monkeypatch) -> PlainPrimitives:
    backend = PlainPrimitives()
    monkeypatch.setitem(dispatch.BACKENDS, backend.name, backend)
    yield backend
    dispatch._select.cache_clear()


@pytest.mark.parametrize("workspace", WORKSPACES)
@pytest.mark.parametrize("name", AWKWARD)
def test_any_workspace_gives_the_same_values(plain, monkeypatch, name, workspace):
    monkeypatch.setattr(PlainPrimitives, "workspace_bytes", workspace)
    check(plain.name, AWKWARD[name], AWKWARD[name].tensors(torch.float32), torch.float32)
    seen = sorted(set(plain.blocks))
    assert (
        sum(rows for _, rows in seen) == AWKWARD[name].batch * torch.Size(AWKWARD[name].output_size).numel()
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["modulated", "unmodulated", "groups_2_offset_groups_3", "many_channels"])
def test_every_type(plain, monkeypatch, dtype, name):
    monkeypatch.setattr(PlainPrimitives, "workspace_bytes", 100_000)
    check(plain.name, AWKWARD[name], AWKWARD[name].tensors(dtype), dtype)


@pytest.mark.parametrize("overwrites", [False, True])
def test_columns_take_the_memory_of_their_gradient_where_they_may(plain, monkeypatch, overwrites):
    monkeypatch.setattr(PlainPrimitives, "workspace_bytes", 20_000)
    monkeypatch.setattr(PlainPrimitives, "overwrites_grad_columns", overwrites)
    case = AWKWARD["groups_2_offset_groups_3"]
    check(plain.name, case, case.tensors(torch.bfloat16), torch.bfloat16)
    assert len(plain.shared) > 1 and set(plain.shared) == {overwrites}


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("magnitude", [1e-25, 1.0, 1e25])
def test_fixed_point_keeps_the_tolerance(plain, monkeypatch, dtype, magnitude):
    monkeypatch.setattr(PlainPrimitives, "workspace_bytes", 50_000)
    case = Case(batch=3, channels=8, groups=2, offset_groups=2, size=(9, 8))
    tensors = case.tensors(dtype)
    if dtype in (torch.float64, torch.float32):
        tensors["weight"] *= magnitude
    check(plain.name, case, tensors, dtype)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_fixed_point_passes_on_what_is_not_finite(plain, value):
    """Pixels under a gradient that is not finite become NaN, all others keep their values."""
    case = Case(batch=2, channels=4, out_channels=3, size=(6, 7), spread=0.4)
    found, unharmed = named_leaves(case.tensors(torch.float32)), named_leaves(case.tensors(torch.float32))
    for leaves in (found, unharmed):
        with use_backend(plain.name):
            output = deform_conv2d(**leaves, **case.settings)
        grad_output = torch.ones_like(output)
        if leaves is found:
            grad_output[1, 2, 0, 0] = value
        output.backward(grad_output)
    lost = ~found["input"].grad.isfinite()
    assert lost[1, :, 0, 0].all() and not lost[0].any() and not lost[1, :, 3:].any()
    kept = found["input"].grad[~lost]
    assert_near(kept, unharmed["input"].grad[~lost], 1e-5)


@pytest.mark.usefixtures("deterministic")
def test_fixed_point_of_zero_gradients_is_zero(plain):
    leaves = named_leaves(Case().tensors(torch.float32))
    with use_backend(plain.name):
        output = deform_conv2d(**leaves, padding=1)
    output.backward(torch.zeros_like(output))
    assert not leaves["input"].grad.any()


@pytest.mark.parametrize("wanted", ["input", "offset", "weight", "bias", "mask"])
def test_each_gradient_alone(plain, monkeypatch, wanted):
    monkeypatch.setattr(PlainPrimitives, "workspace_bytes", 20_000)
    case = Case(channels=8, groups=2, offset_groups=2)
    tensors = case.tensors(torch.float64)
    _, all_gradients, grad_output = expected(case, tensors)
    tensors[wanted].requires_grad_()
    with use_backend(plain.name):
        output = deform_conv2d(**tensors, **case.settings)
    (found,) = torch.autograd.grad(output, [tensors[wanted]], grad_output)
    assert_near(found, all_gradients[wanted], 1e-11, wanted)


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_offsets(plain, value):
    tensors = Case(channels=4).tensors(torch.float32)
    tensors["offset"] = torch.full_like(tensors["offset"], value)
    output, found = gradients(plain.name, tensors, Case(channels=4))
    assert_near(output, tensors["bias"][:, None, None].expand_as(output), 0.0)
    assert not any(found[name].any() for name in ("input", "offset", "weight", "mask"))


def test_blocks_are_whole_images_where_one_fits(plain, monkeypatch):
    case = replace(AWKWARD["batch_33"], bias=False)
    row_bytes = 2 * 9 * case.channels * 4
    monkeypatch.setattr(PlainPrimitives, "workspace_bytes", 50 * row_bytes)  # 2.5 images of 20 positions
    with use_backend(plain.name):
        deform_conv2d(**case.tensors(torch.float32), **case.settings)
    assert len(plain.blocks) == 17
    assert all(first % 20 == 0 and rows in (20, 40) for first, rows in plain.blocks)


def test_an_image_that_does_not_fit_is_cut_into_equal_parts(plain, monkeypatch):
    case = Case(batch=2, size=(7, 9), bias=False)
    monkeypatch.setattr(PlainPrimitives, "workspace_bytes", 32 * 2 * 9 * case.channels * 4)
    with use_backend(plain.name):
        deform_conv2d(**case.tensors(torch.float32), **case.settings)
    assert plain.blocks == [(0, 31), (31, 32), (63, 31), (94, 32)]


@pytest.mark.usefixtures("deterministic")
def test_fixed_point_does_not_overflow_where_all_samples_meet(plain):
    size = (7, 9)
    rows, columns = torch.arange(7.0).view(7, 1).expand(size), torch.arange(9.0).expand(size)
    offset = torch.stack([3 - rows, 4 - columns])[None]  # every position looks at the same pixel
    input = torch.ones(1, 2, *size, requires_grad=True)
    with use_backend(plain.name):
        output = deform_conv2d(input, offset, torch.ones(5, 2, 1, 1))
    output.backward(torch.ones_like(output))
    assert input.grad[0, :, 3, 4].tolist() == [5.0 * 63, 5.0 * 63] and input.grad.sum() == 2 * 5 * 63


def test_grad_weight_of_many_blocks_is_not_summed_in_half(plain, monkeypatch):
    """bfloat16 has 8 bits: a sum of ones would end at 256."""
    monkeypatch.setattr(PlainPrimitives, "workspace_bytes", 1)
    input, offset = torch.ones(1, 1, 20, 30, dtype=torch.bfloat16), torch.zeros(1, 2, 20, 30)
    weight = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    with use_backend(plain.name):
        output = deform_conv2d(input, offset, weight)
    output.backward(torch.ones_like(output))
    assert len(plain.blocks) == 2 * 600 and weight.grad.item() == 600
