"""What only the compiled CPU kernels have: blocks of positions, threads, and a choice of layouts."""

import functools

import pytest
import torch
from torch import Tensor

from dcn_backbones.ops import available_backends, deform_conv2d, use_backend

from .cases import Case, named_leaves
from .compare import assert_near, assert_same_bits, tolerance_of

pytestmark = pytest.mark.skipif("extension" not in available_backends(), reason="the extension is not built")

CASES = {
    # In every type more positions than a block holds, blocks that end inside an image, a partial last
    # block, and columns longer than the depth that one pass of a product covers.
    "blocks": Case(
        batch=3, channels=128, out_channels=40, size=(37, 29), groups=2, offset_groups=4, bias=False
    ),
    # Groups narrower than a vector, which the products merge.
    "narrow_groups": Case(batch=3, channels=64, out_channels=64, size=(19, 29), groups=8, offset_groups=2),
    "odd_groups": Case(batch=2, channels=45, out_channels=27, size=(9, 11), groups=9, offset_groups=3),
    "uneven_groups": Case(batch=2, channels=14, out_channels=84, size=(9, 11), groups=7, bias=False),
}
TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=CASES)
def case(request) -> str:
    return request.param


def tensors_of(case: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Offsets between grid lines, where rounding a position moves it into no other cell."""
    tensors = {name: tensor for name, tensor in CASES[case].tensors(dtype).items() if tensor is not None}
    return tensors | dict(offset=(64 * tensors["offset"]).floor() / 64 + 1 / 128)


def results(backend: str, case: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The output and the gradient of every argument, by name."""
    leaves = named_leaves(tensors)
    with use_backend(backend):
        output = deform_conv2d(**leaves, **CASES[case].settings)
    exact_in_every_type = torch.arange(output.numel()) % 7 - 3
    output.backward(exact_in_every_type.view_as(output).to(output.dtype))
    return {"output": output.detach(), **{name: leaf.grad for name, leaf in leaves.items()}}


@functools.cache
def expected(case: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """torchvision's results in float64, for the values that the type can hold."""
    tensors = {name: tensor.double() for name, tensor in tensors_of(case, dtype).items()}
    return results("torchvision", case, tensors)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_many_blocks_on_any_number_of_threads(case, dtype, threads):
    tolerance = tolerance_of("extension", dtype)
    for name, tensor in results("extension", case, tensors_of(case, dtype)).items():
        allowed = tolerance.forward if name == "output" else tolerance.backward
        assert_near(tensor, expected(case, dtype)[name], allowed, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_number_of_threads_does_not_change_a_bit(case, dtype, threads):
    tensors = tensors_of(case, dtype)
    found = results("extension", case, tensors)
    torch.set_num_threads(1)
    assert_same_bits(found, results("extension", case, tensors))


def test_results_are_the_same_every_time(case, threads):
    tensors = tensors_of(case, torch.float32)
    assert_same_bits(*(results("extension", case, tensors) for _ in range(2)))


def test_position_strides_do_not_matter():
    tensors = tensors_of("blocks", torch.float32)
    transposed = {
        name: tensor.transpose(2, 3).contiguous().transpose(2, 3) if name in ("offset", "mask") else tensor
        for name, tensor in tensors.items()
    }
    assert_same_bits(results("extension", "blocks", tensors), results("extension", "blocks", transposed))


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 1, 2, 0)], ids=["channels-last", "transposed"])
def test_weight_strides_do_not_matter(case, order):
    tensors = tensors_of(case, torch.float32)
    back = [order.index(i) for i in range(4)]
    strided = tensors["weight"].permute(order).contiguous().permute(back)
    usual = results("extension", case, tensors)
    assert_same_bits(usual, results("extension", case, tensors | dict(weight=strided)))
