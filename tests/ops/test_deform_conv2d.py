"""The operator's values and gradients, on every backend, against two oracles."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor

from dcn_backbones.ops import deform_conv2d, use_backend

from . import scalar_oracle
from .cases import AWKWARD, Case, named_leaves, random_case
from .compare import assert_near, tolerance_of, types_of

FORMATS = ["contiguous", "channels_last", "strided"]


def run(backend: str, case: Case, tensors: dict[str, Tensor | None]) -> Tensor:
    with use_backend(backend):
        return deform_conv2d(**tensors, **case.settings)


def expected(
    case: Case, tensors: dict[str, Tensor | None], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """torchvision's output and gradients in float64, and the output gradient that they answer to.

    That gradient is rounded to `dtype` first, so that the backend under test is given the same one.
    Computed on the CPU, whatever the device.
    """
    leaves = named_leaves({k: None if t is None else t.double().cpu() for k, t in tensors.items()})
    output = torchvision.ops.deform_conv2d(**leaves, **case.settings)
    grad_output = torch.randn_like(output).to(dtype).double()
    gradients = torch.autograd.grad(output, list(leaves.values()), grad_output)
    device = tensors["input"].device
    return (
        output.detach().to(device),
        {name: gradient.to(device) for name, gradient in zip(leaves, gradients, strict=True)},
        grad_output.to(device),
    )


def check(backend: str, case: Case, tensors: dict[str, Tensor | None], dtype: torch.dtype) -> Tensor:
    output, gradients, grad_output = expected(case, tensors, dtype)
    leaves = {k: t.detach().requires_grad_() for k, t in tensors.items() if t is not None}
    found = run(backend, case, leaves)
    assert found.dtype == dtype
    assert_near(found, output, tolerance_of(backend, dtype).forward, "output")
    found_gradients = torch.autograd.grad(found, list(leaves.values()), grad_output.to(dtype))
    for (name, leaf), gradient in zip(leaves.items(), found_gradients, strict=True):
        assert gradient.dtype == leaf.dtype
        assert_near(gradient, gradients[name], tolerance_of(backend, dtype).backward, f"gradient of {name}")
    return found


@pytest.mark.parametrize("name", ["modulated", "unmodulated", "kernel_3x2_stride_2x1", "dilated"])
def test_reference_equals_the_papers_equations(name):
    case = replace(AWKWARD[name], size=(5, 6), batch=1)
    tensors = case.tensors()
    assert_near(
        run("reference", case, tensors), scalar_oracle.deform_conv2d(**tensors, **case.settings), 1e-12
    )


def test_reference_equals_the_papers_equations_with_groups():
    case = Case(groups=2, offset_groups=3, channels=6, size=(4, 5), batch=2)
    tensors = case.tensors()
    assert_near(
        run("reference", case, tensors), scalar_oracle.deform_conv2d(**tensors, **case.settings), 1e-12
    )


@pytest.mark.parametrize("name", AWKWARD)
def test_every_type_equals_torchvision_in_float64(backend, name):
    for dtype in types_of(backend):
        check(backend, AWKWARD[name], AWKWARD[name].tensors(dtype), dtype)


@pytest.mark.parametrize("first_seed", range(0, 300, 50))
def test_random_configurations_equal_torchvision(own_backend, first_seed):
    for seed in range(first_seed, first_seed + 50):
        case = random_case(seed)
        check(own_backend, case, case.tensors(torch.float32, seed), torch.float32)


def in_format(tensor: Tensor, name: str) -> Tensor:
    """The same numbers laid out otherwise; "strided" is every second column of a wider tensor."""
    if name == "contiguous" or tensor.dim() < 4:
        return tensor.contiguous()
    if name == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    wide = tensor.new_full((*tensor.shape[:3], 2 * tensor.shape[3]), float("nan"))
    wide[..., ::2] = tensor
    return wide[..., ::2]


@pytest.mark.parametrize("other_format", FORMATS)
@pytest.mark.parametrize("input_format", FORMATS)
def test_memory_formats(backend, input_format, other_format):
    case = Case(channels=12, groups=2, offset_groups=3)
    tensors = {
        name: None if t is None else in_format(t, input_format if name == "input" else other_format)
        for name, t in case.tensors(torch.float32).items()
    }
    output = check(backend, case, tensors, torch.float32)
    channels_last = input_format == "channels_last"
    assert output.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert output.is_contiguous() != channels_last


def test_expanded_output_gradient(backend):
    """`output.sum().backward()` hands over a gradient whose strides are all zero."""
    case = Case()
    tensors = case.tensors(torch.float32)
    leaves = named_leaves(tensors)
    run(backend, case, leaves).sum().backward()
    reference = named_leaves({k: t.double() for k, t in tensors.items()})
    torchvision.ops.deform_conv2d(**reference, **case.settings).sum().backward()
    for name, leaf in leaves.items():
        assert_near(leaf.grad, reference[name].grad, 1e-4, name)


@pytest.mark.parametrize("wanted", ["input", "offset", "weight", "bias", "mask"])
def test_each_gradient_alone(backend, wanted):
    case = Case(channels=8, groups=2, offset_groups=2)
    tensors = case.tensors(torch.float64)
    _, gradients, grad_output = expected(case, tensors)
    tensors[wanted].requires_grad_()
    (found,) = torch.autograd.grad(run(backend, case, tensors), [tensors[wanted]], grad_output)
    assert_near(found, gradients[wanted], 1e-11, wanted)


@pytest.mark.parametrize("name", ["modulated", "unmodulated", "groups_2_offset_groups_3", "dilated"])
def test_gradcheck(own_backend, name):
    case = replace(AWKWARD[name], batch=1, size=(4, 5), out_channels=2)
    leaves = named_leaves(case.tensors())

    def function(*values):
        return run(own_backend, case, dict(zip(leaves, values, strict=True)))

    values = tuple(leaves.values())
    # Threads of a GPU add in an order that changes from run to run.
    nondet_tol = tolerance_of(own_backend, torch.float64).backward if values[0].is_cuda else 0.0
    assert torch.autograd.gradcheck(function, values, fast_mode=True, nondet_tol=nondet_tol)
    assert torch.autograd.gradgradcheck(function, values, fast_mode=True, nondet_tol=nondet_tol)


def test_third_derivative_is_connected():
    """The double backward goes through the formula, which can itself be differentiated again."""
    case = Case(batch=1, size=(4, 4), channels=2, out_channels=1)
    leaves = named_leaves(case.tensors())

    def second(*values):
        output = run("reference", case, dict(zip(leaves, values, strict=True))).pow(2).sum()
        (first,) = torch.autograd.grad(output, values[1], create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), values[1], create_graph=True)[0]

    assert torch.autograd.gradcheck(second, tuple(leaves.values()), fast_mode=True)


def test_output_strides_are_the_fake_kernels(backend):
    """Sizes of one leave strides open to choice; a backend's choice must not show."""
    for size, channels in [((1, 1), 1), ((1, 5), 3), ((5, 1), 1), ((4, 4), 1)]:
        for input_format in ("contiguous", "channels_last"):
            case = Case(size=size, channels=channels, out_channels=1, batch=1)
            tensors = {k: in_format(t, input_format) for k, t in case.tensors(torch.float32).items()}
            operator = torch.ops.dcn_backbones.deform_conv2d
            order = ("input", "offset", "weight", "bias", "mask")
            args = [tensors[k] for k in order] + [[1, 1], [1, 1], [1, 1], backend]
            torch.library.opcheck(operator, args, test_utils=["test_schema", "test_faketensor"])
