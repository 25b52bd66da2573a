"""A deformable network that loads a plain network's weights computes the plain network's logits."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import dcn_backbones  # noqa: F401
from dcn_backbones.layers import DeformConv2d, ModulatedDeformConv2d

TOLERANCE = 1e-5  # of the largest logit


def warm_start(plain: nn.Module, name: str, **options) -> nn.Module:
    network = timm.create_model(name, num_classes=1000, **options).to(next(plain.parameters()).dtype).eval()
    network.load_state_dict(plain.state_dict(), strict=True)
    return network


@torch.no_grad()
def difference(network: nn.Module, plain: nn.Module, images: Tensor) -> float:
    """Largest difference of the outputs, relative to the largest output."""
    expected = plain(images)
    return ((network(images) - expected).abs().max() / expected.abs().max()).item()


def test_logits_equal_the_plain_networks(model_name, plain_network, photographs):
    plain = plain_network(model_name.split("_", 1)[1])
    assert plain(photographs).std() > 0.1  # the photographs tell the logits apart
    assert difference(warm_start(plain, model_name), plain, photographs) <= TOLERANCE


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["dcnv1_resnet18", "dcnv2_resnet50"])
def test_dilated_networks_equal_the_plain_ones(name, output_stride, plain_network, photographs):
    backbone = name.split("_", 1)[1]
    plain = timm.create_model(backbone, output_stride=output_stride).eval()
    plain.load_state_dict(plain_network(backbone).state_dict())
    images = photographs[:1]
    network = warm_start(plain, name, output_stride=output_stride)
    assert network.forward_features(images).shape[-1] == 64 // output_stride
    assert difference(network, plain, images) <= TOLERANCE


@pytest.mark.parametrize(
    "options",
    [
        dict(deform_stages=(2, 3, 4, 5), offset_groups=4),
        dict(deform_last=5, stem_type="deep", avg_down=True),
        dict(aa_layer=nn.AvgPool2d),
    ],
    ids=["conv2-conv5, dg=4", "last 5, deep stem", "anti-aliased"],
)
def test_every_placement_and_body_equals_the_plain_network(options, photographs):
    torch.manual_seed(0)
    body = {name: value for name, value in options.items() if not name.startswith(("deform", "offset"))}
    plain = timm.create_model("resnet18", zero_init_last=False, **body).eval()
    assert difference(warm_start(plain, "dcnv2_resnet18", **options), plain, photographs) <= TOLERANCE


def test_float64_leaves_no_room_for_a_small_error(plain_network, photographs):
    plain = deepcopy(plain_network("resnet50")).double()
    assert difference(warm_start(plain, "dcnv2_resnet50"), plain, photographs.double()) <= 1e-13


def test_without_the_doubling_it_would_fail(monkeypatch, plain_network, photographs):
    monkeypatch.setattr(ModulatedDeformConv2d, "_plain_weight_scale", 1.0)
    plain = plain_network("resnet18")
    assert difference(warm_start(plain, "dcnv2_resnet18"), plain, photographs) > 1000 * TOLERANCE


@pytest.mark.parametrize("path", ["layer2.0.conv1", "layer3.1.conv2", "layer4.1.conv2"])
def test_with_one_perturbed_convolution_it_would_fail(path, plain_network, photographs):
    plain = plain_network("resnet18")
    network = warm_start(plain, "dcnv2_resnet18")
    with torch.no_grad():
        network.get_submodule(path).weight[0, 0, 1, 1] += 0.1
    assert difference(network, plain, photographs) > 10 * TOLERANCE


@pytest.mark.parametrize("name", ["dcnv1_resnet18", "dcnv2_resnet18"])
def test_moving_offsets_agree_with_torchvision_only_in_the_order_y_x(name, plain_network, photographs):
    network = warm_start(plain_network("resnet18"), name, offset_groups=2)
    torch.manual_seed(0)
    for layer in deformable_layers(network):
        nn.init.normal_(layer.conv_offset.bias)  # about one pixel, one half more or less of the mask
    independent = deepcopy(network)
    for layer in deformable_layers(independent):
        layer.forward = by_torchvision(layer)
    assert difference(network, independent, photographs) <= TOLERANCE
    for layer in deformable_layers(network):
        swap_y_and_x(layer)
    assert difference(network, independent, photographs) > 1000 * TOLERANCE


def deformable_layers(network: nn.Module) -> list[DeformConv2d]:
    return [module for module in network.modules() if isinstance(module, DeformConv2d)]


def by_torchvision(layer: DeformConv2d) -> Callable[[Tensor], Tensor]:
    """The layer's computation, its channels taken apart in their documented order for torchvision."""

    def forward(input: Tensor) -> Tensor:
        points = layer.offset_groups * 9
        raw = layer.conv_offset(input)
        modulated = isinstance(layer, ModulatedDeformConv2d)
        mask = 1 / (1 + torch.exp(-raw[:, 2 * points :])) if modulated else None
        return torchvision.ops.deform_conv2d(
            input, raw[:, : 2 * points], layer.weight, None, layer.stride, layer.padding, layer.dilation, mask
        )

    return forward


@torch.no_grad()
def swap_y_and_x(layer: DeformConv2d) -> None:
    for parameter in layer.conv_offset.parameters():
        offsets = parameter[: 2 * layer.offset_groups * 9]
        offsets.copy_(offsets.unflatten(0, (-1, 2)).flip(1).flatten(0, 1).clone())
