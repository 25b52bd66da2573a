"""Models recognised by the names and shapes of their state."""

import pytest
import timm
import torch

import dcn_backbones  # noqa: F401
from dcn_backbones.models.checkpoints import infer_arguments, infer_model


def state_of(name: str, **options) -> dict:
    with torch.device("meta"):
        return timm.create_model(name, **options).state_dict()


def test_every_model_is_recognised(model_name):
    state = state_of(model_name, num_classes=7)
    assert infer_model(state) == model_name
    stages = [3, 4, 5] if model_name.startswith("dcnv2") else [5]
    assert infer_arguments(state) == {"num_classes": 7, "deform_stages": stages, "offset_groups": 1}


@pytest.mark.parametrize("name", ["dcnv1_resnet50", "dcnv2_resnet50", "dcnv2_resnext101_32x4d"])
@pytest.mark.parametrize("offset_groups", [1, 2, 4, 8])
def test_offset_groups(name, offset_groups):
    """54 channels are two groups with a mask or three without; three do not divide the channels."""
    state = state_of(name, offset_groups=offset_groups)
    assert infer_model(state) == name
    assert infer_arguments(state)["offset_groups"] == offset_groups


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_classes": 0}, {"num_classes": 0, "deform_stages": [3, 4, 5], "offset_groups": 1}),
        ({"deform_last": 3}, {"num_classes": 1000, "deform_stages": [5], "offset_groups": 1}),
        ({"deform_last": 4}, {"num_classes": 1000, "deform_stages": [4, 5], "offset_groups": 1}),
        (
            {"in_chans": 1, "deform_stages": (2,)},
            {"num_classes": 1000, "in_chans": 1, "deform_stages": [2], "offset_groups": 1},
        ),
    ],
)
def test_arguments(options, expected):
    state = state_of("dcnv2_resnet50", **options)
    assert infer_arguments(state) == expected
    assert infer_arguments(state_of("resnet50")) == {"num_classes": 1000}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet50",
            "has no offset branches, .* expected the model to be given, dcnv1_resnet50 or dcnv2_resnet50",
        ),
        ("resnet34", r"no model has \(3, 4, 6, 3\) basic blocks; expected one of resnet18,"),
        ("resnet152", r"no model has \(3, 8, 36, 3\) bottlenecks"),
        ("resnext50_32x4d", r"no model has \(3, 4, 6, 3\) bottlenecks"),
    ],
)
def test_other_networks_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        infer_model(state_of(name))


def test_both_kinds_of_branches_are_refused():
    state = state_of("dcnv2_resnet50")
    state.update(
        {key: value for key, value in state_of("dcnv1_resnet50").items() if key.startswith("layer4.")}
    )
    with pytest.raises(ValueError, match="has both kinds of offset branches"):
        infer_model(state)
