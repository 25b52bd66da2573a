"""The same logits from another project's network and from ours with its weights."""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from dcn_backbones.layers import DeformConv2d
from dcn_backbones.models.checkpoints import TorchvisionNames, import_state, load_imported

from .conftest import difference
from .foreign import (
    Bottleneck,
    Dcnv2Bottleneck,
    Design,
    Detectron2ResNet,
    MxnetResNet,
    OldMmcvBottleneck,
    ResNet,
    TorchvisionBottleneck,
    randomised,
)

TOLERANCE = 1e-11  # of the logits' spread, in float64
VISIBLE = 1e-3  # what a wrong convention changes them by at least

NETWORKS: dict[str, tuple[Callable[[Design], nn.Module], dict]] = {
    "mmdetection 2": (lambda design: ResNet(design, Bottleneck), {}),
    "mmdetection 1": (lambda design: ResNet(design, OldMmcvBottleneck), {}),
    "dcnv2": (lambda design: ResNet(design, Dcnv2Bottleneck), {}),
    "detectron2": (Detectron2ResNet, {"style": "pytorch"}),
    "mxnet": (MxnetResNet, {}),
    "torchvision": (
        lambda design: ResNet(design, TorchvisionBottleneck),
        {
            "layout": "torchvision",
            "names": TorchvisionNames(offset="{block}.offset2", mask="{block}.modulator2", mask_scale=2.0),
        },
    ),
}
DESIGNS = {
    "dcnv2": Design(),
    "dcnv2, dg=2": Design(offset_groups=2),
    "dcnv2, 4 groups, dg=4": Design(groups=4, offset_groups=4),
    "dcnv1": Design(modulated=False),
    "dcnv1, dg=2": Design(modulated=False, offset_groups=2),
}


def state_of(network: nn.Module) -> dict:
    return network.arrays() if isinstance(network, MxnetResNet) else dict(network.state_dict())


class Normalised(nn.Module):
    """A network behind the normalisation of its pixels, if there is one."""

    def __init__(self, network: nn.Module, mean: tuple | None, std: tuple | None) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = per_channel(mean or (0.0,)), per_channel(std or (1.0,))

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.std)


def per_channel(values: tuple) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)


@pytest.fixture(params=NETWORKS)
def layout(request) -> str:
    return request.param


@pytest.fixture
def pair(layout, images, our_model) -> Callable[[Design], tuple[nn.Module, nn.Module]]:
    """Makes a network in the layout, and ours with its weights."""
    make, told = NETWORKS[layout]

    def make_pair(design: Design) -> tuple[nn.Module, nn.Module]:
        theirs = randomised(make(design), images)
        imported = import_state(state_of(theirs), **told)
        ours = our_model(design)
        assert load_imported(ours, imported) == []
        return theirs, Normalised(ours, imported.pixel_mean, imported.pixel_std)

    return make_pair


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_the_logits_are_theirs(design, pair, images):
    theirs, ours = pair(design)
    assert theirs(images).std() > 0.01
    assert difference(ours, theirs, images) <= TOLERANCE


def offset_branches(network: nn.Module) -> list[tuple[DeformConv2d, Tensor]]:
    layers = [module for module in network.modules() if isinstance(module, DeformConv2d)]
    return [(layer, parameter) for layer in layers for parameter in layer.conv_offset.parameters()]


@torch.no_grad()
@pytest.mark.parametrize("modulated", [True, False], ids=["dcnv2", "dcnv1"])
def test_with_y_and_x_swapped_it_would_fail(modulated, pair, images):
    theirs, ours = pair(Design(modulated=modulated, offset_groups=2))
    for layer, parameter in offset_branches(ours):
        offsets = parameter[: 18 * layer.offset_groups]
        offsets.copy_(offsets.unflatten(0, (-1, 2)).flip(1).flatten(0, 1).clone())
    assert difference(ours, theirs, images) > VISIBLE


@torch.no_grad()
def test_with_mask_and_offset_channels_exchanged_it_would_fail(pair, images):
    theirs, ours = pair(Design())
    for _, parameter in offset_branches(ours):
        parameter.copy_(torch.cat([parameter[9:], parameter[:9]]))
    assert difference(ours, theirs, images) > VISIBLE


