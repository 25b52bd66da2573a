import pytest
import timm
import torch
from torch import nn
from torchvision.ops import MultiScaleRoIAlign

import dcn_backbones  # noqa: F401  (registers the models)
from dcn_backbones.analysis import format_health, offset_health
from dcn_backbones.layers import DeformConv2d, ModulatedDeformConv2d

from .conftest import small_detector


def brute_force_share(layer, offsets, height, width):
    """Sample by sample, as the operator walks: offsets (1, 2*G*K, H_out, W_out)."""
    (kernel_height, kernel_width), channels = layer.kernel_size, offsets.shape[1] // 2
    left = 0
    for sample in range(channels):
        row, column = divmod(sample % (kernel_height * kernel_width), kernel_width)
        for y in range(offsets.shape[2]):
            for x in range(offsets.shape[3]):
                start_y = y * layer.stride[0] - layer.padding[0] + row * layer.dilation[0]
                start_x = x * layer.stride[1] - layer.padding[1] + column * layer.dilation[1]
                end_y = start_y + float(offsets[0, 2 * sample, y, x])
                end_x = start_x + float(offsets[0, 2 * sample + 1, y, x])
                was_inside = 0 <= start_y < height and 0 <= start_x < width
                left += was_inside and not (-1 < end_y < height and -1 < end_x < width)
    return left / (channels * offsets.shape[2] * offsets.shape[3])


def test_share_outside_counts_samples_that_have_left_the_image():
    torch.manual_seed(0)
    layer = DeformConv2d(4, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), offset_groups=2)
    nn.init.normal_(layer.conv_offset.weight, std=0.5)
    images = torch.randn(1, 4, 9, 7)
    expected = brute_force_share(layer, layer.conv_offset(images).detach(), 9, 7)
    assert 0.05 < expected < 0.95
    assert offset_health(nn.Sequential(layer), images)[0].outside == pytest.approx(expected)


def test_layers_are_measured_one_by_one_in_the_order_in_which_they_run():
    model = timm.create_model("dcnv2_resnet18", num_classes=3)
    with torch.no_grad():
        model.layer3[0].conv2.conv_offset.bias[:18].fill_(-0.25)
    model.layer4.eval()
    layers = offset_health(model, torch.randn(1, 3, 64, 64))
    assert model.training and model.layer3.training and not model.layer4.training
    names = [name for name, module in model.named_modules() if isinstance(module, DeformConv2d)]
    assert [health.layer for health in layers] == names
    sizes = {health.layer: health.offset_mean for health in layers}
    assert sizes.pop("layer3.0.conv2") == 0.25 and set(sizes.values()) == {0.0}


def test_modulation_has_its_mean_spread_and_dead_samples():
    layer = ModulatedDeformConv2d(2, 2, 1)  # offsets y and x, then one mask logit
    nn.init.zeros_(layer.conv_offset.weight)
    layer.conv_offset.weight.data[2, 0] = 1.0
    images = torch.zeros(1, 2, 2, 2)
    images[0, 0] = torch.tensor([[0.0, 0.0], [-5.0, 5.0]])  # sigmoids 0.5, 0.5, 0.0067 and 0.9933
    (health,) = offset_health(layer, images)
    assert health.modulation_mean == pytest.approx(0.5) and health.dead == 0.25
    assert health.modulation_std == pytest.approx(torch.sigmoid(images[0, 0]).std().item())


def test_dcnv1_has_no_modulation_and_a_plain_model_no_layers():
    layer = DeformConv2d(2, 2, 3, padding=1)
    (health,) = offset_health(layer, torch.randn(1, 2, 4, 4))
    assert (health.modulation_mean, health.modulation_std, health.dead) == (None, None, None)
    assert "         -" in format_health([health])
    assert offset_health(nn.Conv2d(2, 2, 3), torch.randn(1, 2, 4, 4)) == []


def test_table_has_a_line_for_each_layer():
    model = timm.create_model("dcnv2_resnet18.tin100", pretrained=True)
    layers = offset_health(model, torch.randn(2, 3, 96, 96))
    header, *lines = format_health(layers).splitlines()
    assert header.split()[:2] == ["layer", "|offset|"]
    for line, health in zip(lines, layers, strict=True):
        name, mean, *_, dead = line.split()
        assert name == health.layer
        assert float(mean) == pytest.approx(health.offset_mean, abs=0.005)
        assert float(dead) == pytest.approx(100 * health.dead, abs=0.005)


def test_of_a_detector_the_backbone_runs_on_the_images_as_they_are():
    detector = small_detector(MultiScaleRoIAlign(["fine"], (3, 2), 2))
    detector.backbone.stem = DeformConv2d(3, 6, 3, stride=4, padding=1).double()
    nn.init.normal_(detector.backbone.stem.conv_offset.weight, std=0.5)
    images = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    (found,) = offset_health(detector, images)
    (expected,) = offset_health(detector.backbone, images)
    assert found.layer == "backbone.stem" and found.offset_mean == expected.offset_mean > 0


def test_a_table_of_no_layers_is_its_header():
    assert format_health([]).split()[:2] == ["layer", "|offset|"] and "\n" not in format_health([])
