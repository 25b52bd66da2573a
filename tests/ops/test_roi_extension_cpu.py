"""What only the compiled CPU kernels of RoI pooling have: blocks of channels and bins, threads, layouts."""

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dcn_backbones.ops import available_backends, deform_roi_pool, use_backend

from .compare import assert_near, assert_same_bits, tolerance_of
from .roi_cases import PLAIN, SENSITIVE, RoICase, run, with_leaves
from .test_deform_conv2d import in_format
from .test_extension_cpu import TYPES

pytestmark = pytest.mark.skipif("extension" not in available_backends(), reason="the extension is not built")

CASES = {
    # Blocks of channels that end inside a vector and, contiguous, enough regions to make them dense first.
    "blocks": RoICase(batch=3, out_channels=83, regions=40, output_size=(7, 7)),
    "adaptive_blocks": RoICase(out_channels=64, regions=40, output_size=(5, 4), sampling_ratio=-1, **PLAIN),
    # Too few regions for that.
    "few_regions": RoICase(batch=1, out_channels=70, size=(50, 60), regions=3, sides=(10.0, 40.0)),
    "sensitive_blocks": RoICase(out_channels=66, offset_groups=3, regions=80, **SENSITIVE),
    "sensitive_few_regions": RoICase(
        out_channels=20, offset_groups=2, size=(30, 40), regions=3, sides=(5.0, 20.0), **SENSITIVE
    ),
}
FORMATS = ["contiguous", "channels_last"]


@pytest.fixture(params=[(name, layout) for name in CASES for layout in FORMATS], ids="-".join)
def case(request) -> tuple[str, str]:
    return request.param


def tensors_of(case: tuple[str, str], dtype: torch.dtype) -> dict[str, Tensor | None]:
    """Offsets on a grid that no type rounds."""
    name, layout = case
    tensors = CASES[name].tensors(dtype)
    if tensors["offset"] is not None:
        tensors["offset"] = (tensors["offset"] * 64).round() / 64
    return tensors | dict(input=in_format(tensors["input"], layout))


def results(backend: str, case: RoICase, tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """The output and the gradient of every argument but the boxes, by name."""
    arguments, leaves = with_leaves(tensors)
    output = run(backend, case, arguments)
    exact_in_every_type = (torch.arange(output.numel()) % 7 - 3).view(output.shape).to(output.dtype)
    gradients = torch.autograd.grad(output, list(leaves.values()), exact_in_every_type)
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


@functools.cache
def expected(case: tuple[str, str], dtype: torch.dtype) -> dict[str, Tensor]:
    """The reference's results in float64, for the values that the type can hold."""
    tensors = tensors_of(case, dtype)
    return results(
        "reference", CASES[case[0]], {k: None if t is None else t.double() for k, t in tensors.items()}
    )


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_many_blocks_on_any_number_of_threads(case, dtype, threads):
    tolerance = tolerance_of("extension", dtype)
    for name, tensor in results("extension", CASES[case[0]], tensors_of(case, dtype)).items():
        allowed = tolerance.forward if name == "output" else tolerance.backward
        assert_near(tensor, expected(case, dtype)[name], allowed, name)


def test_the_number_of_threads_does_not_change_a_bit(case, threads):
    tensors = tensors_of(case, torch.float32)
    found = results("extension", CASES[case[0]], tensors)
    torch.set_num_threads(1)
    assert_same_bits(found, results("extension", CASES[case[0]], tensors))


def test_results_are_the_same_every_time(case, threads):
    tensors = tensors_of(case, torch.float32)
    assert_same_bits(*(results("extension", CASES[case[0]], tensors) for _ in range(2)))


def test_strides_of_offset_and_mask_do_not_matter():
    tensors = tensors_of(("blocks", "contiguous"), torch.float32)
    transposed = {
        name: tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
        if name in ("offset", "mask")
        else tensor
        for name, tensor in tensors.items()
    }
    assert_same_bits(
        results("extension", CASES["blocks"], tensors), results("extension", CASES["blocks"], transposed)
    )


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("sampling_ratio", [1, 3, 20])
def test_more_points_than_pixels(layout, sampling_ratio):
    """Points of a bin are merged pixel by pixel: no more taps than the image has rows and columns."""
    case = replace(CASES["blocks"], sampling_ratio=sampling_ratio, regions=2, size=(3, 5), output_size=(2, 2))
    tensors = case.tensors()
    tensors["input"] = in_format(tensors["input"], layout)
    found, expected = (results(backend, case, tensors) for backend in ("extension", "reference"))
    for name, tensor in found.items():
        assert_near(tensor, expected[name], 1e-11, name)


def test_a_bin_of_a_million_points():
    """The mean of a ramp is its value in the middle; all pairs of points would take years."""
    ramp = torch.arange(12, dtype=torch.float64).view(1, 1, 3, 4)
    boxes = torch.tensor([[0, 0.5, 0.5, 3.5, 2.5]], dtype=torch.float64)
    with use_backend("extension"):
        assert deform_roi_pool(ramp, boxes, 1, sampling_ratio=10**6).item() == pytest.approx(5.5, rel=1e-9)
