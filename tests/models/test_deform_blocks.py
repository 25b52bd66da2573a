"""Every placement of the papers' tables, counted."""

import re

import pytest
import timm
import torch

import dcn_backbones  # noqa: F401
from dcn_backbones.layers import DeformConv2d, ModulatedDeformConv2d


def deformable_layers(name: str, **options) -> dict[str, DeformConv2d]:
    network = timm.create_model(name, device="meta", **options)
    return {path: module for path, module in network.named_modules() if isinstance(module, DeformConv2d)}


@pytest.mark.parametrize("name", ["dcnv1_resnet50", "dcnv2_resnet50"])
@pytest.mark.parametrize(
    ("options", "count"),
    [
        (dict(deform_stages=()), 0),
        (dict(deform_stages=(5,)), 3),
        (dict(deform_stages=(4, 5)), 9),
        (dict(deform_stages=(3, 4, 5)), 13),
        (dict(deform_stages=[2, 3, 4, 5]), 16),
        (dict(deform_last=1), 1),
        (dict(deform_last=2), 2),
        (dict(deform_last=3), 3),
        (dict(deform_last=6), 6),
        (dict(deform_last=16), 16),
    ],
)
@pytest.mark.parametrize("modulated", [False, True])
def test_placements_of_the_papers_tables(name, options, count, modulated):
    layers = deformable_layers(name, modulated=modulated, **options)
    assert len(layers) == count
    assert {type(layer) for layer in layers.values()} <= {
        ModulatedDeformConv2d if modulated else DeformConv2d
    }


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("dcnv1_resnet18", 4),
        ("dcnv1_resnet50", 3),
        ("dcnv1_resnet101", 3),
        ("dcnv1_resnext101_32x4d", 3),
        ("dcnv2_resnet18", 12),
        ("dcnv2_resnet50", 13),
        ("dcnv2_resnet101", 30),
        ("dcnv2_resnext101_32x4d", 30),
    ],
)
def test_placements_that_the_names_stand_for(name, count):
    layers = deformable_layers(name)
    assert len(layers) == count
    modulated = {isinstance(layer, ModulatedDeformConv2d) for layer in layers.values()}
    assert modulated == {name.startswith("dcnv2")}


def test_stages_are_the_papers():
    assert {path.split(".")[0] for path in deformable_layers("dcnv2_resnet18", deform_stages=(2, 4))} == {
        "layer1",
        "layer3",
    }


def test_the_last_convolutions_are_the_last_ones():
    bottlenecks = ["layer3.5.conv2", "layer4.0.conv2", "layer4.1.conv2", "layer4.2.conv2"]
    assert list(deformable_layers("dcnv1_resnet50", deform_last=4)) == bottlenecks
    assert list(deformable_layers("dcnv1_resnet18", deform_last=3)) == [
        "layer4.0.conv2",
        "layer4.1.conv1",
        "layer4.1.conv2",
    ]


@pytest.mark.parametrize("name", ["dcnv1_resnet50", "dcnv2_resnext101_32x4d"])
def test_offset_groups_are_one_keyword_away(name):
    for layer in deformable_layers(name, offset_groups=4).values():
        samples_outputs = 3 if isinstance(layer, ModulatedDeformConv2d) else 2
        assert layer.conv_offset.out_channels == samples_outputs * 4 * 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(deform_stages=(7,)),
            "deform_stages=(7,) names a stage that does not exist; expected some of 2,",
        ),
        (dict(deform_stages=(1, 5)), "deform_stages=(1, 5) names a stage that does not exist"),
        (dict(deform_stages=5), "deform_stages=5 is not a sequence of stages; expected some of 2, 3, 4, 5"),
        (
            dict(deform_last=99),
            "deform_last=99 is not a number of 3x3 convolutions that this network has; expected 0",
        ),
        (dict(deform_last=-1), "deform_last=-1 is not a number"),
        (dict(deform_last=1.5), "deform_last=1.5 is not a number"),
        (
            dict(deform_last=2, deform_stages=(5,)),
            "deform_stages=(5,) and deform_last=2 were given; expected exactly",
        ),
        (
            dict(offset_groups=5),
            "offset_groups=5 does not divide in_channels=128; expected a positive divisor of 128",
        ),
        (dict(offset_groups=0), "offset_groups=0 does not divide in_channels=128"),
        (
            dict(block=torch.nn.Identity),
            "block=Identity is not a block of timm's ResNet; expected BasicBlock or",
        ),
    ],
)
def test_what_cannot_be_is_rejected_in_one_sentence(options, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        deformable_layers("dcnv2_resnet50", **options)
