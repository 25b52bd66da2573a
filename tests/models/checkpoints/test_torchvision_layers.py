"""torchvision's layer with its branches, and ours: the same outputs, both ways."""

import pytest
import torch
from torch import nn
from torchvision.ops import DeformConv2d as TorchvisionDeformConv2d

from dcn_backbones.layers import DeformConv2d, ModulatedDeformConv2d
from dcn_backbones.models.checkpoints import from_torchvision, to_torchvision

GEOMETRY = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
POINTS = 3 * 2 * 2  # of two offset groups


@pytest.fixture
def input() -> torch.Tensor:
    return torch.randn(2, 8, 9, 10, dtype=torch.float64)


def conv(bias: bool = True) -> TorchvisionDeformConv2d:
    return TorchvisionDeformConv2d(8, 12, **GEOMETRY, groups=4, bias=bias).double()


def branch(channels: int, **options) -> nn.Conv2d:
    return nn.Conv2d(8, channels, **{**GEOMETRY, **options}).double()


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_mask_branch_of_its_own(scale, bias, input):
    layer, offset, mask = conv(bias), branch(2 * POINTS), branch(POINTS, bias=bias)
    ours = from_torchvision(layer, offset, mask, scale)
    assert isinstance(ours, ModulatedDeformConv2d) and ours.offset_groups == 2
    expected = layer(input, offset(input), scale * mask(input).sigmoid())
    torch.testing.assert_close(ours(input), expected)


@torch.no_grad()
def test_one_branch_for_both(input):
    layer, both = conv(), branch(3 * POINTS)
    output = both(input)
    expected = layer(input, output[:, : 2 * POINTS], output[:, 2 * POINTS :].sigmoid())
    torch.testing.assert_close(from_torchvision(layer, both)(input), expected)


@torch.no_grad()
def test_no_mask(input):
    layer, offset = conv(), branch(2 * POINTS)
    ours = from_torchvision(layer, offset)
    assert type(ours) is DeformConv2d and ours.offset_groups == 2
    torch.testing.assert_close(ours(input), layer(input, offset(input)))


@torch.no_grad()
@pytest.mark.parametrize("layer_class", [DeformConv2d, ModulatedDeformConv2d])
def test_ours_as_theirs(layer_class, input):
    ours = layer_class(8, 12, **GEOMETRY, groups=4, offset_groups=2, bias=True, dtype=torch.float64)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    layer, offset, mask = to_torchvision(ours)
    assert type(layer) is TorchvisionDeformConv2d and (mask is None) == (layer_class is DeformConv2d)
    sampling = (offset(input),) if mask is None else (offset(input), mask(input).sigmoid())
    torch.testing.assert_close(layer(input, *sampling), ours(input))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 1}, r"the offset branch has stride=\(1, 1\), but its layer \(2, 1\)"),
        ({"kernel_size": 3}, r"has kernel_size=\(3, 3\), but its layer \(3, 2\)"),
    ],
)
def test_a_branch_of_another_geometry_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        from_torchvision(conv(), branch(2 * POINTS, **options))


def test_channels_that_fit_no_groups_are_refused():
    with pytest.raises(ValueError, match=r"has 23 output channels; expected 12 \(offsets\) or 18"):
        from_torchvision(conv(), branch(23))
