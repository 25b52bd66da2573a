"""What a timm user expects of a ResNet, on all eight models."""

from collections.abc import Iterator
from copy import deepcopy

import pytest
import timm
import torch
from timm.models import list_models
from timm.optim import create_optimizer_v2
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import dcn_backbones  # noqa: F401
from dcn_backbones.layers import DeformConv2d, ModulatedDeformConv2d

# In millions: the plain body and the offset convolutions.
PARAMETERS = {
    "dcnv1_resnet50": 25.806,
    "dcnv2_resnet50": 26.428,
    "dcnv1_resnet101": 44.798,
    "dcnv2_resnet101": 46.478,
    "dcnv1_resnext101_32x4d": 44.675,
    "dcnv2_resnext101_32x4d": 48.035,
}
# In thousand millions, at 224 px: the same two, the sampling not counted.
MULTIPLY_ADDS = {"dcnv2_resnet50": 4.28, "dcnv2_resnet101": 8.20, "dcnv2_resnext101_32x4d": 8.76}

META = torch.device("meta")


@pytest.fixture(scope="module")
def network(model_name: str) -> Iterator[nn.Module]:
    """A model of ten classes: treat it as read-only."""
    torch.manual_seed(0)
    yield timm.create_model(model_name, num_classes=10).eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def on_meta(model_name: str, **options) -> nn.Module:
    return timm.create_model(model_name, device=META, **options).eval()


@pytest.mark.parametrize(("name", "millions"), PARAMETERS.items())
def test_parameters(name, millions):
    count = sum(parameter.numel() for parameter in on_meta(name).parameters())
    assert round(count / 1e6, 3) == millions


@pytest.mark.parametrize(("name", "billions"), MULTIPLY_ADDS.items())
def test_flops_are_twice_the_multiply_adds(name, billions):
    network = on_meta(name)
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 224, 224, device=META))
    assert round(counter.get_total_flops() / 2e9, 2) == billions


def test_flops_are_the_plain_networks_and_the_offset_convolutions(model_name):
    totals = []
    for name in (model_name, model_name.split("_", 1)[1]):
        network = on_meta(name, num_classes=1000)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, 64, 64, device=META))
        offset_convs = [
            flops for path, flops in counter.get_flop_counts().items() if path.endswith("conv_offset")
        ]
        totals.append((counter.get_total_flops(), sum(sum(flops.values()) for flops in offset_convs)))
    (total, offsets), (plain_total, _) = totals
    assert offsets > 0
    assert total == plain_total + offsets


def test_initialisation_is_timms_with_a_still_offset_branch(network):
    for layer in (module for module in network.modules() if isinstance(module, DeformConv2d)):
        fan_out = layer.out_channels * 9  # as timm counts it, groups or not
        assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        assert not any(parameter.any() for parameter in layer.conv_offset.parameters())


@pytest.mark.parametrize("zero_init_last", [False, True])
def test_initialisation_after_the_meta_device(zero_init_last):
    network = on_meta("dcnv2_resnet18", num_classes=10).to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.fill_(77)
    network.init_weights(zero_init_last=zero_init_last)
    for module in network.modules():
        if isinstance(module, DeformConv2d | nn.Conv2d):
            assert module.weight.std() < 0.2
        elif isinstance(module, nn.BatchNorm2d):
            assert not module.running_mean.any()
            assert (module.running_var == 1).all()
    assert network.layer4[1].bn2.weight.mean() == (0 if zero_init_last else 1)
    assert network.fc.weight.abs().max() < 0.1
    assert not network.layer2[0].conv1.conv_offset.weight.any()


def test_offset_branches_stay_at_zero_without_zero_init_last():
    network = timm.create_model("dcnv2_resnet18", zero_init_last=False)
    assert (network.layer4[1].bn2.weight == 1).all()
    assert not any(p.any() for name, p in network.named_parameters() if "conv_offset" in name)


