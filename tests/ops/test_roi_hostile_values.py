"""NaN, infinite and huge boxes and offsets: no crash, no endless loop, no NaN in any gradient."""

import pytest
import torch

from dcn_backbones.ops import deform_ps_roi_pool, deform_roi_pool, use_backend

from .compare import assert_near, tolerance_of, types_of
from .roi_cases import AWKWARD, RoICase, run, with_leaves
from .test_hostile_values import HOSTILE

SENSITIVE = AWKWARD["sensitive_groups_3"]
ADAPTIVE, FIXED = RoICase(sampling_ratio=-1), RoICase()


def gradients(backend: str, tensors: dict, case: RoICase) -> tuple[torch.Tensor, dict]:
    arguments, leaves = with_leaves(tensors)
    output = run(backend, case, arguments)
    found = torch.autograd.grad(output, list(leaves.values()), torch.ones_like(output))
    return output.detach(), dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("case", [FIXED, ADAPTIVE, SENSITIVE], ids=["fixed", "adaptive", "sensitive"])
def test_everywhere_hostile_is_everywhere_outside(roi_backend, case, value):
    for dtype in types_of(roi_backend):
        tensors = case.tensors(dtype)
        tensors["offset"] = torch.full_like(tensors["offset"], value)
        output, found = gradients(roi_backend, tensors, case)
        assert not output.any()
        for name, gradient in found.items():
            assert not gradient.any(), f"the gradient of {name} is not zero for {dtype}"


@pytest.mark.parametrize("value", HOSTILE)
def test_one_hostile_bin_touches_nothing_else(roi_backend, value):
    """A hostile coordinate is the same as a zero of the mask at that bin."""
    hostile, masked = FIXED.tensors(torch.float32), FIXED.tensors(torch.float32)
    hostile["offset"][2, 0, 1, 2] = hostile["offset"][4, 1, 0, 0] = value
    masked["mask"][2, 1, 2] = masked["mask"][4, 0, 0] = 0
    output, found = gradients(roi_backend, hostile, FIXED)
    expected_output, expected = gradients("reference", masked, FIXED)
    assert_near(output, expected_output, 1e-5)
    assert_near(found["input"], expected["input"], 1e-4)
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    assert not found["offset"][2, :, 1, 2].any() and not found["offset"][4, :, 0, 0].any()
    assert not found["mask"][2, 1, 2].any() and not found["mask"][4, 0, 0].any()


@pytest.mark.parametrize("sampling_ratio", [-1, 2])
@pytest.mark.parametrize("column", [1, 2, 3, 4])
@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_box_is_outside_and_touches_no_other(roi_backend, value, column, sampling_ratio):
    case = RoICase(sampling_ratio=sampling_ratio)
    hostile, masked = case.tensors(torch.float32), case.tensors(torch.float32)
    hostile["boxes"][3, column] = value
    hostile["offset"][3] = 0  # offsets are in sizes of the box: those of a huge one can lead back
    masked["mask"][3] = 0
    output, found = gradients(roi_backend, hostile, case)
    expected_output, expected = gradients("reference", masked, case)
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    others = [0, 1, 2, 4, 5, 6]
    assert_near(output[others], expected_output[others], 1e-5)
    for name in ("offset", "mask"):
        assert_near(found[name][others], expected[name][others], 1e-4, name)
    if abs(value) != 1e5:  # the box of 1e5 is large, and part of it is seen
        assert not output[3].any() and not found["offset"][3].any() and not found["mask"][3].any()
        assert_near(found["input"], expected["input"], 1e-4)


@pytest.mark.parametrize("side", [60.0, 1000.0, 32768.0])
@pytest.mark.parametrize("pool", [deform_roi_pool, deform_ps_roi_pool])
def test_a_large_box_is_sampled_at_every_pixel(roi_backend, pool, side):
    """One bin of `side` squared points, of which those on the image of ones count, its border twice.

    A quarter of them comes before the image."""
    image = torch.ones(1, 1, 5, 7, dtype=torch.float64, requires_grad=True)
    x, y = -side / 4, -side / 4 - 1
    boxes = torch.tensor([[0, x, y, x + side, y + side]], dtype=torch.float64)
    with use_backend(roi_backend):
        output = pool(image, boxes, 1)
    assert output.item() == pytest.approx(7 * 9 / side**2, rel=1e-12)
    output.backward()
    assert image.grad.sum().item() == pytest.approx(7 * 9 / side**2, rel=1e-12)


