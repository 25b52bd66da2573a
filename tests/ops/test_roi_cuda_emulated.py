"""The CUDA kernels of RoI pooling on an emulated grid: the real bodies and host side, on the CPU.

The operator's own tests run here too, with the emulated grid as their backend.
"""

import pytest
import torch

from dcn_backbones.ops import deform_roi_pool, use_backend
from dcn_backbones.ops.backends.dense_roi_pool import Pooling, RoiGradients

from . import roi_oracles
from .compare import assert_near
from .roi_cases import AWKWARD, PLAIN, SENSITIVE, RoICase, run, with_leaves
from .test_deform_roi_pool import (  # noqa: F401
    check,
    test_a_mask_and_groups_where_the_operator_alone_takes_them,
    test_each_gradient_alone,
    test_expanded_output_gradient,
    test_gradcheck,
    test_memory_formats,
    test_output_strides_are_the_fake_kernels,
    test_random_configurations_equal_the_equations,
    test_random_plain_configurations_equal_torchvision,
)
from .test_roi_hostile_values import (  # noqa: F401
    test_a_box_of_too_many_points_is_outside,
    test_a_hostile_box_is_outside_and_touches_no_other,
    test_a_large_box_is_sampled_at_every_pixel,
    test_everywhere_hostile_is_everywhere_outside,
    test_half_inputs_keep_float32_positions,
    test_images_do_not_reach_into_each_other,
    test_infinite_pixels_do_not_leak,
    test_one_hostile_bin_touches_nothing_else,
    test_the_border_goes_on_for_a_pixel_and_is_closed,
    test_x_comes_before_y_and_shifts_are_in_sizes_of_the_box,
)

pytestmark = pytest.mark.usefixtures("emulated")
TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
CASES = {
    # Several slices of channels, the last one partial, in vectors and one by one.
    "wide": RoICase(out_channels=264, regions=2),
    "wide_one_by_one": RoICase(out_channels=83, regions=2),
    # Every width of a group of lanes.
    "lanes_2": RoICase(out_channels=5, offset_groups=5, output_size=(2, 3), **SENSITIVE),
    "lanes_4": RoICase(out_channels=32, offset_groups=2, regions=3, **SENSITIVE),
    "lanes_16": RoICase(out_channels=64),
    # More points of a bin than are located at a time, which skip what is outside or do not.
    "many_points": RoICase(sampling_ratio=11, out_channels=8, regions=3),
    "many_points_backwards": RoICase(sampling_ratio=9, sides=(-30.0, -20.0), regions=3, **PLAIN),
    "many_points_adaptive": RoICase(
        sampling_ratio=-1, sides=(30.0, 90.0), size=(40, 33), output_size=(1, 2), regions=4, out_channels=4
    ),
}
ALL_CASES = AWKWARD | CASES


@pytest.fixture
def roi_backend(emulated) -> str:
    return emulated.name


plain_roi_backend = roi_backend


@pytest.mark.parametrize("name", ALL_CASES)
def test_values_and_gradients(roi_backend, order, name):
    case = ALL_CASES[name]
    check(roi_oracles.dense, roi_backend, case, case.tensors(torch.float32), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["modulated", "adaptive", "sensitive_groups_3", *CASES])
def test_every_type(roi_backend, dtype, name):
    check(roi_oracles.dense, roi_backend, ALL_CASES[name], ALL_CASES[name].tensors(dtype), dtype)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", ["modulated", "regions_0", "sensitive_groups_3", "wide", "many_points"])
def test_fixed_point(roi_backend, order, dtype, name):
    check(roi_oracles.dense, roi_backend, ALL_CASES[name], ALL_CASES[name].tensors(dtype), dtype)


@pytest.mark.parametrize("multiprocessors", [1, 2, 200])
@pytest.mark.parametrize("regions", [1, 7])
def test_any_number_of_blocks_of_a_region(emulated, multiprocessors, regions):
    """One block for all of its cells, or one for as few as a block works on at a time."""
    emulated.set_device(multiprocessors=multiprocessors)
    for case in (
        RoICase(out_channels=5, output_size=(5, 7), regions=regions),
        RoICase(out_channels=6, offset_groups=3, output_size=(3, 2), regions=regions, **SENSITIVE),
    ):
        check(roi_oracles.dense, emulated.name, case, case.tensors(torch.float32), torch.float32)


