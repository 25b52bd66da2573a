"""Paths through several layers: regular patterns, masks, borders, and what autograd says about them."""

import pytest
import timm
import torch
from torch import nn

from dcn_backbones.analysis import record_sampling, sampling_locations, trace_sampling
from dcn_backbones.layers import DeformConv2d

from .conftest import SAMPLES, FixedOffsets, grid

IMAGE = torch.zeros(1, 3, 128, 128)
LAYER = "layer2.1.conv2"  # three layers of stride 8, counted from here to layer2.0.conv2
POINT = (64, 56)


def tally(positions: torch.Tensor) -> dict[tuple[float, float], int]:
    values, counts = positions.unique(dim=0, return_counts=True)
    return dict(zip(map(tuple, values.tolist()), counts.tolist(), strict=True))


def test_three_levels_of_zero_offsets_are_a_regular_pattern(make_network):
    record = record_sampling(make_network(), IMAGE)
    locations = sampling_locations(record, POINT, LAYER, levels=3)
    ways = dict(zip(range(-3, 4), (1, 3, 6, 7, 6, 3, 1), strict=True))  # of adding three steps of -1, 0 or 1
    expected = {(64 + 8 * x, 56 + 8 * y): ways[x] * ways[y] for x in ways for y in ways}
    assert tally(locations.positions) == expected
    assert locations.layers == ("layer2.1.conv2", "layer2.1.conv1", "layer2.0.conv2")
    assert locations.stride == 8 and locations.unit.tolist() == [64, 56]
    assert locations.inside.all() and not locations.ended.any()
    assert (locations.weights == 0.5**3).all()


def test_a_strided_layer_samples_its_finer_input(make_network):
    record = record_sampling(make_network(), IMAGE)
    steps = sampling_locations(record, POINT, "layer3.0.conv2", levels=2).positions - torch.tensor([64, 64])
    assert tally(steps) == tally((grid(16, 16)[:, None] + grid(8, 8)).flatten(0, 1))


def test_every_level_adds_its_offset_downwards(make_network):
    regular = record_sampling(make_network(), IMAGE)
    moved = record_sampling(make_network(offset=(1.0, 0.0)), IMAGE)
    for levels in (1, 2, 3):
        difference = (
            sampling_locations(moved, POINT, LAYER, levels).positions
            - sampling_locations(regular, POINT, LAYER, levels).positions
        )
        assert (difference == torch.tensor([0, 8 * levels])).all()