def test_a_box_of_too_many_points_is_outside(roi_backend):
    """Whichever axis needs them; half as many for each of two bins are fine."""
    image = torch.ones(1, 1, 5, 7, dtype=torch.float64)
    for far in [(32769.0, 4.0), (4.0, 32769.0)]:
        boxes = torch.tensor([[0, 0, 0, *far]], dtype=torch.float64)
        with use_backend(roi_backend):
            assert deform_roi_pool(image, boxes, 1).item() == 0
            assert deform_roi_pool(image, boxes, 2).any()


def sample(backend: str, image: torch.Tensor, y: float, x: float) -> tuple[float, list[float]]:
    """The image at (y, x), the only point of a box of one pixel; its derivatives by the offset [x, y]."""
    boxes = torch.tensor([[0, x, y, x + 1, y + 1]], dtype=torch.float64)
    offset = torch.zeros(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    with use_backend(backend):
        output = deform_roi_pool(image, boxes, 1, sampling_ratio=1, offset=offset, gamma=1.0)
    output.sum().backward()
    return output.item(), offset.grad.flatten().tolist()


def test_the_border_goes_on_for_a_pixel_and_is_closed(roi_backend):
    """-1 <= y <= H, unlike in the convolution; beyond the outermost centres there is no slope."""
    image = (torch.arange(12, dtype=torch.float64) + 1).reshape(1, 1, 3, 4)
    for y, value in [(-1.125, 0), (-1, 3), (-0.5, 3), (2, 11), (2.5, 11), (3, 11), (3.125, 0)]:
        assert sample(roi_backend, image, y, 2) == (value, [1.0 if value else 0.0, 4.0 * (y == 0)])
    for x, value in [(-1.125, 0), (-1, 5), (-0.5, 5), (3, 8), (3.5, 8), (4, 8), (4.125, 0)]:
        assert sample(roi_backend, image, 1, x) == (value, [0.0, 4.0 if value else 0.0])
    assert sample(roi_backend, image, 0, 0) == (1, [1, 4])  # a slope at a centre is that to the right


def test_x_comes_before_y_and_shifts_are_in_sizes_of_the_box(roi_backend):
    """The opposite of the convolution's order, and mmcv's."""
    image = torch.arange(200, dtype=torch.float64).reshape(1, 1, 10, 20)
    boxes = torch.tensor([[0, 2.0, 2.0, 10.0, 6.0]], dtype=torch.float64)  # 8 wide, 4 high, middle (3.5, 5.5)
    for offset, shift in [([1.0, 0.0], 0.25 * 8), ([0.0, 1.0], 0.25 * 4 * 20)]:
        offset = torch.tensor(offset, dtype=torch.float64).view(1, 2, 1, 1)
        for pool in (deform_roi_pool, deform_ps_roi_pool):
            with use_backend(roi_backend):
                found = pool(image, boxes, 1, sampling_ratio=2, offset=offset, gamma=0.25)
            assert found.item() == 3.5 * 20 + 5.5 + shift


def test_half_inputs_keep_float32_positions(roi_backend):
    """At column 300 bfloat16 knows only every second pixel: a rounded position would be seen."""
    image = torch.arange(400.0).remainder(2).expand(1, 1, 1, 400).to(torch.bfloat16)
    boxes = torch.tensor([[0.0, 301.0, 0.0, 302.0, 1.0]])
    with use_backend(roi_backend):
        assert deform_roi_pool(image, boxes, 1, sampling_ratio=1).item() == 1.0


def test_infinite_pixels_do_not_leak(roi_backend):
    """A pixel that no point looks at has no say, though padding clamps indices to the image."""
    for case in (FIXED, ADAPTIVE, SENSITIVE):
        tensors = case.tensors(torch.float32)
        tensors["boxes"][:, 1:] += 1000
        tensors["offset"].zero_()
        tensors["input"].fill_(float("inf"))
        assert not run(roi_backend, case, tensors).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_do_not_reach_into_each_other(roi_backend, value):
    tensors = FIXED.tensors(torch.float32)
    expected, _ = gradients(roi_backend, tensors, FIXED)
    tensors["input"] = torch.cat([tensors["input"], torch.full_like(tensors["input"][:1], value)])
    found, _ = gradients(roi_backend, tensors, FIXED)
    assert_near(found, expected, tolerance_of(roi_backend, torch.float32).forward)