@torch.no_grad()
def test_with_offset_groups_exchanged_it_would_fail(pair, images):
    theirs, ours = pair(Design(offset_groups=2))
    for _, parameter in offset_branches(ours):
        parameter[:36] = parameter[:36].roll(18, 0)
    assert difference(ours, theirs, images) > VISIBLE


@torch.no_grad()
def test_without_the_doubled_mask_it_would_fail(images, our_model):
    theirs = randomised(MxnetResNet(Design()), images)
    undoubled = {key: value.copy() for key, value in theirs.arrays().items()}
    for key in [key for key in undoubled if "conv2_offset_weight" in key]:
        undoubled[key.replace("_offset", "")] /= 2
    ours = our_model(Design())
    imported = import_state(undoubled)
    load_imported(ours, imported)
    ours = Normalised(ours, imported.pixel_mean, imported.pixel_std)
    assert difference(ours, theirs, images) > VISIBLE


def test_frozen_batch_norms_have_no_counter(images, our_model):
    theirs = randomised(Detectron2ResNet(Design()), images)
    frozen = {key: value for key, value in state_of(theirs).items() if "num_batches" not in key}
    ours = our_model(Design())
    load_imported(ours, import_state(frozen, style="pytorch"))
    assert difference(ours, theirs, images) <= TOLERANCE


def test_group_norms_are_refused_as_missing_statistics(our_model):
    state = state_of(Detectron2ResNet(Design()))
    group_normed = {key: value for key, value in state.items() if "running" not in key}
    with pytest.raises(ValueError, match=r"nothing was loaded; missing: bn1\.running_mean, bn1\.running_var"):
        load_imported(our_model(Design()), import_state(group_normed, style="pytorch"))


@pytest.mark.parametrize(
    "mean, std", [((103.53, 116.28, 123.675), (1.0, 1.0, 1.0)), ((9.0, 1.0, 5.0), (2.0, 3.0, 4.0))]
)
def test_blue_green_red_and_pixels_up_to_255(mean, std, images, our_model):
    """detectron2's `PIXEL_MEAN` and `PIXEL_STD` are in the order of its `INPUT.FORMAT`."""
    pixels = 120 + 60 * images
    normalised = (pixels.flip(1) - per_channel(mean)) / per_channel(std)
    theirs = randomised(Detectron2ResNet(Design()), normalised)
    told = {"style": "pytorch", "input_order": "bgr", "pixel_mean": mean, "pixel_std": std}
    imported = import_state(state_of(theirs), **told)
    assert imported.pixel_mean == mean[::-1] and imported.pixel_std == std[::-1]
    load_imported(ours := our_model(Design()), imported)
    ours = Normalised(ours, imported.pixel_mean, imported.pixel_std)
    torch.testing.assert_close(ours(pixels), theirs(normalised), rtol=1e-9, atol=1e-9)
    wrong = Normalised(ours.network, mean, std)
    assert (wrong(pixels) - theirs(normalised)).abs().max() > VISIBLE


def test_mxnets_norm_of_the_image_comes_behind_the_pixels_own(images, our_model):
    theirs = randomised(MxnetResNet(Design()), images)
    pixels = 100 + 50 * images
    imported = import_state(theirs.arrays(), pixel_mean=(100.0,) * 3, pixel_std=(50.0,) * 3)
    load_imported(ours := our_model(Design()), imported)
    ours = Normalised(ours, imported.pixel_mean, imported.pixel_std)
    torch.testing.assert_close(ours(pixels), theirs(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda design: ResNet(design, Bottleneck), {"style": "caffe"}),
        (lambda design: ResNet(design, Bottleneck), {"layout": "timm", "style": "caffe"}),
        (Detectron2ResNet, {"style": "caffe"}),
    ],
    ids=["mmdetection", "timm", "detectron2"],
)
def test_a_stride_in_the_first_1x1_is_refused(make, told):
    with pytest.raises(ValueError, match=r"stride in the first 1x1 convolution \(style='caffe'\)"):
        import_state(state_of(make(Design())), **told)


