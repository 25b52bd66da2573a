"""The values and gradients of RoI pooling, on every backend, against three oracles."""

import random
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor

from dcn_backbones.ops import deform_roi_pool, use_backend

from . import roi_oracles
from .compare import assert_near, tolerance_of, types_of
from .roi_cases import AWKWARD, PLAIN, SENSITIVE, RoICase, run, with_leaves
from .test_deform_conv2d import FORMATS, in_format

PLAIN_CASES = [name for name, case in AWKWARD.items() if not case.offset and not case.mask]


def expected(
    oracle, case: RoICase, tensors: dict[str, Tensor | None], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """An oracle's output and gradients in float64, and the output gradient that they answer to.

    That gradient is rounded to `dtype` first, so that the backend under test is given the same one.
    Computed on the CPU, whatever the device.
    """
    device = tensors["input"].device
    arguments, leaves = with_leaves({k: None if t is None else t.double().cpu() for k, t in tensors.items()})
    output = oracle(case, **arguments)
    grad_output = torch.randn(output.shape, dtype=torch.float64, device="cpu").to(dtype).double()
    found = torch.autograd.grad(output, list(leaves.values()), grad_output, materialize_grads=True)
    gradients = {name: gradient.to(device) for name, gradient in zip(leaves, found, strict=True)}
    return output.detach().to(device), gradients, grad_output.to(device)


def peer(case: RoICase, input: Tensor, boxes: Tensor, offset: None, mask: None) -> Tensor:
    if case.position_sensitive:
        return torchvision.ops.ps_roi_align(input, boxes, **case.settings)
    return torchvision.ops.roi_align(input, boxes, **case.settings, aligned=True)


def check(
    oracle, backend: str, case: RoICase, tensors: dict[str, Tensor | None], dtype: torch.dtype
) -> Tensor:
    output, gradients, grad_output = expected(oracle, case, tensors, dtype)
    leaves = {k: t.detach().requires_grad_() for k, t in tensors.items() if t is not None and k != "boxes"}
    found = run(backend, case, tensors | leaves)
    assert found.dtype == dtype
    assert_near(found, output, tolerance_of(backend, dtype).forward, "output")
    found_gradients = torch.autograd.grad(found, list(leaves.values()), grad_output.to(dtype))
    for (name, leaf), gradient in zip(leaves.items(), found_gradients, strict=True):
        assert gradient.dtype == leaf.dtype
        assert_near(gradient, gradients[name], tolerance_of(backend, dtype).backward, f"gradient of {name}")
    return found


@pytest.mark.parametrize(
    "name", [name for name in AWKWARD if name not in ("batch_33", "many_channels", "bins_7x7")]
)
def test_the_oracles_and_the_reference_equal_the_papers_equations(name):
    case = replace(AWKWARD[name], regions=min(3, AWKWARD[name].regions))
    tensors = case.tensors()
    equations = roi_oracles.one_number_at_a_time(case, **tensors)
    assert_near(roi_oracles.dense(case, **tensors), equations, 1e-12)
    assert_near(run("reference", case, tensors), equations, 1e-12)


@pytest.mark.parametrize("name", AWKWARD)
def test_every_type_equals_the_equations_in_float64(roi_backend, name):
    for dtype in types_of(roi_backend):
        check(roi_oracles.dense, roi_backend, AWKWARD[name], AWKWARD[name].tensors(dtype), dtype)


@pytest.mark.parametrize("name", PLAIN_CASES)
def test_without_offset_and_mask_it_equals_torchvision(plain_roi_backend, name):
    for dtype in types_of(plain_roi_backend):
        check(peer, plain_roi_backend, AWKWARD[name], AWKWARD[name].tensors(dtype), dtype)


def random_case(seed: int) -> RoICase:
    """A valid configuration drawn from everything that varies."""
    draw = random.Random(seed)
    groups = draw.choice([1, 2, 3])
    sensitive = SENSITIVE | dict(offset_groups=groups)
    return RoICase(
        batch=draw.choice([1, 2, 5]),
        out_channels=groups * draw.choice([1, 2, 5]),
        size=(draw.randint(3, 13), draw.randint(3, 13)),
        regions=draw.choice([1, 3, 9]),
        output_size=(draw.randint(1, 4), draw.randint(1, 4)),
        spatial_scale=draw.choice([0.25, 0.5, 1.0]),
        sampling_ratio=draw.choice([-1, 1, 2, 3]),
        gamma=draw.choice([0.1, 1.0]),
        spread=draw.choice([0.3, 2.0]),
        **draw.choice([sensitive, dict(mask=True), dict(mask=False)]),
    )


@pytest.mark.parametrize("first_seed", range(0, 100, 50))
def test_random_configurations_equal_the_equations(roi_backend, first_seed):
    for seed in range(first_seed, first_seed + 50):
        case = random_case(seed)
        check(roi_oracles.dense, roi_backend, case, case.tensors(torch.float32, seed), torch.float32)


def test_random_plain_configurations_equal_torchvision(plain_roi_backend):
    for seed in range(50):
        case = replace(random_case(seed), **PLAIN)
        check(peer, plain_roi_backend, case, case.tensors(torch.float32, seed), torch.float32)


@pytest.mark.parametrize("other_format", FORMATS)
@pytest.mark.parametrize("input_format", FORMATS)
@pytest.mark.parametrize("name", ["modulated", "sensitive_groups_3"])
def test_memory_formats(roi_backend, name, input_format, other_format):
    case = AWKWARD[name]
    tensors = {
        name: None if t is None else in_format(t, input_format if name == "input" else other_format)
        for name, t in case.tensors(torch.float32).items()
    }
    tensors["boxes"] = tensors["boxes"].t().contiguous().t()
    output = check(roi_oracles.dense, roi_backend, case, tensors, torch.float32)
    channels_last = input_format == "channels_last"
    assert output.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert output.is_contiguous() != channels_last


def test_expanded_output_gradient(roi_backend):
    """`output.sum().backward()` hands over a gradient whose strides are all zero."""
    case = RoICase()
    tensors = case.tensors(torch.float32)
    found, leaves = with_leaves(tensors)
    run(roi_backend, case, found).sum().backward()
    others, other_leaves = with_leaves({k: t.double() for k, t in tensors.items()})
    roi_oracles.dense(case, **others).sum().backward()
    for name, leaf in leaves.items():
        assert_near(leaf.grad, other_leaves[name].grad, 1e-4, name)


@pytest.mark.parametrize("wanted", ["input", "offset", "mask"])
def test_each_gradient_alone(roi_backend, wanted):
    case = RoICase(sampling_ratio=-1)
    tensors = case.tensors()
    _, gradients, grad_output = expected(roi_oracles.dense, case, tensors)
    tensors[wanted].requires_grad_()
    (found,) = torch.autograd.grad(run(roi_backend, case, tensors), [tensors[wanted]], grad_output)
    assert_near(found, gradients[wanted], 1e-11, wanted)


def test_boxes_have_no_gradient(roi_backend):
    case = RoICase()
    tensors = {name: t.requires_grad_() for name, t in case.tensors().items()}
    run(roi_backend, case, tensors).sum().backward()
    assert tensors["boxes"].grad is None and tensors["offset"].grad is not None


@pytest.mark.parametrize("name", ["modulated", "adaptive", "plain", "sensitive_groups_3", "no_size_adaptive"])
def test_gradcheck(roi_backend, name):
    case = replace(AWKWARD[name], size=(4, 5), regions=3, sides=min(AWKWARD[name].sides, (1.0, 4.0)))
    tensors, leaves = with_leaves(case.tensors())

    def function(*values):
        return run(roi_backend, case, tensors | dict(zip(leaves, values, strict=True)))

    values = tuple(leaves.values())
    # Threads of a GPU add in an order that changes from run to run.
    nondet_tol = tolerance_of(roi_backend, torch.float64).backward if values[0].is_cuda else 0.0
    assert torch.autograd.gradcheck(function, values, fast_mode=True, nondet_tol=nondet_tol)
    assert torch.autograd.gradgradcheck(function, values, fast_mode=True, nondet_tol=nondet_tol)


def test_boxes_as_a_list(roi_backend):
    case = RoICase(batch=3, regions=6)
    tensors = case.tensors(torch.float32)
    tensors["boxes"][:, 0] = torch.tensor([0, 0, 2, 2, 2, 2])
    each = [tensors["boxes"][:2, 1:], tensors["boxes"][:0, 1:], tensors["boxes"][2:, 1:]]
    assert torch.equal(run(roi_backend, case, tensors | dict(boxes=each)), run(roi_backend, case, tensors))


def test_a_list_counts_images_that_bfloat16_cannot(roi_backend):
    images = torch.arange(258, dtype=torch.float32).view(-1, 1, 1, 1).expand(258, 1, 2, 2)
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]], dtype=torch.bfloat16)
    with use_backend(roi_backend):
        output = deform_roi_pool(images.remainder(2).bfloat16(), [boxes] * 258, 1)
    assert output.flatten().tolist() == [0.0, 1.0] * 129


