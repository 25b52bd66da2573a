"""The layers against plain convolutions and an independent computation, and every way of loading them."""

import logging
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dcn_backbones.layers import DeformConv2d, ModulatedDeformConv2d, offset_branch

from .geometries import GEOMETRIES

LAYERS = [DeformConv2d, ModulatedDeformConv2d]


def make_layer(layer_class: type[DeformConv2d], geometry: str) -> DeformConv2d:
    """A layer of 6 -> 4 channels in float64 whose offsets are about a pixel large."""
    torch.manual_seed(0)
    layer = layer_class(6, 4, **GEOMETRIES[geometry], dtype=torch.float64)
    nn.init.normal_(layer.conv_offset.weight, std=0.2)
    nn.init.normal_(layer.conv_offset.bias, std=0.5)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


def make_input() -> torch.Tensor:
    return torch.randn(2, 6, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def oracle(layer: DeformConv2d, input: torch.Tensor, first: int = 0) -> torch.Tensor:
    """The papers' equations by way of ``grid_sample``; ``first=1`` takes offsets for x, y instead of y, x."""
    groups, (kernel_h, kernel_w) = layer.offset_groups, layer.kernel_size
    samples = kernel_h * kernel_w
    raw = layer.conv_offset(input)
    n, _, out_h, out_w = raw.shape
    offset = raw[:, : 2 * groups * samples].reshape(n, groups, samples, 2, out_h, out_w)
    mask = torch.ones_like(offset[:, :, :, 0])
    if isinstance(layer, ModulatedDeformConv2d):
        mask = raw[:, 2 * groups * samples :].reshape(n, groups, samples, out_h, out_w).sigmoid()

    columns = []
    for group, channels in enumerate(input.chunk(groups, dim=1)):
        for sample in range(samples):
            row, column = divmod(sample, kernel_w)
            y = (
                torch.arange(out_h, dtype=input.dtype) * layer.stride[0]
                - layer.padding[0]
                + row * layer.dilation[0]
            )
            x = (
                torch.arange(out_w, dtype=input.dtype) * layer.stride[1]
                - layer.padding[1]
                + column * layer.dilation[1]
            )
            y = y[:, None] + offset[:, group, sample, first]
            x = x[None, :] + offset[:, group, sample, 1 - first]
            grid = torch.stack([(2 * x + 1) / input.shape[3] - 1, (2 * y + 1) / input.shape[2] - 1], dim=-1)
            sampled = F.grid_sample(channels, grid, padding_mode="zeros", align_corners=False)
            columns.append(sampled * mask[:, group, sample, None])
    column = torch.stack(columns, dim=1).reshape(n, groups, samples, -1, out_h, out_w)
    column = column.transpose(2, 3).reshape(n, layer.groups, -1, samples, out_h, out_w)
    weight = layer.weight.reshape(layer.groups, -1, *layer.weight.shape[1:2], samples)
    out = torch.einsum("ngckhw,gock->ngohw", column, weight).reshape(n, -1, out_h, out_w)
    return out if layer.bias is None else out + layer.bias[:, None, None]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("layer_class", LAYERS)
def test_computes_the_papers_equations_in_the_documented_channel_order(layer_class, geometry):
    layer, input = make_layer(layer_class, geometry), make_input()
    torch.testing.assert_close(layer(input), oracle(layer, input))
    assert (layer(input) - oracle(layer, input, first=1)).abs().max() > 0.1


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("layer_class", LAYERS)
def test_made_from_a_convolution_it_computes_the_same(layer_class, geometry):
    options = dict(GEOMETRIES[geometry])
    offset_groups = options.pop("offset_groups", 1)
    conv = nn.Conv2d(6, 4, **options, dtype=torch.float64)
    layer = layer_class.from_conv2d(conv, offset_groups=offset_groups)
    torch.testing.assert_close(layer(make_input()), conv(make_input()))
    assert layer.offset_groups == offset_groups


@pytest.mark.parametrize(("layer_class", "channels"), [(DeformConv2d, 2), (ModulatedDeformConv2d, 3)])
def test_keys_and_channels_are_mmcvs(layer_class, channels):
    state = layer_class(6, 4, (3, 2), offset_groups=3, bias=True).state_dict()
    assert list(state) == ["weight", "bias", "conv_offset.weight", "conv_offset.bias"]
    assert state["conv_offset.weight"].shape == (channels * 3 * 6, 6, 3, 2)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_initialisation_is_fan_out_and_a_still_offset_branch(layer_class):
    torch.manual_seed(0)
    layer = layer_class(64, 128, 3, groups=2, bias=True)
    assert layer.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert not any(parameter.any() for parameter in (layer.bias, *layer.conv_offset.parameters()))


@pytest.mark.parametrize(("layer_class", "scale"), [(DeformConv2d, 1), (ModulatedDeformConv2d, 2)])
def test_a_plain_state_loads_strictly_and_is_left_alone(layer_class, scale):
    layer, conv = make_layer(layer_class, "awkward"), nn.Conv2d(6, 4, (3, 2), groups=2, dtype=torch.float64)
    state = conv.state_dict()
    before = deepcopy(state)
    layer.load_state_dict(state, strict=True)
    assert torch.equal(layer.weight, scale * conv.weight)
    assert torch.equal(layer.bias, conv.bias)
    assert not any(parameter.any() for parameter in layer.conv_offset.parameters())
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], before[key]) for key in before)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_a_plain_state_is_assigned_to_a_layer_on_the_meta_device(layer_class):
    conv = nn.Conv2d(6, 4, 3, padding=1, bias=False, dtype=torch.float64)
    layer = layer_class(6, 4, 3, padding=1, device="meta")
    layer.load_state_dict(dict(conv.named_parameters()), strict=True, assign=True)
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in layer.parameters())
    torch.testing.assert_close(layer(make_input()), conv(make_input()))


