"""Effective dilation of filters whose samples are known."""

import math

import pytest
import timm
import torch
from torch import nn

from dcn_backbones.analysis import effective_dilation
from dcn_backbones.layers import DeformConv2d

from .conftest import SAMPLES, FixedOffsets

IMAGE = torch.zeros(1, 3, 64, 64)


@pytest.mark.parametrize("dilation", [1, 2, 5])
@pytest.mark.parametrize("layer_class", [nn.Conv2d, DeformConv2d])
@pytest.mark.parametrize("kernel_size, stride", [((3, 3), 1), ((3, 2), 2), ((1, 3), 1)])
def test_a_plain_convolution_of_dilation_d_has_d(dilation, layer_class, kernel_size, stride):
    layer = layer_class(3, 4, kernel_size, stride=stride, padding=dilation, dilation=dilation)
    (found,) = effective_dilation(nn.Sequential(layer), IMAGE, plain=True)
    assert found.layer == "0" and (found.values == dilation).all()
    assert (
        found.values.shape == (*layer(IMAGE).shape[2:], 1)
        and found.centres.shape[:2] == found.values.shape[:2]
    )


def test_a_network_without_offsets_has_one(make_network):
    for entry in effective_dilation(make_network(), IMAGE):
        assert (entry.values == 1).all()
    assert (effective_dilation(make_network(output_stride=16), IMAGE)[-1].values == 2).all()


def test_scaled_filters_have_their_scale_in_each_direction(make_network):
    steps = torch.cartesian_prod(torch.arange(-1.0, 2), torch.arange(-1.0, 2))  # y and x
    for scale_y, scale_x in ((3, 3), (2, 4)):
        offset = steps * torch.tensor([scale_y - 1.0, scale_x - 1.0])
        for entry in effective_dilation(make_network(offset=offset), IMAGE):
            torch.testing.assert_close(entry.values, torch.full_like(entry.values, (scale_y + scale_x) / 2))


def test_all_adjacent_pairs_of_every_filter_count():
    layer = DeformConv2d(2, 2, 3, padding=1, offset_groups=2)
    offsets = torch.randn(1, 2 * 2 * SAMPLES, 5, 4)
    layer.conv_offset = FixedOffsets(offsets)
    (found,) = effective_dilation(nn.Sequential(layer), torch.zeros(1, 2, 5, 4))
    assert found.values.shape == (5, 4, 2)
    y, x, group = 3, 1, 1
    samples = [[offsets[0, 2 * (group * SAMPLES + k) : 2 * (group * SAMPLES + k) + 2, y, x].tolist() for k in range(3 * row, 3 * row + 3)] for row in range(3)]  # noqa: E501  # fmt: skip
    places = [
        [(row + dy, column + dx) for column, (dy, dx) in enumerate(line)] for row, line in enumerate(samples)
    ]
    distances = [
        math.dist(places[row][column], places[row][column + 1]) for row in range(3) for column in range(2)
    ]
    distances += [
        math.dist(places[row][column], places[row + 1][column]) for row in range(2) for column in range(3)
    ]
    assert float(found.values[y, x, group]) == pytest.approx(sum(distances) / 12, rel=1e-5)
    assert found.centres[y, x].tolist() == [1, 3]


def test_errors():
    with pytest.raises(ValueError, match="ResNet has no deformable layers"):
        effective_dilation(timm.create_model("resnet18"), IMAGE)
