import pytest
import timm
import torch

import dcn_backbones  # noqa: F401  (registers the models)
from train.offsets import offset_statistics


@pytest.mark.parametrize("name", ["dcnv1_resnet18", "dcnv2_resnet18"])
def test_statistics_are_of_the_offsets_and_not_of_the_mask(name):
    model = timm.create_model(name, num_classes=3)
    images = torch.randn(1, 3, 32, 32)
    zeros = {"offset_mean": 0.0, "offset_p99": 0.0, "offset_outside": 0.0}
    assert offset_statistics(model, images) == zeros

    layer = model.layer4[1].conv2
    with torch.no_grad():
        layer.conv_offset.bias.fill_(50.0)
        layer.conv_offset.bias[:18].fill_(-2.0)
    # one unit on an input of one pixel: of its 9 samples only the middle one was inside, and it has left
    expected = {"offset_mean": 2.0, "offset_p99": 2.0, "offset_outside": 1 / 9}
    assert offset_statistics(model, images) == pytest.approx(expected)


def test_percentile_and_mean_differ_where_few_offsets_are_large():
    model = timm.create_model("dcnv2_resnet18", num_classes=3)
    with torch.no_grad():
        model.layer4[1].conv2.conv_offset.bias[0] = 9.0
    statistics = offset_statistics(model, torch.randn(1, 3, 32, 32))
    assert statistics["offset_mean"] == pytest.approx(0.5) and statistics["offset_p99"] == 9.0


def test_plain_model_has_none_and_no_hook_stays():
    plain = timm.create_model("test_resnet", num_classes=3)
    assert offset_statistics(plain, torch.randn(1, 3, 32, 32)) == {}
    model = timm.create_model("dcnv1_resnet18", num_classes=3)
    offset_statistics(model, torch.randn(1, 3, 32, 32))
    assert not any(module._forward_hooks for module in model.modules())
