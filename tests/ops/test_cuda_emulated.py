"""The CUDA kernels on an emulated grid: the real bodies and host side, on the CPU, against the reference."""

import pytest
import torch

from dcn_backbones.ops import deform_conv2d, use_backend
from dcn_backbones.ops.backends.blocks import Geometry, Operands

from .cases import AWKWARD, Case
from .compare import assert_near
from .cuda_emulation import EmulatedCuda
from .test_deform_conv2d import check
from .test_hostile_values import HOSTILE, gradients

CASES = {
    # Vectors, several tiles and slices of a scatter, partial ones among them.
    "tiles": Case(batch=2, channels=80, out_channels=8, size=(17, 15), offset_groups=2, spread=1.0),
    "wide": Case(batch=1, channels=264, out_channels=8, size=(3, 5)),
    "strided": Case(batch=2, channels=16, out_channels=8, size=(19, 21), stride=(2, 3), spread=1.0),
    "grouped": Case(batch=2, channels=64, out_channels=64, size=(6, 7), groups=8, offset_groups=2),
    "far_taps": Case(channels=8, size=(30, 33), dilation=(9, 11), padding=(9, 11), spread=1.0),
}
ALL_CASES = AWKWARD | CASES
pytestmark = pytest.mark.usefixtures("emulated")
TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("name", ALL_CASES)
def test_values_and_gradients(emulated, sums, name):
    check(emulated.name, ALL_CASES[name], ALL_CASES[name].tensors(torch.float32), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["modulated", "groups_2_offset_groups_3", *CASES])
def test_every_type(emulated, sums, dtype, name):
    check(emulated.name, ALL_CASES[name], ALL_CASES[name].tensors(dtype), dtype)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", ["modulated", "tiles", "strided", "far_taps"])
def test_fixed_point(emulated, order, dtype, name):
    check(emulated.name, ALL_CASES[name], ALL_CASES[name].tensors(dtype), dtype)


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_offsets(emulated, value):
    case = Case(channels=16, out_channels=8, groups=2, offset_groups=2, size=(6, 7))
    for dtype in TYPES:
        tensors = case.tensors(dtype)
        tensors["offset"] = torch.full_like(tensors["offset"], value)
        output, found = gradients(emulated.name, tensors, case)
        assert_near(output, tensors["bias"][:, None, None].expand_as(output), 0.0)
        assert not any(found[name].any() for name in ("input", "offset", "weight", "mask")), dtype


@pytest.mark.parametrize("name", ["modulated", "groups_2_offset_groups_3", "batch_33", "many_positions"])
@pytest.mark.parametrize("workspace", [20_000, 60_000])
def test_blocks_that_begin_inside_an_image(emulated, monkeypatch, name, workspace):
    monkeypatch.setattr(EmulatedCuda, "workspace_bytes", workspace)
    check(emulated.name, ALL_CASES[name], ALL_CASES[name].tensors(torch.float32), torch.float32)


def gradient_of_input(backend, case: Case, change: float = 1.0, scale: float = 1.0) -> torch.Tensor:
    """With `change` as one element of a gradient of the output that is `scale` everywhere else."""
    tensors = case.tensors(torch.float32)
    input = tensors.pop("input").requires_grad_()
    with use_backend(backend.name):
        output = deform_conv2d(input, **tensors, **case.settings)
    grad_output = torch.full_like(output, scale)
    grad_output[-1, 0, 0, 0] = change
    output.backward(grad_output)
    return input.grad


@pytest.mark.usefixtures("deterministic")
def test_fixed_point_has_the_same_bits_in_any_order(emulated):
    found = []
    for multiprocessors, backwards in [(1, False), (1, True), (200, False)]:
        emulated.set_device(multiprocessors, backwards=backwards)
        found.append(gradient_of_input(emulated, CASES["tiles"]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_fixed_point_passes_on_what_is_not_finite(emulated, value):
    case = Case(batch=2, channels=4, out_channels=3, size=(6, 7), spread=0.4)
    found, unharmed = gradient_of_input(emulated, case, value), gradient_of_input(emulated, case)
    lost = ~found.isfinite()
    assert lost[1, :, 0, 0].all() and not lost[0].any() and not lost[1, :, 3:].any()
    assert_near(found[~lost], unharmed[~lost], 1e-5)


@pytest.mark.usefixtures("deterministic")
def test_fixed_point_sums_that_are_lost_twice_stay_lost(emulated):
    """Two tiles that each add NaN to one pixel."""
    case = CASES["tiles"]
    found, all_ones = gradient_of_input(emulated, case, scale=float("nan")), gradient_of_input(emulated, case)
    assert torch.equal(found.isnan(), all_ones != 0)


GEOMETRY = Geometry((3, 3), (1, 1), (1, 1), (1, 1), (4, 5), 1)


def operands() -> Operands:
    """Two images of ones, 4 channels."""
    sampled = torch.ones(2, 4, 5, 4), torch.zeros(2, 4, 5, 18), torch.ones(2, 4, 5, 9)
    return Operands(*sampled, torch.ones(1, 3, 36), GEOMETRY)


def columns() -> torch.Tensor:
    """For 20 rows."""
    return torch.full((1, 20, 9, 4), torch.nan)


@pytest.mark.parametrize(
    ("changes", "first", "words"),
    [
        (dict(offset=torch.zeros(2, 4, 5, 18, dtype=torch.float64)), 0, "offset has an unexpected type"),
        (dict(mask=torch.ones(2, 4, 5, 8)), 0, r"mask has shape \(2, 4, 5, 8\), expected \(2, 4, 5, 9\)"),
        (dict(mask=torch.ones(2, 4, 9, 5).transpose(2, 3)), 0, "mask is not dense"),
        (dict(columns=torch.ones(1, 20, 8, 4)), 0, r"columns has shape \(1, 20, 8, 4\)"),
        (dict(columns=torch.ones(81)[1:].view(1, 20, 1, 4).expand(1, 20, 9, 4)), 0, "columns is not dense"),
        (dict(columns=torch.ones(721)[1:].view(1, 20, 9, 4)), 0, "columns is not aligned"),
        ({}, 21, "not positions of the output"),
        ({}, -1, "not positions of the output"),
    ],
)
def test_the_host_side_refuses_what_a_kernel_cannot_take(emulated, changes, first, words):
    tensors = operands()._asdict() | dict(columns=columns()) | changes
    given = tensors.pop("columns")
    with pytest.raises(RuntimeError, match=words):
        emulated.gather(Operands(**tensors), first, given)


def test_tensors_that_are_not_aligned_are_taken(emulated):
    aligned = operands()
    shifted = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape) for t in aligned.sampled]
    found = columns()
    emulated.gather(Operands(*shifted, aligned.weight, GEOMETRY), 20, found)
    assert found[0, 6].eq(1).all() and found[0, 0].sum() == 4 * 4