def test_output_strides_are_the_fake_kernels(roi_backend):
    """Sizes of one leave strides open to choice; a backend's choice must not show."""
    for output_size, channels in [((1, 1), 1), ((1, 5), 3), ((5, 1), 1), ((2, 2), 1)]:
        for input_format in ("contiguous", "channels_last"):
            case = RoICase(output_size=output_size, out_channels=channels, batch=1)
            tensors = {k: in_format(t, input_format) for k, t in case.tensors(torch.float32).items()}
            tensors["mask"] = tensors["mask"].unsqueeze(1)
            arguments = [*tensors.values(), *case.operator_settings, roi_backend]
            operator = torch.ops.dcn_backbones.deform_roi_pool
            torch.library.opcheck(operator, arguments, test_utils=["test_schema", "test_faketensor"])


@pytest.mark.parametrize("position_sensitive", [False, True])
def test_a_mask_and_groups_where_the_operator_alone_takes_them(roi_backend, position_sensitive):
    """Kernels are written once: offset groups and a mask for each, whatever the channels."""
    case = RoICase(out_channels=6, offset_groups=3, position_sensitive=position_sensitive)
    mask = torch.rand(case.regions, 3, *case.output_size, dtype=torch.float64)
    tensors, leaves = with_leaves(case.tensors() | dict(mask=mask))
    found = torch.ops.dcn_backbones.deform_roi_pool(*tensors.values(), *case.operator_settings, roi_backend)
    output = roi_oracles.dense(case, **tensors | dict(mask=tensors["mask"].repeat_interleave(2, 1)))
    assert_near(found, output.detach(), 1e-12)
    grad_output = torch.randn_like(output)
    gradients = [torch.autograd.grad(each, list(leaves.values()), grad_output) for each in (found, output)]
    for name, gradient, expected in zip(leaves, *gradients, strict=True):
        assert_near(gradient, expected, 1e-11, name)


@pytest.mark.parametrize("scale", [0.1, 0.3, 0.07])
def test_positions_round_as_the_reference_rounds_them(roi_backend, scale):
    """A fused multiply-add would give a bin another point, or a slope the other side of a pixel's centre."""
    low, side = (10 * torch.cartesian_prod(torch.arange(20.0), torch.arange(1.0, 7.0))).unbind(1)
    boxes = torch.stack([torch.zeros(120), low, low, low + side, low + side], 1)
    input, offset = torch.randn(1, 2, 60, 60), torch.zeros(120, 2, 7, 7, requires_grad=True)
    results = []
    for backend in ("reference", roi_backend):
        with use_backend(backend):
            adaptive = deform_roi_pool(input, boxes, 1, scale)
            middle = deform_roi_pool(
                input, boxes, 7, scale, 1, offset
            )  # of the fourth bin: a centre, or nearly
        results.append((adaptive, *torch.autograd.grad(middle.sum(), [offset])))
    for expected, found in zip(*results, strict=True):
        assert_near(found, expected, tolerance_of(roi_backend, torch.float32).backward)
