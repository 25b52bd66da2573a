"""What the page shows, without the page."""

import base64
import io
import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from dcn_backbones.analysis import (
    classify,
    effective_receptive_field,
    effective_sampling_locations,
    load_model,
    merge_locations,
    read_image,
    saliency_region,
    trace_sampling,
)
from dcn_backbones.analysis.photograph import Preprocessing, input_point

MODEL = "dcnv2_resnet18"


@pytest.fixture(scope="module")
def looking():
    import looking

    return looking


@pytest.fixture(scope="module")
def pieces():
    import pieces

    return pieces


@pytest.fixture(scope="module")
def photograph(coffee):
    return read_image(coffee)


@pytest.fixture(scope="module")
def looked(looking, photograph):
    return looking.look(MODEL, photograph)


def test_classes_are_those_of_the_command(looked, photograph):
    assert looked.predictions == classify(load_model(MODEL), photograph) and looked.model == MODEL


def test_locations_are_those_of_the_command(looked, photograph):
    model = load_model(MODEL)
    preprocessing = Preprocessing(model)
    geometry = preprocessing.geometry(photograph)
    moved = looked.at((250.0, 120.0))
    rows = trace_sampling(model, preprocessing(photograph), input_point(photograph, geometry, moved.point))
    names = [entry.name for entry in moved.record]
    for expected in (entry.moved(geometry.to_photograph) for row in rows for entry in row):
        found = moved.locations(names.index(expected.layers[0]), len(expected.layers))
        torch.testing.assert_close(found.positions, expected.positions)
        assert found.layers == expected.layers


def test_the_first_layers_are_followed_as_far_as_there_are_layers(looked):
    assert len(looked.locations(0, 3).layers) == 1 and len(looked.locations(1, 3).layers) == 2


def test_a_point_starts_in_the_middle_and_moves_in_parts_of_the_photograph(looked):
    assert looked.point == (299.5, 199.5)
    assert looked.at_part(0.25, 0.5).point == pytest.approx((149.5, 199.5))
    assert looked.moved(-0.1, 0.02).point == pytest.approx((239.5, 207.5))
    assert looked.moved(0, 0.9).point == (299.5, 399.0)  # stops at the border


def test_what_the_network_does_not_see_cannot_be_chosen(looking, looked, photograph):
    with pytest.raises(ValueError, match=re.escape(looking.UNSEEN)):
        looked.at_part(0.01, 0.5)
    assert looking.look(MODEL, photograph, point=(5, 200)).point == (299.5, 199.5)


def test_views_are_those_of_the_analysis(looking, looked, photograph):
    model = load_model(MODEL)
    image, moved = Preprocessing(model)(photograph), looked.at((250.0, 120.0))
    node, entry = moved.node(6), moved.record[6]
    assert node.layer == entry.name
    unit = moved.locations(6).unit
    torch.testing.assert_close(
        moved.geometry.to_input(unit), torch.tensor([node.x, node.y]).double() * entry.stride
    )

    found = merge_locations(effective_sampling_locations(model, image, node))
    picture, said = moved.show("strengths", 6)
    x, y = moved.geometry.to_photograph(found.positions[found.strengths.argmax()]).tolist()
    first = re.search('<circle cx="([^"]+)" cy="([^"]+)"', picture)
    assert [float(value) for value in first.groups()] == pytest.approx([x, y], abs=0.06) and said

    field = effective_receptive_field(model, image, node)
    picture, said = moved.show("field", 6)
    shade = shade_of(picture)
    assert shade.shape == field.shape and np.unravel_index(shade.argmin(), shade.shape) == np.unravel_index(field.argmax(), field.shape)  # noqa: E501  # fmt: skip

    region = saliency_region(model, image, node, looking.BOUND)
    picture, said = moved.show("region", 6)
    assert ((shade_of(picture) == 0) == region.mask.numpy()).all()
    assert f"The bright {region.share:.0%} of what the network sees" in said


def shade_of(picture: str) -> np.ndarray:
    """Opacity of what darkens the photograph, ``(H, W)``."""
    content = re.search('base64,([^"]+)"', picture)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))[..., 1]


def test_shifts_are_the_lengths_of_the_lines(looked):
    locations = looked.locations(8)
    lengths = [torch.dist(a, b).item() for a, b in zip(locations.positions, locations.regular, strict=True)]
    assert looked.shifts()[8] == pytest.approx(sum(lengths) / 9) and len(looked.shifts()) == 12


def test_models_that_need_no_download_come_first(looking):
    choices = looking.zoo_choices()
    assert choices[0] == ("dcnv2_resnet18 · trained, 100 classes", MODEL)
    assert {name for _, name in choices} == set(timm.list_models("dcnv*"))
    assert ("dcnv2_resnet50 · plain ResNet weights, 1000 classes", "dcnv2_resnet50") in choices


def test_the_caption_counts_weighs_and_measures(looked, pieces):
    locations = looked.locations(8)
    text = pieces.caption(locations, 8, 12, 33.6)
    assert "<b>Layer 9 of 12</b> <code>layer4.0.conv1</code> reads its input at 9 places" in text
    assert f"{locations.weights.min():.2f} to {locations.weights.max():.2f}" in text
    assert "34 pixels on average" in text
    deeper = pieces.caption(looked.locations(8, 3), 8, 12, 33.6)
    assert "<code>layer3.1.conv2</code> and <code>layer3.1.conv1</code> reads 729 places" in deeper
    assert "on average" not in deeper


@pytest.mark.parametrize(
    "point, outside", [((0.5, 0.5), ""), ((0.2, 0.05), "outside of what the network sees")]
)
def test_the_caption_says_when_samples_are_outside(looked, pieces, point, outside):
    text = pieces.caption(looked.at_part(*point).locations(8), 8, 12, 30.0)
    assert ("outside" in text) == bool(outside) and outside in text


def test_a_layer_that_samples_as_a_plain_convolution_is_said_to(looking, pieces, photograph, tmp_path):
    network = timm.create_model("dcnv1_resnet18", num_classes=3)
    save_for_hf(network, tmp_path, safe_serialization=True)
    looked = looking.look(f"local-dir:{tmp_path}", photograph)
    assert looked.shifts() == [0] * 4 and len(looked.predictions) == 3
    text = pieces.caption(looked.locations(3), 3, 4, 0.0)
    assert "weighted 1.00 each" in text and "where a plain convolution has them" in text
    assert "0 px" in pieces.layer_columns(looked.record, looked.shifts(), 3)


def test_words_from_elsewhere_are_escaped(pieces, looked):
    from dcn_backbones.analysis import Prediction

    assert "<b>cat" not in pieces.top_classes([Prediction("<b>cat", 0.5)])
    assert "<b>" not in pieces.notice("<b>")
