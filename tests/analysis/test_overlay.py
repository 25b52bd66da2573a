"""The SVG over a photograph: where its marks are, how large, and what it leaves out."""

from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor

from dcn_backbones.analysis import SamplingLocations, record_sampling, sampling_locations, sampling_svg
from dcn_backbones.analysis.overlay import POINT_COLOUR, REGULAR_COLOUR, SAMPLE_COLOUR

INPUT = torch.zeros(1, 3, 128, 128)
SIZE = (128, 128)
SVG = "{http://www.w3.org/2000/svg}"


def parse(locations: SamplingLocations, **options) -> ElementTree.Element:
    return ElementTree.fromstring(sampling_svg(locations, SIZE, **options))


def circles(svg: ElementTree.Element, **attributes: str) -> Tensor:
    """Centre and radius of the circles in the group that has these attributes, ``(n, 3)``."""
    groups = [
        g for g in svg.iter(f"{SVG}g") if all(g.get(name) == value for name, value in attributes.items())
    ]
    found = [
        [float(c.get(name)) for name in ("cx", "cy", "r")] for g in groups for c in g.findall(f"{SVG}circle")
    ]
    return torch.tensor(found, dtype=torch.float64).view(-1, 3)


@pytest.fixture
def record(make_network):
    logits = torch.linspace(-3, 3, 9)
    return record_sampling(make_network(offset=(1.0, -0.25), logits=logits), INPUT)


def test_samples_are_where_they_are_and_sized_by_weight(record):
    locations = sampling_locations(record, (70, 50), "layer2.1.conv2")
    discs = circles(parse(locations), fill=SAMPLE_COLOUR)
    torch.testing.assert_close(discs[:, :2], locations.positions, atol=0.06, rtol=0)
    areas, weights = discs[:, 2] ** 2, locations.weights
    visible = weights > weights.max() / 16  # a lesser one is drawn as large as this
    ratios = areas[visible] / weights[visible]
    torch.testing.assert_close(ratios, ratios[-1:].expand_as(ratios), atol=0, rtol=0.02)
    assert (discs[:, 2] >= 0.24 * discs[:, 2].max()).all() and not visible.all()


def test_rings_are_where_a_plain_convolution_samples_and_lines_lead_from_there(record):
    locations = sampling_locations(record, (70, 50), "layer2.1.conv2")
    svg = parse(locations)
    rings = circles(svg, stroke=REGULAR_COLOUR)
    torch.testing.assert_close(
        rings[:, :2], locations.positions - torch.tensor([-0.25 * 8, 8.0]), atol=0.06, rtol=0
    )
    (group,) = [g for g in svg.iter(f"{SVG}g") if g.get("stroke") == REGULAR_COLOUR]
    ends = [path.get("d").split("L")[1].split() for path in group.findall(f"{SVG}path")]
    ends = torch.tensor([[float(x), float(y)] for x, y in ends], dtype=torch.float64)
    torch.testing.assert_close(ends, locations.positions, atol=0.06, rtol=0)


@pytest.mark.parametrize("levels, count", [(2, 81), (3, 729)])
def test_several_layers_have_more_and_smaller_discs_and_no_rings(record, levels, count):
    locations = sampling_locations(record, (64, 64), "layer2.1.conv2", levels)
    svg, single = parse(locations), parse(sampling_locations(record, (64, 64), "layer2.1.conv2"))
    discs = circles(svg, fill=SAMPLE_COLOUR)
    assert len(discs) == int(locations.inside.sum()) > 0.9 * count
    assert discs[:, 2].max() < circles(single, fill=SAMPLE_COLOUR)[:, 2].max()
    assert len(circles(svg, stroke=REGULAR_COLOUR)) == 0


def test_samples_outside_are_left_out(record):
    locations = sampling_locations(record, (0, 127), "layer4.1.conv2")
    drawn = circles(parse(locations), fill=SAMPLE_COLOUR)
    assert len(drawn) == int(locations.inside.sum()) < 9
    assert (drawn[:, :2] > -1).all() and (drawn[:, :2] < 128).all()


def test_point_and_unit_are_marked(record):
    locations = sampling_locations(record, (70, 50), "layer2.1.conv2")
    paths = [
        path.get("d")
        for group in parse(locations).iter(f"{SVG}g")
        if group.get("stroke") == POINT_COLOUR
        for path in group
    ]
    assert len(paths) == 2 and paths[0].startswith("M72.0 ") and " 50.0h" in paths[1]


def test_what_the_network_does_not_see_is_dimmed(record):
    locations = sampling_locations(record, (64, 64))
    (dimmed,) = [p for p in parse(locations, seen=(31.5, -9.0, 95.5, 127.5)).findall(f"{SVG}path")]
    assert dimmed.get("d").endswith("M31.5 -0.5H95.5V127.5H31.5z") and dimmed.get("fill-rule") == "evenodd"
    assert not parse(locations).findall(f"{SVG}path")


def test_a_pixels_centre_is_half_a_pixel_from_the_corner(record):
    assert parse(sampling_locations(record, (64, 64))).get("viewBox") == "-0.5 -0.5 128 128"


def test_names_are_escaped(record):
    locations = sampling_locations(record, (64, 64))
    named = SamplingLocations(**{**vars(locations), "layers": ('<script>"',)})
    assert parse(named).get("aria-label").endswith('of <script>"')
