"""Every option of the detectors: how they pool, what learns, what they refuse."""

import pytest
import torch
from timm.layers import FrozenBatchNormAct2d
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FrozenBatchNorm2d, roi_align, roi_pool

from dcn_backbones.detection import DetectorSettings, faster_rcnn, mask_rcnn
from dcn_backbones.detection.backbones import make_backbone
from dcn_backbones.detection.roi_pools import make_roi_pool
from dcn_backbones.layers import DeformConv2d, DeformRoIPool, offset_lr_scales

from .conftest import small_faster_rcnn, small_mask_rcnn

FEATURES = (1, 4, 16, 16)
BOXES = torch.tensor([[8.0, 20, 200, 140], [64, 64, 128, 250]])


def pooled(kind: str, conv5: torch.Tensor | None = None) -> torch.Tensor:
    """Two boxes pooled by a fresh layer from one level of stride 16."""
    pool = make_roi_pool(kind, 4, ["conv5"], 7, 2)
    return pool({"conv4": None, "conv5": features() if conv5 is None else conv5}, [BOXES], [(256, 256)])


def features() -> torch.Tensor:
    return torch.randn(FEATURES, generator=torch.Generator().manual_seed(0))


def test_max_is_roi_pooling():
    torch.testing.assert_close(pooled("max"), roi_pool(features(), [BOXES], 7, 1 / 16))


@pytest.mark.parametrize(
    "kind, aligned, share", [("align", False, 1), ("deform", True, 1), ("modulated", True, 0.5)]
)
def test_the_others_start_as_aligned_pooling(kind, aligned, share):
    expected = roi_align(features(), [BOXES], 7, 1 / 16, sampling_ratio=2, aligned=aligned)
    torch.testing.assert_close(pooled(kind), share * expected)


@pytest.mark.parametrize("kind", ["max", "align", "deform", "modulated"])
def test_masks_are_pooled_alike_into_14_bins(kind):
    with torch.device("meta"):
        heads = mask_rcnn("resnet18", box_pool=kind).roi_heads
    assert heads.box_roi_pool.output_size == (7, 7) and heads.mask_roi_pool.output_size == (14, 14)
    assert type(heads.mask_roi_pool) is type(heads.box_roi_pool)
    assert type(getattr(heads.mask_roi_pool, "pool", None)) is type(getattr(heads.box_roi_pool, "pool", None))