@pytest.mark.parametrize(
    "options", [dict(num_classes=7), dict(in_chans=1), dict(global_pool="avgmax")], ids=str
)
def test_head_and_stem_options(model_name, options):
    network = on_meta(model_name, **{"num_classes": 10, **options})
    output = network(torch.empty(2, options.get("in_chans", 3), 64, 64, device=META))
    assert output.shape == (2, options.get("num_classes", 10))


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3, 4), (2, 4), (3,), [-1]], ids=str)
def test_features_only_with_any_out_indices(model_name, out_indices):
    network = on_meta(model_name, features_only=True, out_indices=out_indices)
    features = network(torch.empty(1, 3, 64, 64, device=META))
    reductions = [(2, 4, 8, 16, 32)[index] for index in out_indices]
    assert network.feature_info.reduction() == reductions
    assert [feature.shape[1] for feature in features] == network.feature_info.channels()
    assert [feature.shape[2] for feature in features] == [64 // reduction for reduction in reductions]


def assert_features_equal_intermediates(network: nn.Module, image: torch.Tensor, feature_cls: str, body: str):
    """Compare an extractor with ``forward_intermediates``; ``body`` is where it keeps the network."""
    name = network.pretrained_cfg["architecture"]
    extractor = timm.create_model(
        name, features_only=True, feature_cls=feature_cls, out_indices=(2, 4)
    ).eval()
    assert not extractor.get_submodule(body).load_state_dict(network.state_dict(), strict=False).missing_keys
    with torch.no_grad():
        features = extractor(image)
        expected = network.forward_intermediates(image, indices=(2, 4), intermediates_only=True)
    features = list(features.values()) if isinstance(features, dict) else features
    for feature, reference in zip(features, expected, strict=True):
        torch.testing.assert_close(feature, reference)


def test_torch_fx_features(network, image):
    assert_features_equal_intermediates(network, image, "fx", "graph_module")


@pytest.mark.parametrize(
    ("feature_cls", "body"), [("list", ""), ("dict", ""), ("hook", "body"), ("getter", "model")]
)
def test_every_other_way_of_taking_features(image, feature_cls, body):
    network = timm.create_model("dcnv2_resnet18", num_classes=10).eval()
    assert_features_equal_intermediates(network, image, feature_cls, body)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_output_stride_dilates_the_deformable_convolutions(model_name, output_stride):
    network = on_meta(model_name, output_stride=output_stride)
    features = network.forward_features(torch.empty(1, 3, 64, 64, device=META))
    assert features.shape[-1] == 64 // output_stride
    last = [module for module in network.modules() if isinstance(module, DeformConv2d)][-1]
    dilation = 32 // output_stride
    assert last.dilation == last.padding == (dilation, dilation)
    assert last.conv_offset.dilation == last.conv_offset.padding == (dilation, dilation)


def test_forward_intermediates(network, image):
    with torch.no_grad():
        last, features = network.forward_intermediates(image)
        torch.testing.assert_close(last, network.forward_features(image))
        torch.testing.assert_close(network.forward_head(last), network(image))
    assert [feature.shape[-1] for feature in features] == [32, 16, 8, 4, 2]


def test_prune_intermediate_layers(model_name):
    network = on_meta(model_name)
    assert network.prune_intermediate_layers([1, 3]) == [1, 3]
    features = network.forward_intermediates(
        torch.empty(1, 3, 64, 64, device=META), [1, 3], intermediates_only=True
    )
    assert [feature.shape[-1] for feature in features] == [16, 4]
    assert not any(name.startswith(("layer4", "fc")) for name, _ in network.named_parameters())


def test_gradient_checkpointing_gives_the_same_gradients(network, image):
    gradients = []
    for enabled in (False, True):
        trained = deepcopy(network).train()
        trained.set_grad_checkpointing(enabled)
        trained(torch.cat([image, image.flip(3)])[:, :, :32, :32]).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in trained.named_parameters()})
    plain, checkpointed = gradients
    assert all(gradient is not None for gradient in plain.values())
    torch.testing.assert_close(checkpointed, plain)


def test_the_classifier_can_be_reset(model_name):
    network = on_meta(model_name)
    assert network.get_classifier() is network.fc
    assert network.get_classifier(name_only=True) == "fc"
    network.reset_classifier(5, "max")
    assert network(torch.empty(1, 3, 64, 64, device=META)).shape == (1, 5)
    network.reset_classifier(0)
    assert network(torch.empty(1, 3, 64, 64, device=META)).shape == (1, network.num_features)


@pytest.mark.parametrize("coarse", [False, True])
def test_every_parameter_belongs_to_a_layer_group(model_name, coarse):
    network = on_meta(model_name)
    groups = timm.models.group_parameters(network, network.group_matcher(coarse=coarse), reverse=True)
    offsets = [name for name in groups if "conv_offset" in name]
    assert groups.keys() == dict(network.named_parameters()).keys()
    assert offsets
    assert all(groups[name] == groups[name.split(".conv_offset")[0] + ".weight"] for name in offsets)


def test_layer_decay_and_weight_decay_reach_the_offset_branch(model_name):
    optimizer = create_optimizer_v2(
        on_meta(model_name), opt="sgd", lr=0.1, weight_decay=0.05, layer_decay=0.5
    )
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.05}
    assert len({group["lr_scale"] for group in optimizer.param_groups}) > 3


def test_drop_path_grows_with_the_depth(model_name):
    network = timm.create_model(model_name, drop_path_rate=0.2, device=META)
    assert network.layer1[0].drop_path is None
    assert network.layer4[-1].drop_path.drop_prob == pytest.approx(0.2)
    assert network(torch.empty(2, 3, 64, 64, device=META)).shape[0] == 2


def test_device_and_type(model_name):
    network = timm.create_model(model_name, device="meta", dtype=torch.bfloat16)
    assert {(tensor.device.type, tensor.dtype) for tensor in network.parameters()} == {
        ("meta", torch.bfloat16)
    }


def test_bfloat16_runs(image):
    network = timm.create_model("dcnv2_resnet18", num_classes=10, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        output = network(image.bfloat16())
        exact = network.float()(image)
    assert output.dtype == torch.bfloat16
    assert (output.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_channels_last_gives_the_same(network, image):
    with torch.no_grad():
        expected = network(image)
        output = deepcopy(network).to(memory_format=torch.channels_last)(
            image.contiguous(memory_format=torch.channels_last)
        )
    torch.testing.assert_close(output, expected)


def test_the_network_compiles_as_one_graph():
    network = on_meta("dcnv2_resnet18", num_classes=10)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    assert compiled(torch.empty(1, 3, 64, 64, device=META)).shape == (1, 10)


def test_the_registry_knows_the_models(model_name):
    assert timm.is_model(model_name)
    assert model_name in list_models("dcnv*")
    assert model_name in list_models(module="dcn_resnet")
    assert model_name not in list_models(module="resnet")


def test_modulation_follows_the_name(network, model_name):
    kinds = {type(module) for module in network.modules() if isinstance(module, DeformConv2d)}
    assert kinds == {ModulatedDeformConv2d if model_name.startswith("dcnv2") else DeformConv2d}
