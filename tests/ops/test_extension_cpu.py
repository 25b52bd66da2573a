"""What only the compiled CPU kernels have: blocks of positions, threads, and a choice of layouts."""

import pytest
import torch
from torch import Tensor

from dcn_backbones.ops import available_backends, deform_conv2d, use_backend

from .cases import Case, named_leaves
from .compare import assert_near, tolerance_of

pytestmark = pytest.mark.skipif("extension" not in available_backends(), reason="the extension is not built")

# In every type more positions than a block holds, blocks that end inside an image, a partial last block, and
# columns longer than the depth that one pass of a product covers.
BLOCKS = Case(batch=3, channels=96, out_channels=40, size=(37, 29), groups=2, offset_groups=4, bias=False)
TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    """Fewer and more threads than images: the backward pass divides its work differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def tensors_of(dtype: torch.dtype) -> dict[str, Tensor]:
    """Offsets between grid lines, where rounding a position moves it into no other cell."""
    tensors = {name: tensor for name, tensor in BLOCKS.tensors(dtype).items() if tensor is not None}
    return tensors | dict(offset=(64 * tensors["offset"]).floor() / 64 + 1 / 128)


def results(backend: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The output and the gradient of every argument, by name."""
    leaves = named_leaves(tensors)
    with use_backend(backend):
        output = deform_conv2d(**leaves, **BLOCKS.settings)
    exact_in_every_type = torch.arange(output.numel()) % 7 - 3
    output.backward(exact_in_every_type.view_as(output).to(output.dtype))
    return {"output": output.detach(), **{name: leaf.grad for name, leaf in leaves.items()}}


@pytest.fixture(scope="module")
def expected() -> dict[torch.dtype, dict[str, Tensor]]:
    """torchvision's results in float64, for the values that each type can hold."""
    return {
        dtype: results("torchvision", {name: tensor.double() for name, tensor in tensors_of(dtype).items()})
        for dtype in TYPES
    }


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_many_blocks_on_any_number_of_threads(dtype, threads, expected):
    tolerance = tolerance_of("extension", dtype)
    for name, tensor in results("extension", tensors_of(dtype)).items():
        allowed = tolerance.forward if name == "output" else tolerance.backward
        assert_near(tensor, expected[dtype][name], allowed, name)


def test_results_are_the_same_every_time(threads):
    first, second = (results("extension", tensors_of(torch.float32)) for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_position_strides_do_not_matter():
    tensors = tensors_of(torch.float32)
    transposed = {
        name: tensor.transpose(2, 3).contiguous().transpose(2, 3) if name in ("offset", "mask") else tensor
        for name, tensor in tensors.items()
    }
    usual, unusual = results("extension", tensors), results("extension", transposed)
    for name, tensor in usual.items():
        assert torch.equal(tensor, unusual[name]), name