@pytest.mark.parametrize("layer_class", LAYERS)
def test_its_own_state_loads_unchanged(layer_class):
    layer, other = (
        make_layer(layer_class, "awkward"),
        layer_class(6, 4, **GEOMETRIES["awkward"], dtype=torch.float64),
    )
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(make_input()), layer(make_input()))


def test_a_dcnv1_state_is_no_plain_state():
    layer = ModulatedDeformConv2d(6, 4, **GEOMETRIES["awkward"], dtype=torch.float64)
    with pytest.raises(RuntimeError, match="size mismatch for conv_offset.weight"):
        layer.load_state_dict(make_layer(DeformConv2d, "awkward").state_dict())


@pytest.mark.parametrize("missing", ["weight", "bias", "conv_offset.weight", "conv_offset.bias"])
@pytest.mark.parametrize("layer_class", LAYERS)
def test_an_incomplete_state_is_reported(layer_class, missing):
    layer = make_layer(layer_class, "awkward")
    state = layer.state_dict()
    del state[missing]
    with pytest.raises(RuntimeError, match=f'Missing key.*"{missing}"'):
        layer.load_state_dict(state)


def test_a_conversion_is_logged_once_for_each_load(caplog):
    plain = nn.Sequential(*[nn.Conv2d(2, 2, 3, bias=False) for _ in range(3)])
    network = nn.Sequential(*[ModulatedDeformConv2d(2, 2, 3) for _ in range(3)])
    with caplog.at_level(logging.INFO, logger="dcn_backbones"):
        network.load_state_dict(network.state_dict())
        assert not caplog.records
        for loads in (1, 2):
            network.load_state_dict(plain.state_dict())
            assert len(caplog.records) == loads
    assert "(the first: 0)" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer_class", LAYERS)
def test_half_layers_keep_positions_in_float32(layer_class, dtype):
    layer = make_layer(layer_class, "strided").to(dtype)
    input = make_input().to(dtype)
    assert layer._predict_sampling(input).dtype == torch.float32
    output = layer(input)
    assert output.dtype == dtype
    exact = layer.double()(input.double())
    assert (output.double() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("layer_class", LAYERS)
def test_autocast_gives_half_outputs_near_the_exact_ones(layer_class):
    layer, input = make_layer(layer_class, "strided").float(), make_input().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(input)
        assert layer._predict_sampling(input).dtype == torch.float32
    assert output.dtype == torch.bfloat16
    assert (output.float() - layer(input)).abs().max() < 0.05 * layer(input).abs().max()


@pytest.mark.parametrize("layer_class", LAYERS)
def test_compiles_as_one_graph_and_exports(layer_class):
    layer, input = make_layer(layer_class, "usual"), make_input()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(input), layer(input))
    exported = torch.export.export(layer.eval(), (input,))
    torch.testing.assert_close(exported.module()(input), layer(input))


@pytest.mark.parametrize("layer_class", LAYERS)
def test_every_parameter_receives_a_gradient(layer_class):
    layer = make_layer(layer_class, "awkward")
    layer(make_input()).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(groups=4), "groups=4 does not divide in_channels=6"),
        (dict(groups=3), "groups=3 does not divide out_channels=4"),
        (dict(offset_groups=4), "offset_groups=4 does not divide in_channels=6"),
        (dict(offset_groups=0), "offset_groups=0 does not divide in_channels=6"),
    ],
)
@pytest.mark.parametrize("layer_class", LAYERS)
def test_channels_that_do_not_divide_are_rejected(layer_class, options, message):
    with pytest.raises(ValueError, match=message):
        layer_class(6, 4, 3, **options)


@pytest.mark.parametrize("options", [dict(padding="same"), dict(padding_mode="reflect", padding=1)])
def test_convolutions_with_another_padding_are_rejected(options):
    with pytest.raises(ValueError, match="needs zero padding given in pixels"):
        DeformConv2d.from_conv2d(nn.Conv2d(6, 4, 3, **options))


def test_the_printed_form_names_what_differs_from_the_defaults():
    printed = ModulatedDeformConv2d(6, 4, 3, padding=1, offset_groups=2).extra_repr()
    assert printed == "6, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), offset_groups=2, bias=False"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("channels", [18, 24, 27])
def test_padded_offset_channels_change_nothing(monkeypatch, channels, bias):
    """What a GPU's offset branch does, on the CPU: values, gradients, and how many channels are computed."""
    branch = offset_branch.OffsetConv2d(4, channels, 3, padding=1, bias=bias, dtype=torch.float64)
    input = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    computed, results = [], []
    convolution = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *a, **k: computed.append(convolution(*a, **k)) or computed[-1])
    for devices in (set(), {"cpu"}):
        monkeypatch.setattr(offset_branch, "PADDED_DEVICES", devices)
        output = branch(input)
        gradients = torch.autograd.grad(output.square().sum(), [input, *branch.parameters()])
        results.append([output, *gradients])
    assert [each.shape[1] for each in computed] == [channels, -(-channels // 8) * 8]
    for plain, padded in zip(*results, strict=True):
        torch.testing.assert_close(padded, plain, rtol=1e-12, atol=1e-12)
