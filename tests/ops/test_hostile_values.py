"""NaN, infinite and huge offsets: no crash, no read out of bounds, no NaN in any gradient."""

import pytest
import torch

from dcn_backbones.ops import deform_conv2d, use_backend

from .cases import Case, named_leaves
from .compare import assert_near, assert_same, types_of

HOSTILE = [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 2.0**31, -(2.0**31), 2.0**33, 1e5]
SMALL = Case(channels=16, out_channels=8, groups=2, offset_groups=2, size=(6, 7))


def gradients(backend: str, tensors: dict, case: Case = SMALL) -> tuple[torch.Tensor, dict]:
    leaves = named_leaves(tensors)
    with use_backend(backend):
        output = deform_conv2d(**leaves, **case.settings)
    found = torch.autograd.grad(output, list(leaves.values()), torch.ones_like(output))
    return output.detach(), dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize("value", HOSTILE)
def test_everywhere_hostile_is_everywhere_outside(own_backend, value):
    for dtype in types_of(own_backend):
        tensors = SMALL.tensors(dtype)
        tensors["offset"] = torch.full_like(tensors["offset"], value)
        output, found = gradients(own_backend, tensors)
        assert_near(output, tensors["bias"][:, None, None].expand_as(output), 0.0)
        for name in ("input", "offset", "weight", "mask"):
            assert not found[name].any(), f"the gradient of {name} is not zero for {dtype}"


@pytest.mark.parametrize("value", HOSTILE)
def test_one_hostile_tap_touches_nothing_else(own_backend, value):
    """A hostile coordinate is the same as a zero of the mask at that tap."""
    hostile, masked = SMALL.tensors(torch.float32), SMALL.tensors(torch.float32)
    hostile["offset"][:, 4:10:2] = value  # y of taps 2 to 4 of the first group
    hostile["offset"][:, 29] = value  # x of tap 5 of the second
    masked["mask"][:, [2, 3, 4, 14]] = 0
    output, found = gradients(own_backend, hostile)
    expected_output, expected = gradients("reference", masked)
    assert_near(output, expected_output, 1e-5)
    for name in ("input", "weight", "bias"):
        assert_near(found[name], expected[name], 1e-4, name)
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    assert not found["offset"][:, 4:10].any() and not found["offset"][:, 28:30].any()
    assert not found["mask"][:, [2, 3, 4, 14]].any()


def test_the_boundary_is_open(own_backend):
    """-1 < y < H: at -1 and at H nothing counts, just inside something does, likewise for x."""
    image = torch.ones(1, 1, 3, 4, dtype=torch.float64)
    weight = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for position, value in [(-1.0, 0.0), (-0.75, 0.25), (0.0, 1.0), (2.5, 0.5), (3.0, 0.0)]:
        assert sample(own_backend, image, weight, position, 1.0) == pytest.approx(value, abs=0)
        image_t = image.transpose(2, 3)
        assert sample(own_backend, image_t, weight, 1.0, position) == pytest.approx(value, abs=0)


def test_nothing_has_a_slope_at_the_boundary(own_backend):
    """At -1 the value is zero from both sides, but only outside is its derivative zero too."""
    image = torch.ones(1, 1, 3, 4, dtype=torch.float64)
    for y, x in [(-1.0, 1.0), (3.0, 1.0), (1.0, -1.0), (1.0, 4.0)]:
        assert not slopes(own_backend, image, y, x).any()
    assert slopes(own_backend, image, -0.75, 1.0).tolist() == [1.0, 0.0]
    assert slopes(own_backend, image, 1.0, 3.25).tolist() == [0.0, -1.0]


def slopes(backend: str, image: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """The derivatives of the image at (y, x) by y and by x."""
    offset = torch.zeros(1, 2, *image.shape[2:], dtype=torch.float64)
    offset[0, 0], offset[0, 1] = y, x
    offset.requires_grad_()
    with use_backend(backend):
        output = deform_conv2d(image, offset, torch.ones(1, 1, 1, 1, dtype=torch.float64))
    output[0, 0, 0, 0].backward()
    return offset.grad[0, :, 0, 0]


def sample(backend: str, image: torch.Tensor, weight: torch.Tensor, y: float, x: float) -> float:
    """The image at (y, x): the first output of a 1x1 kernel with that offset."""
    offset = torch.zeros(1, 2, *image.shape[2:], dtype=torch.float64)
    offset[0, 0], offset[0, 1] = y, x
    with use_backend(backend):
        return deform_conv2d(image, offset, weight)[0, 0, 0, 0].item()


def test_y_comes_before_x(own_backend):
    image = torch.arange(12, dtype=torch.float64).reshape(1, 1, 3, 4)
    weight = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    assert sample(own_backend, image, weight, 2.0, 0.0) == 8.0
    assert sample(own_backend, image, weight, 0.0, 2.0) == 2.0


def test_half_inputs_keep_float32_positions(own_backend):
    """At column 300 bfloat16 knows only every second pixel: a rounded position would be seen."""
    image = torch.arange(400.0).remainder(2).expand(1, 1, 1, 400).to(torch.bfloat16)
    weight = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)
    offset = torch.zeros(1, 2, 1, 400)
    offset[0, 1, 0, 0] = 301.0
    with use_backend(own_backend):
        assert deform_conv2d(image, offset, weight)[0, 0, 0, 0].item() == 1.0


def test_infinite_pixels_do_not_leak(own_backend):
    """A pixel that no sample looks at has no say, though padding clamps indices to the image."""
    tensors = Case(size=(5, 5), spread=0.0, bias=False).tensors(torch.float32)
    tensors["offset"].fill_(100.0)
    tensors["input"].fill_(float("inf"))
    with use_backend(own_backend):
        output = deform_conv2d(**tensors, padding=1)
    assert not output.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_groups_do_not_reach_into_each_other(own_backend, value):
    """Whatever one group holds: kernels that work on several narrow groups at once must not mix them."""
    case = Case(channels=8, out_channels=12, groups=4, offset_groups=2)
    for dtype in types_of(own_backend):
        clean = named_leaves(case.tensors(dtype))
        dirty = named_leaves(case.tensors(dtype))
        with torch.no_grad():
            dirty["input"][:, 2] = value  # in the second of four groups of two channels
        outputs = []
        for leaves in (clean, dirty):
            with use_backend(own_backend):
                output = deform_conv2d(**leaves, **case.settings)
            grad_output = torch.ones_like(output)
            if leaves is dirty:
                grad_output[:, 3:6] = value
            output.backward(grad_output)
            outputs.append(output.detach())
        others = [0, 1, 2, *range(6, 12)]
        assert torch.equal(outputs[1][:, others], outputs[0][:, others])
        assert not outputs[1][:, 3:6].isfinite().all()
        gradients = [{name: leaf.grad for name, leaf in leaves.items()} for leaves in (dirty, clean)]
        in_others = [0, 1, 4, 5, 6, 7]
        second_half = slice(18, 36)  # the offsets of channels 4 to 7
        for name, part in [
            ("input", (slice(None), in_others)),
            ("weight", (others,)),
            ("offset", (slice(None), second_half)),
        ]:
            found, expected = (g[name][part] for g in gradients)
            assert_same(found, expected, own_backend, f"gradient of {name}, {dtype}")