# By positions and output channels of the tile, with ragged ends; narrow groups have their own kernel.
FUSED = {
    "128x256": Case(batch=2, channels=72, out_channels=248, size=(25, 5), spread=1.0),
    "96x256": Case(batch=3, channels=72, out_channels=264, size=(7, 9), spread=1.0),
    "256x128": Case(batch=4, channels=72, out_channels=120, size=(25, 5), spread=1.0),
    "128x128": Case(batch=2, channels=120, out_channels=104, size=(25, 5), bias=False, spread=1.0),
    "64x128": Case(batch=1, channels=64, out_channels=16, size=(5, 7), mask=False),
    "64x128 offset groups": Case(batch=2, channels=128, out_channels=8, size=(5, 7), offset_groups=2),
    "64x128 large kernel": Case(channels=8, out_channels=8, kernel_size=(5, 2), dilation=(2, 1)),
    "64x128 wide groups": Case(batch=1, channels=80, out_channels=256, size=(5, 7), groups=2),
    "64x64 groups of 8": Case(batch=3, channels=72, out_channels=72, size=(5, 7), groups=9),
    "64x64 groups of 16": Case(channels=128, out_channels=128, groups=8, offset_groups=2),
    "64x64 groups of 32": Case(channels=96, out_channels=96, size=(9, 9), groups=3, stride=(2, 1)),
}


def assert_forward(backend, case: Case, tensors: dict) -> None:
    with use_backend(backend.name):
        output = deform_conv2d(**tensors, **case.settings)
    wide = {name: None if t is None else t.double() for name, t in tensors.items()}
    with use_backend("reference"):
        expected = deform_conv2d(**wide, **case.settings)
    assert_near(output, expected, backend.tolerances[output.dtype].forward)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FUSED)
def test_fused_forward(emulated, order, name, dtype):
    assert_forward(emulated, FUSED[name], FUSED[name].tensors(dtype))
    rows, columns = name.split()[0].split("x")
    assert f"FusedTileILi{rows}ELi{columns}E" in emulated.last_kernel()


NOT_FUSED = {
    "channels": Case(channels=12, out_channels=8),
    "out_channels": Case(channels=8, out_channels=12),
    "groups": Case(channels=48, out_channels=48, groups=2),
    "offset_groups": Case(channels=16, out_channels=8, offset_groups=2),
    "taps": Case(channels=8, out_channels=8, kernel_size=(11, 11), padding=(5, 5)),
    "many channels": Case(batch=1, channels=136, out_channels=8, size=(3, 3)),
    "many channels in groups": Case(batch=1, channels=544, out_channels=544, size=(2, 2), groups=17),
}


@pytest.mark.parametrize("name", NOT_FUSED)
def test_what_the_fused_kernel_does_not_take_goes_block_by_block(emulated, name):
    assert_forward(emulated, NOT_FUSED[name], NOT_FUSED[name].tensors(torch.bfloat16))
    assert "Gather" in emulated.last_kernel()


@pytest.mark.parametrize("device", [dict(tensor_tiles=False), dict(shared_bytes=64 << 10)])
def test_a_device_that_is_too_small_goes_block_by_block(emulated, device):
    emulated.set_device(**device)
    assert_forward(emulated, FUSED["128x256"], FUSED["128x256"].tensors(torch.float16))
    assert "Gather" in emulated.last_kernel()


@pytest.mark.parametrize("groups", [2, 4, 8])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_fused_groups_do_not_reach_into_each_other(emulated, groups, value):
    case = Case(channels=64, out_channels=64, groups=groups, size=(5, 6), spread=0.5)
    tensors = case.tensors(torch.bfloat16)
    tensors["input"][:, : 64 // groups] = value
    with use_backend(emulated.name):
        output = deform_conv2d(**tensors, **case.settings)
    assert "Fused" in emulated.last_kernel()
    assert not output[:, : 64 // groups].isfinite().any() and output[:, 64 // groups :].isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_fused_forward_never_reads_pixels_that_no_sample_looks_at(emulated, value):
    case = Case(channels=64, out_channels=64, size=(5, 5), bias=False)
    tensors = case.tensors(torch.bfloat16)
    tensors["offset"].fill_(100.0)
    tensors["input"].fill_(value)
    with use_backend(emulated.name):
        assert not deform_conv2d(**tensors, **case.settings).any()
