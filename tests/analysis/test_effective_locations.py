"""Strengths of sampling locations: against moving each sample by hand, and where they coincide."""

import pytest
import torch
from torch import nn

from dcn_backbones.analysis import (
    ClassLogit,
    Point,
    effective_sampling_locations,
    merge_locations,
    record_sampling,
)
from dcn_backbones.layers import DeformConv2d, ModulatedDeformConv2d

from .conftest import SAMPLES, FixedOffsets, small_network

STEP = 1e-6
IMAGE_SIZE = 16


def image() -> torch.Tensor:
    return torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.float64)


def with_fixed_offsets(layer_class: type[nn.Module], name: str, whole: bool) -> nn.Sequential:
    """A network of which one layer's offsets are known, whole numbers or none of them near one."""
    network = small_network(layer_class, IMAGE_SIZE)
    layer, size = network.get_submodule(name), IMAGE_SIZE // 2
    values = torch.randint(-1, 2, (1, 3 * SAMPLES, size, size)).double()
    values = values if whole else values + 0.2 + 0.6 * torch.rand_like(values)
    channels = layer.conv_offset.out_channels
    layer.conv_offset = FixedOffsets(values[:, :channels])
    return network


def moved_by_hand(network: nn.Module, name: str, picture: torch.Tensor, node) -> torch.Tensor:
    """Change of the response for each unit that a sample moves right or down, ``(H, W, K)``: its length."""
    values = network.get_submodule(name).conv_offset.values
    samples = values[0, : 2 * SAMPLES]
    before, differences = float(node.responses(network, picture).mean()), torch.zeros_like(samples)
    for index in range(samples.numel()):
        samples.view(-1)[index] += STEP
        after = float(node.responses(network, picture).mean())
        differences.view(-1)[index] = (after - before) / STEP
        samples.view(-1)[index] -= STEP
    return differences.view(SAMPLES, 2, *samples.shape[1:]).norm(dim=1).permute(1, 2, 0)


@pytest.mark.parametrize(
    "layer_class, name, node",
    [
        (DeformConv2d, "4", Point("4", 3, 5)),
        (ModulatedDeformConv2d, "2", Point("4", 3, 5)),
        (DeformConv2d, "2", ClassLogit(1)),
    ],
)
@torch.no_grad()
def test_a_strength_is_what_moving_the_sample_changes(layer_class, name, node):
    network, picture = with_fixed_offsets(layer_class, name, whole=False), image()
    (found,) = effective_sampling_locations(network, picture, node, layers=[name])
    entry = next(entry for entry in record_sampling(network, picture) if entry.name == name)
    expected = moved_by_hand(network, name, picture, node) / entry.input_stride
    counts = expected > 1e-9
    assert found.positions.shape == (int(counts.sum()), 2) and found.layer == name
    order = [locations.round(decimals=3).unique(dim=0, return_inverse=True)[1] for locations in (
        found.positions, entry.positions[counts])]  # fmt: skip
    by_place = [torch.zeros(len(found.strengths), dtype=torch.float64) for _ in range(2)]
    for values, index, strengths in zip(by_place, order, (found.strengths, expected[counts]), strict=True):
        values[index] = strengths
    torch.testing.assert_close(*by_place, rtol=1e-3, atol=1e-7)


@torch.no_grad()
def test_strengths_add_up_where_locations_coincide():
    network, picture, node = with_fixed_offsets(DeformConv2d, "2", whole=True), image(), Point("4", 3, 5)
    (found,) = effective_sampling_locations(network, picture, node, layers=["2"])
    (entry, _) = record_sampling(network, picture)
    expected = moved_by_hand(network, "2", picture, node) / 2
    sums: dict[tuple[float, float], float] = {}
    for (x, y), strength in zip(
        entry.positions.flatten(0, 2).tolist(), expected.flatten().tolist(), strict=True
    ):
        sums[x, y] = sums.get((x, y), 0.0) + strength
    # One unit outside is outside to the operator, although a step from there would reach the border.
    sums = {place: strength for place, strength in sums.items() if strength > 1e-7 and min(place) >= 0}
    assert len(found.positions) == len(sums) < 9 * SAMPLES  # of the nine units that the node samples
    for place, strength in zip(found.positions.tolist(), found.strengths.tolist(), strict=True):
        assert strength == pytest.approx(sums[tuple(place)], rel=1e-3, abs=1e-7)


def test_a_plain_convolution_is_a_deformable_one_without_offsets():
    plain, picture, node = small_network(nn.Conv2d, IMAGE_SIZE), image(), Point("4", 3, 5)
    deformable = small_network(DeformConv2d, IMAGE_SIZE)
    deformable.load_state_dict(plain.state_dict())
    for parameter in (p for name, p in deformable.named_parameters() if "offset" in name):
        nn.init.zeros_(parameter)
    ours, theirs = (effective_sampling_locations(net, picture, node) for net in (plain, deformable))
    assert [entry.layer for entry in ours] == ["4", "2", "0"]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.positions, other.positions)
        torch.testing.assert_close(one.strengths, other.strengths)
    # The dilated layer samples one unit of stride 2 around; the one before reaches a unit further.
    assert (ours[0].positions - torch.tensor([6, 10])).unique().tolist() == [-4, 0, 4]
    assert (ours[1].positions - torch.tensor([6, 10])).abs().max() == 6


def test_the_last_layers_that_reach_the_node():
    network, picture = small_network(DeformConv2d, IMAGE_SIZE), image()
    names = lambda node, **options: [entry.layer for entry in effective_sampling_locations(network, picture, node, **options)]  # noqa: E501, E731  # fmt: skip
    assert names(Point("4", 3, 5), levels=2) == ["4", "2"]
    assert names(Point("2", 3, 5)) == ["2", "0"]
    assert names(ClassLogit(0), layers=["0", "4"]) == ["4", "0"]


def test_layers_together():
    network, picture, node = small_network(nn.Conv2d, IMAGE_SIZE), image(), Point("4", 3, 5)
    found = effective_sampling_locations(network, picture, node, levels=2)
    merged = merge_locations(found)
    assert merged.strengths.sum() == pytest.approx(sum(float(entry.strengths.sum()) for entry in found))
    assert len(merged.positions) == len(merged.positions.unique(dim=0)) < sum(len(e.positions) for e in found)
    assert merged.layer == "4, 2"


def test_errors():
    network, picture = small_network(DeformConv2d, IMAGE_SIZE), image()
    with pytest.raises(ValueError, match="layer '3' samples nothing; expected some of 0, 2, 4"):
        effective_sampling_locations(network, picture, ClassLogit(0), layers=["3"])
    with pytest.raises(ValueError, match="no sampling location has an influence"):
        effective_sampling_locations(network, picture, Point("2", 0, 0), layers=["4"])
    with pytest.raises(ValueError, match="has no convolutions of more than one sample"):
        effective_sampling_locations(nn.Sequential(nn.Conv2d(3, 3, 1)), picture, Point("0", 0, 0))