@pytest.mark.parametrize(
    ("dtype", "channels", "gather", "scatter"),
    [
        (torch.float64, 4, "dLi2E", "FloatingSumIdEELi1E"),
        (torch.float32, 4, "fLi4E", "FloatingSumIfEELi4E"),
        (torch.float32, 6, "fLi1E", "FloatingSumIfEELi1E"),
        (torch.bfloat16, 8, "BFloat16ELi8E", "FloatingSumIfEELi4E"),
        (torch.float16, 4, "HalfELi1E", "FloatingSumIfEELi4E"),
    ],
    ids=str,
)
def test_channels_move_in_vectors_where_their_number_allows_it(emulated, dtype, channels, gather, scatter):
    case = RoICase(out_channels=channels)
    tensors, leaves = with_leaves(case.tensors(dtype))
    output = run(emulated.name, case, tensors)
    assert "RoiGatherI" in emulated.last_kernel() and f"{gather}Lb0E" in emulated.last_kernel()
    output.sum().backward()
    assert "RoiScatterI" in emulated.last_kernel() and scatter in emulated.last_kernel()


def gradient_of_input(backend, case: RoICase, change: float = 1.0) -> torch.Tensor:
    """With `change` as one element, of the first region, of a gradient of the output that is 1 elsewhere."""
    tensors, leaves = with_leaves(case.tensors(torch.float32))
    output = run(backend.name, case, tensors)
    grad_output = torch.ones_like(output)
    grad_output[0, 0, 1, 1] = change
    output.backward(grad_output)
    return leaves["input"].grad


@pytest.mark.usefixtures("deterministic")
def test_fixed_point_has_the_same_bits_in_any_order(emulated):
    found = []
    for multiprocessors, backwards in [(1, False), (1, True), (200, False)]:
        emulated.set_device(multiprocessors, backwards=backwards)
        found.append(gradient_of_input(emulated, CASES["wide"]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_fixed_point_passes_on_what_is_not_finite(emulated, value):
    """To the pixels that the bin looks at, of its channel, and to no other."""
    case = RoICase(out_channels=4, **PLAIN)
    found, unharmed = gradient_of_input(emulated, case, value), gradient_of_input(emulated, case)
    lost = ~found.isfinite()
    image = int(case.tensors()["boxes"][0, 0])
    assert lost[image, 0].any() and lost.sum() == lost[image, 0].sum() < lost[image, 0].numel()
    assert_near(found[~lost], unharmed[~lost], 1e-5)


@pytest.mark.usefixtures("deterministic")
def test_fixed_point_sums_that_are_lost_again_stay_lost(emulated):
    """Twice, three times and more: no number of them adds up to something finite."""
    pixel = torch.zeros(1, 1, 1, 1, requires_grad=True)
    for count in range(1, 9):
        boxes = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]]).repeat(count, 1)
        with use_backend(emulated.name):
            output = deform_roi_pool(pixel, boxes, 1, sampling_ratio=1)
        (found,) = torch.autograd.grad(output, pixel, torch.full_like(output, float("nan")))
        assert found.isnan().all(), count


def test_the_input_is_neither_read_nor_converted_for_its_gradient_alone(emulated):
    """Nor are infinite pixels multiplied by anything."""
    case = RoICase(out_channels=4)
    tensors, leaves = with_leaves(case.tensors(torch.float32) | dict(mask=None, offset=None))
    with torch.no_grad():
        leaves["input"].fill_(float("nan"))
    run(emulated.name, case, tensors).sum().backward()
    assert leaves["input"].grad.isfinite().all() and leaves["input"].grad.any()