def transformed(matrix: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Offsets, ``(9, 2)`` of y and x, that put the samples of a 3x3 kernel through a matrix of x and y, and
    where they are then, ``(9, 2)`` of x and y."""
    regular = grid(1, 1)
    moved = regular @ torch.tensor(matrix, dtype=torch.float64).T
    return (moved - regular).flip(-1), moved


TRANSFORMATIONS = {
    "scaled": [[2.0, 0.0], [0.0, 2.0]],
    "stretched": [[3.0, 0.0], [0.0, 1.0]],
    "rotated by a quarter": [[0.0, -1.0], [1.0, 0.0]],
    "rotated by 37 degrees": [[0.8, -0.6], [0.6, 0.8]],
    "sheared": [[1.0, 0.4], [0.0, 1.0]],
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_offsets_set_by_hand_transform_the_samples(make_network, name):
    offset, moved = transformed(TRANSFORMATIONS[name])
    record = record_sampling(make_network(offset=offset), IMAGE)
    one = sampling_locations(record, POINT, LAYER)
    torch.testing.assert_close(one.positions - torch.tensor(POINT), 8 * moved, rtol=0, atol=1e-5)
    two = sampling_locations(record, POINT, LAYER, levels=2)
    expected = 8 * (moved.round()[:, None] + moved).flatten(0, 1)  # the nearest unit continues a path
    torch.testing.assert_close(two.positions - torch.tensor(POINT), expected, rtol=0, atol=1e-5)


def test_a_plain_networks_locations_are_the_regular_grid():
    record = record_sampling(timm.create_model("resnet18"), IMAGE, plain=True)
    assert [entry.name for entry in record][:2] == ["conv1", "layer1.0.conv1"] and len(record) == 17
    three = sampling_locations(record, POINT, LAYER, levels=3)
    regular = record_sampling(timm.create_model("dcnv2_resnet18"), IMAGE)
    assert torch.equal(three.positions, sampling_locations(regular, POINT, LAYER, levels=3).positions)
    assert (three.weights == 1).all()
    stem = sampling_locations(record, POINT, "conv1")
    steps = torch.arange(-3.0, 4.0, dtype=torch.float64)
    assert torch.equal(stem.positions, torch.cartesian_prod(steps, steps).flip(-1) + stem.unit)


@pytest.mark.parametrize("fraction, units", [(0.4, 0), (0.6, 1)])
def test_the_nearest_unit_continues_a_path(make_network, fraction, units):
    record = record_sampling(make_network(offset=(fraction, 0.0)), IMAGE)
    positions = sampling_locations(record, POINT, LAYER, levels=2).positions - torch.tensor(POINT)
    expected = grid(8, 8)[:, None] + grid(8, 8) + 8 * torch.tensor([0, units + fraction])
    torch.testing.assert_close(positions, expected.flatten(0, 1), rtol=0, atol=1e-5)


def test_weights_are_products_of_masks_along_the_path(make_network):
    logits = torch.linspace(-2, 2, SAMPLES)
    record = record_sampling(make_network(logits=logits), IMAGE)
    mask = logits.double().sigmoid()
    torch.testing.assert_close(sampling_locations(record, POINT, LAYER).weights, mask)
    torch.testing.assert_close(
        sampling_locations(record, POINT, LAYER, levels=2).weights, torch.outer(mask, mask).flatten()
    )
    plain = record_sampling(make_network("dcnv1_resnet18"), IMAGE)
    assert (sampling_locations(plain, POINT, levels=3).weights == 1).all()


def test_paths_end_where_they_leave_the_feature_map(make_network):
    record = record_sampling(make_network(), IMAGE)
    one = sampling_locations(record, (0, 0), LAYER)
    two = sampling_locations(record, (0, 0), LAYER, levels=2)
    assert one.inside.sum() == 4 and not one.ended.any()
    assert torch.equal(one.inside, (one.positions >= 0).all(-1))
    assert two.ended.sum() == 5 * SAMPLES
    assert two.inside.sum() == 5 * 5  # along each axis 0+0, 0+1, 1-1, 1+0 and 1+1
    stays = one.positions.repeat_interleave(SAMPLES, 0)
    assert torch.equal(two.positions[two.ended], stays[two.ended])


def test_a_sample_less_than_a_unit_outside_still_reads_the_border(make_network):
    record = record_sampling(make_network(offset=(0.5, 0.0)), IMAGE)
    two = sampling_locations(record, (64, 0), LAYER, levels=2)
    assert not two.ended.any()
    upper = two.positions.view(SAMPLES, SAMPLES, 2)[:3]  # by way of unit 0, half a unit below the samples
    assert upper[..., 1].unique().tolist() == [-4.0, 4.0, 12.0]


def test_nan_offsets_are_outside(make_network):
    record = record_sampling(make_network(offset=(float("nan"), 0.0)), IMAGE)
    locations = sampling_locations(record, POINT, LAYER, levels=3)
    assert len(locations.inside) == SAMPLES**3 and not locations.inside.any()


@pytest.mark.parametrize("point, unit", [((19, 27), (16, 24)), ((127, 125), (120, 120)), ((4.1, 0), (8, 0))])
def test_the_unit_nearest_to_the_point(make_network, point, unit):
    record = record_sampling(make_network(), IMAGE)
    locations = sampling_locations(record, point, LAYER)
    assert locations.unit.tolist() == list(unit)
    assert locations.point.tolist() == list(point)
    assert torch.equal(locations.positions, grid(8, 8) + locations.unit)


def test_pixels_that_influence_a_unit_through_two_layers_are_its_samples():
    network = nn.Sequential(*(DeformConv2d(1, 1, 3, padding=1) for _ in range(2)))
    for layer in network:
        nn.init.constant_(layer.weight, 1.0)
        layer.conv_offset = FixedOffsets(torch.randint(-2, 3, (1, 2 * SAMPLES, 20, 20)).float())
    image = torch.rand(1, 1, 20, 20, requires_grad=True)
    network(image)[0, 0, 4, 11].backward()
    locations = sampling_locations(record_sampling(network, image), (11, 4), levels=2)
    x, y = locations.positions[locations.inside].long().T
    reached = torch.zeros(20, 20)
    reached.index_put_((y, x), torch.ones(len(x)), accumulate=True)
    torch.testing.assert_close(image.grad[0, 0], reached)


@pytest.mark.parametrize(
    "name, options, strides, levels",
    [
        ("dcnv2_resnet18", {}, [8, 16, 32], [3, 3, 3]),
        ("dcnv1_resnet50", {}, [32], [3]),
        ("dcnv2_resnet18", {"deform_last": 2}, [32], [2]),
        ("dcnv2_resnet18", {"output_stride": 8}, [8], [3]),
        ("dcnv2_resnet50", {"deform_stages": (3, 5)}, [8, 32], [3, 3]),
    ],
)
def test_trace_has_a_row_for_every_stride(make_network, name, options, strides, levels):
    rows = trace_sampling(make_network(name, **options), IMAGE, POINT)
    assert [row[0].stride for row in rows] == strides
    assert [len(row) for row in rows] == levels
    for row in rows:
        assert [len(entry.positions) for entry in row] == [SAMPLES**n for n in range(1, len(row) + 1)]


def test_moved_moves_every_position(make_network):
    locations = sampling_locations(record_sampling(make_network(), IMAGE), POINT)
    moved = locations.moved(lambda positions: 2 * positions + 1)
    for name in ("point", "unit", "positions"):
        assert torch.equal(getattr(moved, name), 2 * getattr(locations, name) + 1)


def test_errors(make_network):
    record = record_sampling(make_network(), IMAGE)
    with pytest.raises(ValueError, match=r"point \(128, 5\) is outside .* expected x from 0 to 127"):
        sampling_locations(record, (128, 5))
    with pytest.raises(ValueError, match=r"point \(nan, 5\) is outside"):
        sampling_locations(record, (float("nan"), 5))
    with pytest.raises(
        ValueError, match="layer 'layer1.0.conv1' is not on record; expected one of layer2.0.conv1,"
    ):
        sampling_locations(record, POINT, "layer1.0.conv1")
    with pytest.raises(ValueError, match="levels=3 .* has 1 deformable layers below it; expected 1 to 2"):
        sampling_locations(record, POINT, "layer2.0.conv2", levels=3)
