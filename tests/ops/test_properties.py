"""Every fast backend equals the reference, whatever the configuration: found by hypothesis, not chosen.

A few hundred cases here; `make fuzz` sets `DCN_FUZZ_CASES` to ten thousand.
"""

import math
import os

import pytest
import torch
from torch import Tensor

from dcn_backbones.ops import deform_conv2d, use_backend

from .cases import Case, named_leaves
from .compare import assert_near, tolerance_of, types_of

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CASES = int(os.environ.get("DCN_FUZZ_CASES", "200"))
HOSTILE = [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 2.0**31, -(2.0**63)]

small = st.integers(1, 3)


@st.composite
def configurations(draw) -> Case:
    """Valid configurations: the size is drawn last, so that an output is left."""
    groups, offset_groups = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    common = math.lcm(groups, offset_groups)
    kernel_size, dilation = draw(st.tuples(small, small)), draw(st.tuples(small, small))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    least = [max(1, dilation[i] * (kernel_size[i] - 1) + 1 - 2 * padding[i]) for i in range(2)]
    return Case(
        batch=draw(st.integers(0, 4)),
        channels=common * draw(st.integers(1, 9)),
        out_channels=groups * draw(st.integers(1, 9)),
        size=tuple(size + draw(st.integers(0, 6)) for size in least),
        kernel_size=kernel_size,
        stride=draw(st.tuples(small, small)),
        padding=padding,
        dilation=dilation,
        groups=groups,
        offset_groups=offset_groups,
        mask=draw(st.booleans()),
        bias=draw(st.booleans()),
        spread=draw(st.sampled_from([0.0, 0.4, 3.0, 30.0])),
    )


def laid_out(tensor: Tensor | None, name: str) -> Tensor | None:
    if tensor is None or tensor.dim() < 4 or name == "contiguous":
        return tensor
    if name == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.transpose(2, 3).contiguous().transpose(2, 3)


def make_hostile(offset: Tensor, value: float, share: float) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    chosen = torch.rand(offset.shape, generator=generator, device="cpu") < share
    return offset.masked_fill(chosen.to(offset.device), value)


def results(backend: str, case: Case, tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    leaves = named_leaves(tensors)
    with use_backend(backend):
        output = deform_conv2d(**leaves, **case.settings)
    return with_gradients(output, leaves)


def with_gradients(output: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """By name; those that answer to small whole numbers, which are exact in every type."""
    grad_output = (torch.arange(output.numel()) % 5 - 2).view(output.shape).to(output.dtype)
    gradients = torch.autograd.grad(output, list(leaves.values()), grad_output)
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


def drawn_tensors(data, case, dtype: torch.dtype) -> dict[str, Tensor | None]:
    """A case's, in any layout, with offsets that may be hostile."""
    layouts = data.draw(st.tuples(*[st.sampled_from(["contiguous", "channels_last", "transposed"])] * 2))
    tensors = case.tensors(dtype, seed=data.draw(st.integers(0, 1000)))
    tensors = {k: laid_out(t, layouts[k == "input"]) for k, t in tensors.items()}
    if tensors["offset"] is not None and data.draw(st.booleans()):
        value, share = data.draw(st.sampled_from(HOSTILE)), data.draw(st.sampled_from([0.02, 0.5, 1]))
        tensors["offset"] = make_hostile(tensors["offset"], value, share)
    return tensors


def assert_same_as_reference(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance) -> None:
    for name, tensor in found.items():
        # The reference rounds its own results: both may use up their tolerance.
        allowed = tolerance.forward if name == "output" else tolerance.backward
        assert_near(tensor, expected[name], 2 * allowed, name)
        assert tensor.stride() == expected[name].stride(), name


fuzzed = settings(
    max_examples=CASES, deadline=None, derandomize=CASES <= 200, suppress_health_check=list(HealthCheck)
)


@fuzzed
@given(data=st.data())
def test_fast_backends_equal_the_reference(fast_backend, data):
    case = data.draw(configurations())
    dtype = data.draw(st.sampled_from(types_of(fast_backend)))
    tensors = drawn_tensors(data, case, dtype)
    found, expected = results(fast_backend, case, tensors), results("reference", case, tensors)
    assert_same_as_reference(found, expected, tolerance_of(fast_backend, dtype))
