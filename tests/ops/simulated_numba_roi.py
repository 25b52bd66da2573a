"""Numba's kernels of RoI pooling in its simulator. `test_numba.py` runs this file in a process of its own."""

from dataclasses import replace

import pytest
import torch

from . import roi_oracles
from .compare import assert_near
from .roi_cases import PLAIN, SENSITIVE, RoICase, run, with_leaves
from .simulated_numba import simulated  # noqa: F401
from .test_deform_roi_pool import check, expected
from .test_roi_hostile_values import (  # noqa: F401
    test_a_box_of_too_many_points_is_outside,
    test_a_large_box_is_sampled_at_every_pixel,
    test_half_inputs_keep_float32_positions,
    test_the_border_goes_on_for_a_pixel_and_is_closed,
    test_x_comes_before_y_and_shifts_are_in_sizes_of_the_box,
)

TINY = RoICase(out_channels=3, size=(4, 5), sides=(1.0, 5.0), regions=3, output_size=(2, 1))
CASES = {
    "modulated": TINY,
    "plain": replace(TINY, **PLAIN),
    "adaptive": replace(TINY, sampling_ratio=-1),
    "mask_only": replace(TINY, offset=False, output_size=(1, 2)),
    "no_size": replace(TINY, sides=(0.0, 0.0)),
    "no_size_adaptive": replace(TINY, sides=(0.0, 0.0), sampling_ratio=-1),
    "negative_size": replace(TINY, sides=(-6.0, -1.0)),
    "larger_than_the_image": replace(TINY, sides=(9.0, 20.0), sampling_ratio=-1, regions=1),
    "regions_0": replace(TINY, regions=0),
    "sensitive_groups_3": replace(TINY, offset_groups=3, **SENSITIVE),
}


@pytest.fixture
def roi_backend(simulated) -> str:  # noqa: F811
    return simulated


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(roi_backend, name):
    check(roi_oracles.dense, roi_backend, CASES[name], CASES[name].tensors(torch.float32), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_types(roi_backend, dtype):
    case = CASES["sensitive_groups_3"]
    check(roi_oracles.dense, roi_backend, case, case.tensors(dtype), dtype)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_fixed_point(roi_backend, dtype):
    check(roi_oracles.dense, roi_backend, TINY, TINY.tensors(dtype), dtype)


@pytest.mark.parametrize("wanted", ["input", "offset", "mask"])
def test_each_gradient_alone(roi_backend, wanted):
    tensors = TINY.tensors()
    _, gradients, grad_output = expected(roi_oracles.dense, TINY, tensors)
    tensors[wanted].requires_grad_()
    (found,) = torch.autograd.grad(run(roi_backend, TINY, tensors), [tensors[wanted]], grad_output)
    assert_near(found, gradients[wanted], 1e-11, wanted)


def test_a_mask_for_each_offset_group(roi_backend):
    """The operator alone takes one, and groups whose channels are not position-sensitive."""
    case = replace(TINY, offset_groups=3, mask=False)
    tensors = case.tensors()
    mask = torch.rand(case.regions, 3, *case.output_size, dtype=torch.float64)
    arguments = [tensors["input"], tensors["boxes"], tensors["offset"], mask]
    found = torch.ops.dcn_backbones.deform_roi_pool(*arguments, *case.operator_settings, roi_backend)
    assert_near(found, roi_oracles.dense(case, **tensors) * mask, 1e-12)


@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_hostile_boxes_and_offsets(roi_backend, sampling_ratio):
    """Each hostile value somewhere in a box, or in an offset; the others are as if those were not there."""
    case = replace(TINY, regions=9, sampling_ratio=sampling_ratio)
    tensors, masked = case.tensors(torch.float32), case.tensors(torch.float32)
    values = [float("nan"), float("inf"), float("-inf"), 1e30, -3e38, 2.0**31]
    for region, value in enumerate(values):
        tensors["boxes"][region, 1 + region % 4] = value
        tensors["offset"][region] = 0
    tensors["boxes"][6, 0] = masked["boxes"][6, 0] = 0
    tensors["offset"][7, 0], tensors["offset"][8, 1] = float("nan"), 1e30
    masked["mask"][:6] = masked["mask"][7:] = 0
    output, expected = run(roi_backend, case, tensors), run("reference", case, masked)
    assert output.isfinite().all() and not output[:6].any() and not output[7:].any()
    assert torch.allclose(output, expected, atol=1e-5)
    found, leaves = with_leaves(tensors)
    run(roi_backend, case, found).sum().backward()
    others, other_leaves = with_leaves(masked)
    run("reference", case, others).sum().backward()
    assert torch.allclose(leaves["input"].grad, other_leaves["input"].grad, atol=1e-4)
    assert all(leaf.grad.isfinite().all() for leaf in leaves.values())