def pooling() -> Pooling:
    """Three regions on two images of ones, 4 channels, two offset groups."""
    boxes = torch.tensor([[1.0, 0.0, 0.0, 3.0, 4.0]]).repeat(3, 1)
    return Pooling(
        torch.ones(2, 4, 5, 4),
        boxes,
        torch.zeros(3, 4, 2, 2),
        torch.ones(3, 2, 2, 2),
        (2, 2),
        1.0,
        2,
        0.1,
        False,
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(boxes=torch.zeros(3, 5, dtype=torch.float64)), "boxes has an unexpected type"),
        (dict(boxes=torch.zeros(3, 4)), r"boxes has shape \(3, 4\), expected \(3, 5\)"),
        (dict(boxes=torch.zeros(0, 5)), "boxes must not be empty"),
        (dict(offset=torch.zeros(3, 4, 2, 3)), r"offset has shape \(3, 4, 2, 3\), expected \(3, 4, 2, 2\)"),
        (dict(offset=torch.zeros(3, 6, 2, 2)), "output channels must be divisible by offset groups"),
        (dict(mask=torch.ones(3, 1, 2, 2)), r"mask has shape \(3, 1, 2, 2\), expected \(3, 2, 2, 2\)"),
        (dict(mask=torch.ones(2, 2, 2, 3).permute(3, 0, 1, 2)), "mask is not dense"),
        (dict(output_size=(3, 1), position_sensitive=True), "channels must be divisible by bins"),
        (dict(output_size=(0, 2)), "output_size must be positive"),
        (dict(sampling_ratio=2**31), "sampling_ratio does not fit 32 bits"),
        (dict(output=torch.ones(3, 2, 2, 3)), r"output has shape \(3, 2, 2, 3\), expected \(3, 2, 2, 4\)"),
        (dict(output=torch.ones(49)[1:].view(3, 2, 2, 4)), "output is not aligned"),
    ],
)
def test_the_host_side_refuses_what_a_kernel_cannot_take(emulated, changes, words):
    output = changes.get("output", torch.empty(3, 2, 2, 4))
    given = pooling()._replace(**{name: value for name, value in changes.items() if name != "output"})
    with pytest.raises(RuntimeError, match=words):
        emulated.roi_pool(given, output)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(input=torch.zeros(2, 4, 5, 3)), r"grad_input has shape \(2, 4, 5, 3\)"),
        (dict(input=torch.zeros(2, 4, 5, 4, dtype=torch.int64)), "grad_input has an unexpected type"),
        (dict(input=torch.zeros(161)[1:].view(2, 4, 5, 4)), "grad_input is not aligned"),
        (dict(offset=torch.zeros(3, 2, 2, 2)), r"grad_offset has shape \(3, 2, 2, 2\)"),
        (dict(mask=torch.zeros(3, 2, 2, 2).double()), "grad_mask has an unexpected type"),
        (
            dict(input=torch.zeros(2, 4, 5, 4, dtype=torch.int64), scale=torch.ones(1)),
            r"scale has shape \(1\), expected \(\)",
        ),
    ],
)
def test_the_host_side_refuses_gradients_that_it_cannot_fill(emulated, changes, words):
    gradients = RoiGradients(None, None, None, None)._replace(**changes)
    with pytest.raises(RuntimeError, match=words):
        emulated.roi_pool_backward(pooling(), torch.ones(3, 2, 2, 4), gradients)


@pytest.mark.parametrize("index", [-1.0, -0.5, 2.0, 3e9, -3e38, float("nan"), float("inf")])
def test_a_box_of_no_image_is_outside(emulated, index):
    """The operator refuses it on the CPU; on a GPU nobody looks before the kernel does."""
    given = pooling()
    given.boxes[1, 0] = index
    output, grad_input = torch.empty(3, 2, 2, 4), torch.zeros(2, 4, 5, 4)
    emulated.roi_pool(given, output)
    assert not output[1].any() and output[0].eq(1).all() and output[2].eq(1).all()
    gradients = RoiGradients(grad_input, torch.empty(3, 4, 2, 2), torch.empty(3, 2, 2, 2), None)
    emulated.roi_pool_backward(given, torch.ones(3, 2, 2, 4), gradients)
    assert not gradients.mask[1].any() and not gradients.offset[1].any() and grad_input.sum().item() == 32


def test_tensors_that_are_not_aligned_are_taken(emulated):
    def shifted(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)

    given = pooling()
    given = given._replace(**{k: shifted(getattr(given, k)) for k in ("input", "boxes", "offset", "mask")})
    output, grad_input = torch.empty(3, 2, 2, 4), torch.zeros(2, 4, 5, 4)
    emulated.roi_pool(given, output)
    assert output.eq(1).all()
    gradients = RoiGradients(grad_input, torch.empty(3, 4, 2, 2), torch.empty(3, 2, 2, 2), None)
    emulated.roi_pool_backward(given, shifted(torch.ones(3, 2, 2, 4)), gradients)
    assert gradients.mask.eq(2).all() and not grad_input[0].any() and grad_input.sum().item() == 48