def test_a_stride_in_the_first_1x1_could_not_be_converted(images, our_model):
    design = Design(style="caffe")
    theirs = randomised(ResNet(design, Bottleneck), images)
    load_imported(ours := our_model(design), import_state(state_of(theirs)))
    assert difference(ours, theirs, images) > VISIBLE


def test_detectron2_has_to_be_told_where_the_stride_is():
    with pytest.raises(ValueError, match="expected style='pytorch' to be given if .* STRIDE_IN_1X1: False"):
        import_state(state_of(Detectron2ResNet(Design())))


@pytest.mark.parametrize(
    "key", ["arg:stage2_unit1_conv1sc_weight", "res3a_branch2c_weight"], ids=["resnet-v1", "the authors'"]
)
def test_mxnets_names_tell_a_stride_in_the_first_1x1(key):
    state = {key: torch.zeros(1), "stage2_unit1_conv3_weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="stride in the first 1x1"):
        import_state(state, "mxnet")


def test_basic_blocks_have_one_place_for_the_stride():
    state = {"res3.0.conv1.weight": torch.zeros(1), "res3.0.conv2.weight": torch.zeros(1)}
    expected = ["layer2.0.conv1.weight", "layer2.0.conv2.weight"]
    assert list(import_state(state).state) == list(import_state(state, style="caffe").state) == expected


@pytest.mark.parametrize(
    ("prefix", "beside", "told"),
    [
        ("backbone.", ("neck.fpn_convs.0.conv.weight", "rpn_head.rpn_conv.bias"), {}),
        ("module.backbone.", ("module.bbox_head.fc_cls.weight",), {}),
    ],
)
def test_the_backbone_is_picked_out_of_a_detector(prefix, beside, told, images, our_model):
    theirs = randomised(ResNet(Design(), Bottleneck), images)
    detector = {f"{prefix}{key}": value for key, value in state_of(theirs).items()}
    imported = import_state({**detector, **{key: torch.ones(1) for key in beside}}, **told)
    assert imported.left_out == tuple(key.removeprefix("module.") for key in beside)
    load_imported(ours := our_model(Design()), imported)
    assert difference(ours, theirs, images) <= TOLERANCE


@pytest.mark.parametrize("prefix", ["backbone.bottom_up.", "backbone."])
def test_the_backbone_of_detectron2s_detectors(prefix, images, our_model):
    """With an FPN, and the C4 detectors, whose RoI heads hold `res5`."""
    theirs = randomised(Detectron2ResNet(Design()), images)
    network = {key: value for key, value in state_of(theirs).items() if not key.startswith("linear")}
    in_heads = {"backbone.": "roi_heads."}.get(prefix, prefix)
    detector = {f"{in_heads if key.startswith('res5') else prefix}{key}": network[key] for key in network}
    others = ("proposal_generator.rpn_head.conv.weight", "roi_heads.box_predictor.cls_score.weight")
    others += ("backbone.fpn_lateral2.weight",) if prefix == "backbone.bottom_up." else ()
    imported = import_state({**detector, **{key: torch.ones(1) for key in others}}, style="pytorch")
    assert imported.left_out == others
    load_imported(ours := our_model(Design(), num_classes=0), imported)
    theirs.linear = nn.Identity()
    assert difference(ours, theirs, images) <= TOLERANCE


def test_classifiers_of_the_same_family_keep_the_last_layer_in_a_head(images, our_model):
    theirs = randomised(ResNet(Design(), Bottleneck), images)
    state = {
        f"head.{key}" if key.startswith("fc.") else f"backbone.{key}": value
        for key, value in state_of(theirs).items()
    }
    load_imported(ours := our_model(Design()), import_state(state))
    assert difference(ours, theirs, images) <= TOLERANCE


@pytest.mark.parametrize("modulated", [True, False], ids=["dcnv2", "dcnv1"])
def test_a_plain_network_starts_a_deformable_one(modulated, images, our_model):
    design = Design(modulated=modulated, deformable=(False,) * 4)
    theirs = randomised(ResNet(design), images)
    ours = our_model(design)
    assert len(load_imported(ours, import_state(state_of(theirs)))) == 5
    assert difference(ours, theirs, images) <= TOLERANCE


def test_a_network_deformable_in_part_is_completed(images, our_model):
    """mmdetection's `fallback_on_stride` and smaller `stage_with_dcn` leave 3x3s plain."""
    design = Design(deformable=(False, False, False, True))
    theirs = randomised(ResNet(design, Bottleneck), images)
    ours = our_model(design)
    completed = load_imported(ours, import_state(state_of(theirs)))
    assert completed == ["layer2.0.conv2", "layer2.1.conv2", "layer3.0.conv2", "layer3.1.conv2"]
    assert difference(ours, theirs, images) <= TOLERANCE


def test_a_resnet_of_torchvision(images):
    theirs = randomised(torchvision.models.resnet18(num_classes=10), images)
    ours = timm.create_model("dcnv2_resnet18", num_classes=10).double().eval()
    assert len(load_imported(ours, import_state(theirs.state_dict()))) == 12
    assert difference(ours, theirs, images) <= TOLERANCE


def test_a_detector_of_torchvision(images):
    """Its frozen batch norms add nothing in the oldest weights, which `overwrite_eps` sets, and 1e-5 else."""
    detector = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    theirs = randomised(detector.backbone.body, images)
    for norm_eps in (None, 0.0):
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-5 if norm_eps is None else norm_eps
        imported = import_state(detector.state_dict(), norm_eps=norm_eps)
        assert imported.left_out and all(not key.startswith("backbone.body.") for key in imported.left_out)
        ours = timm.create_model("dcnv1_resnet50", num_classes=0).double().eval()
        load_imported(ours, imported)
        expected = list(theirs(images).values())[-1]
        torch.testing.assert_close(ours.forward_features(images), expected, rtol=1e-9, atol=1e-9)


BRANCH, ONE = "stage2_unit1_conv2", torch.ones(1)


@pytest.mark.parametrize(
    ("state", "told", "message"),
    [
        ({}, {"layout": "caffe2"}, "layout='caffe2' is unknown; expected one of detectron2,"),
        ({}, {"style": "tf"}, "style='tf' is unknown; expected 'pytorch' or 'caffe'"),
        ({}, {"input_order": "gbr"}, "input_order='gbr' is unknown; expected 'rgb' or 'bgr'"),
        ({}, {"pixel_mean": (1, 2, 3)}, "expected both of them or neither"),
        ({"conv1.weight": "text"}, {}, "conv1.weight is of type str; expected a tensor or a numpy array"),
        (
            {"layer2.0.conv2_offset.bias": ONE, "layer2.0.conv2.conv_offset.bias": ONE},
            {},
            "are both layer2.0.conv2.conv_offset.bias here; expected one of them",
        ),
        (
            {f"{BRANCH}_weight": ONE, f"{BRANCH}_offset_weight": torch.zeros(20, 8, 3, 3)},
            {},
            r"has 20 output channels; expected 18 \(offsets\) or 27",
        ),
    ],
)
def test_what_cannot_be_converted_is_said(state, told, message):
    with pytest.raises(ValueError, match=message):
        import_state(state, **told)


def test_parts_of_a_network_are_listed_not_stumbled_over(our_model):
    """Without a stem, an offset branch, or all of the norm of the image."""
    parts = {"bn_data.weight": ONE, "layer2.0.modulator2.weight": ONE}
    names = TorchvisionNames(offset="{block}.offset2", mask="{block}.modulator2")
    imported = import_state(parts, "torchvision", input_order="bgr", names=names)
    with pytest.raises(ValueError, match=r"unknown: bn_data\.weight, layer2\.0\.modulator2\.weight\.$"):
        load_imported(our_model(Design()), imported)


def test_the_given_tensors_are_left_alone(images):
    theirs = randomised(MxnetResNet(Design()), images)
    before = {key: value.copy() for key, value in theirs.arrays().items()}
    import_state(theirs.arrays())
    assert all((before[key] == value).all() for key, value in theirs.arrays().items())
