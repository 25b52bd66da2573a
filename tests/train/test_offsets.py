import pytest
import timm
import torch
from torch import nn

import dcn_backbones  # noqa: F401  (registers the models)
from dcn_backbones.layers import DeformConv2d
from train.offsets import constrain_offsets, offset_penalty, offset_statistics, offset_warning


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


def test_warning_comes_long_before_offsets_explode():
    torch.manual_seed(0)
    model = timm.create_model("dcnv2_resnet18.tin100", pretrained=True)
    images = torch.randn(2, 3, 96, 96)
    assert offset_warning(offset_statistics(model, images)) == ""
    for module in model.modules():
        if isinstance(module, DeformConv2d):
            module.conv_offset.weight.data *= 30
    statistics = offset_statistics(model, images)
    assert statistics["offset_mean"] < 100
    assert "offsets have moved" in offset_warning(statistics)
    assert offset_warning({}) == ""


@pytest.mark.parametrize("name", ["dcnv1_resnet18", "dcnv2_resnet18"])
def test_clamp_bounds_offsets_and_leaves_the_mask(name):
    model = timm.create_model(name, num_classes=3)
    layer = model.layer4[1].conv2
    nn.init.constant_(layer.conv_offset.bias, 5.0)
    constrain_offsets(model, clamp=1.5, penalty=0.0)
    output = layer.conv_offset(torch.randn(1, 512, 4, 4))
    assert (output[:, :18] == 1.5).all() and (output[:, 18:] == 5.0).all()
    assert offset_statistics(model, torch.randn(1, 3, 32, 32))["offset_mean"] == 1.5


def test_penalty_is_the_mean_square_of_each_layer_and_reaches_its_offsets():
    model = timm.create_model("dcnv2_resnet18", num_classes=3).train()
    constrain_offsets(model, clamp=0.0, penalty=0.1)
    layers = [module for module in model.modules() if isinstance(module, DeformConv2d)]
    for number, layer in enumerate(layers):
        nn.init.constant_(layer.conv_offset.bias, float(number))
    model(torch.randn(2, 3, 32, 32))
    penalty = offset_penalty(model)
    penalty.backward()
    assert penalty.item() == pytest.approx(0.1 * sum(number**2 for number in range(len(layers))))
    assert all((layer.conv_offset.bias.grad[:18] > 0).all() for layer in layers[1:])
    assert all((layer.conv_offset.bias.grad[18:] == 0).all() for layer in layers)
    assert offset_penalty(model) == 0  # paid once


def test_every_pass_with_gradients_since_the_last_payment_pays():
    model = timm.create_model("dcnv2_resnet18", num_classes=3).train()
    constrain_offsets(model, clamp=0.0, penalty=0.1)
    layer = model.layer4[1].conv2

    def forward(offset: float) -> None:
        nn.init.constant_(layer.conv_offset.bias, offset)
        layer(torch.randn(1, 512, 2, 2))

    forward(3.0)
    forward(1.0)
    with torch.no_grad():
        forward(20.0)
    model.eval()
    forward(20.0)
    assert offset_penalty(model).item() == pytest.approx(0.1 * (3**2 + 1**2))
    assert offset_penalty(model) == 0