@pytest.mark.parametrize("build, neck", [(small_faster_rcnn, "c5"), (small_mask_rcnn, "fpn")])
def test_gradients_reach_every_offset(build, neck, images, targets):
    detector = build(neck=neck)()
    losses = detector(images, targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(parameter.grad is not None for parameter in detector.parameters())
    layers = [layer for layer in detector.modules() if isinstance(layer, DeformConv2d)]
    pools = [layer for layer in detector.modules() if isinstance(layer, DeformRoIPool)]
    assert len(layers) == 12 and len(pools) == (2 if build is small_mask_rcnn else 1)
    for branch in [layer.conv_offset for layer in layers] + [pool.offset_fc[-1] for pool in pools]:
        for rows in branch.weight.grad.split(branch.weight.shape[0] // 3):  # two parts offsets, one part mask
            assert rows.abs().sum() > 0


def test_images_without_objects_train(images, targets):
    detector = small_mask_rcnn(box_pool="align", neck="fpn")()
    losses = detector(images[1:], targets[1:])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and losses["loss_classifier"] > 0
    assert losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == losses["loss_mask"] == 0


@pytest.mark.parametrize("kind", ["max", "align", "deform", "modulated"])
def test_every_pooling_takes_features_of_half_precision(kind):
    expected = pooled(kind)
    with torch.autocast("cpu", torch.bfloat16):
        found = pooled(kind, features().bfloat16())
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


def test_half_precision(images, targets):
    detector = small_faster_rcnn()()
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(images[:1], targets[:1])
        detections = detector.eval()(images[:1])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters())
    assert all(len(of_image["boxes"]) and of_image["boxes"].isfinite().all() for of_image in detections)


def test_half_precision_does_not_round_positions(images):
    detector = small_faster_rcnn(backbone="resnet18", box_pool="align")().eval()
    proposals = []
    detector.rpn.register_forward_hook(lambda _, inputs, output: proposals.extend(output[0]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        detections = detector(images[:1])
    for boxes in (proposals[0], detections[0]["boxes"]):
        assert boxes.dtype == torch.float32 and (boxes != boxes.bfloat16()).float().mean() > 0.5


@pytest.mark.parametrize("neck", ["fpn", "c5"])
def test_channels_last_is_kept(neck):
    settings = DetectorSettings(backbone="dcnv2_resnet18", neck=neck)
    backbone = make_backbone(settings).to(memory_format=torch.channels_last)
    features = backbone(torch.randn(1, 3, 64, 96).contiguous(memory_format=torch.channels_last))
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in features.values())


@pytest.mark.parametrize(
    "settings, groups, pool",
    [
        (dict(box_pool="align", backbone_args={"offset_groups": 4}), {4}, False),
        (dict(backbone="resnet18"), set(), True),
        (dict(), {1}, True),
    ],
    ids=["dg=4", "mdpool alone", "DCNv2"],
)
def test_the_rows_of_the_tables(settings, groups, pool):
    with torch.device("meta"):
        detector = faster_rcnn(**{"backbone": "dcnv2_resnet18", **settings})
    layers = [layer for layer in detector.modules() if isinstance(layer, DeformConv2d)]
    assert {layer.offset_groups for layer in layers} == groups
    assert any(isinstance(layer, DeformRoIPool) for layer in detector.modules()) == pool


def test_all_kernels_of_conv5_are_dilated():
    with torch.device("meta"):
        body = faster_rcnn("dcnv2_resnet18").backbone.body
    layers = [
        module for module in body["layer4"].modules() if getattr(module, "kernel_size", (1, 1)) == (3, 3)
    ]
    assert len(layers) == 8  # the deformable convolutions and those of their offsets
    assert all(layer.dilation == layer.padding == (2, 2) for layer in layers)
    assert body["layer3"][0].conv1.dilation == (1, 1)


@pytest.mark.parametrize(
    "norm, kinds",
    [
        ("frozen", {FrozenBatchNorm2d}),
        ("sync", {nn.SyncBatchNorm}),
        ("batch", {nn.BatchNorm2d}),
    ],
)
def test_norm(norm, kinds):
    known = (FrozenBatchNorm2d, FrozenBatchNormAct2d, nn.modules.batchnorm._BatchNorm)
    with torch.device("meta"):
        detector = faster_rcnn("dcnv2_resnet18", norm=norm)
    assert {type(module) for module in detector.modules() if isinstance(module, known)} == kinds


@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv3_small_050", "regnetx_002"])
def test_other_networks_of_timm(name):
    settings = DetectorSettings(backbone=name, neck="fpn", trainable_backbone_layers=2)
    with torch.device("meta"):
        backbone = make_backbone(settings)
        features = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(level.shape[-2:]) for level in features.values()] == [
        (16, 24),
        (8, 12),
        (4, 6),
        (2, 3),
        (1, 2),
    ]
    first, *_, last = backbone.body.parameters()
    assert not first.requires_grad and last.requires_grad


def test_the_offset_branches_are_found_for_their_learning_rates():
    with torch.device("meta"):
        scales = offset_lr_scales(faster_rcnn("dcnv2_resnet18"))
    assert scales["roi_heads.box_roi_pool.pool.offset_fc.2.weight"] == 1
    assert scales["backbone.body.layer4.1.conv2.conv_offset.bias"] == 0.1


def test_the_pixels_are_normalised_as_the_backbone_was_trained():
    with torch.device("meta"):
        detector = faster_rcnn(
            "resnet50", backbone_args={"pretrained_cfg_overlay": {"mean": (0.1, 0.2, 0.3)}}
        )
        own = faster_rcnn("resnet50", image_mean=(0.4, 0.4, 0.4))
    assert detector.transform.image_mean == [0.1, 0.2, 0.3]
    assert own.transform.image_mean == (0.4, 0.4, 0.4)


def test_a_detector_is_torchvisions_class():
    with torch.device("meta"):
        assert type(faster_rcnn("resnet18")) is FasterRCNN


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(neck="pyramid"), "neck='pyramid' is not known; expected one of c5, fpn"),
        (dict(box_pool="roi"), "box_pool='roi' is not known; expected one of max, align, deform, modulated"),
        (dict(norm="group"), "norm='group' is not known"),
        (dict(mimic="all"), "mimic='all' is not known; expected one of None, foreground, background, both"),
        (dict(backbone_args={"act_layer": nn.ReLU}), "backbone_args cannot be written to a file"),
        (dict(num_classes=1), "num_classes=1 leaves no class beside the background"),
        (dict(neck="fpn", anchor_sizes=(32, 64)), "has 2 sizes; expected 5"),
        (dict(trainable_backbone_layers=6), "trainable_backbone_layers=6, but the backbone has 5 stages"),
        (dict(backbone="resnet19"), "backbone 'resnet19' cannot be built: Unknown model"),
        (dict(backbone_args={"colour": 1}), "backbone 'dcnv2_resnet18' cannot be built: .*colour"),
        (dict(backbone_args={"output_stride": 32}), r"maps at strides \[16, 32\]; expected \[16, 16\]"),
    ],
)
def test_what_does_not_fit_is_named(settings, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        faster_rcnn(**{"backbone": "dcnv2_resnet18", **settings})
