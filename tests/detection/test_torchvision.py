"""Plain networks and aligned pooling make torchvision's own detectors: the same losses and detections."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import (
    FasterRCNN,
    MaskRCNN,
    fasterrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
)
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from dcn_backbones.detection import faster_rcnn, mask_rcnn

SIZES = dict(min_size=64, max_size=96)
COUNTS = dict(rpn_post_nms_top_n_train=40, rpn_post_nms_top_n_test=10, box_batch_size_per_image=16)


def assert_same(ours: nn.Module, theirs: nn.Module, images, targets) -> None:
    """Equal names of weights, losses, detections: theirs has our weights, and draws the same at random."""
    theirs.load_state_dict(ours.state_dict())
    results = []
    for detector in (ours, theirs):
        torch.manual_seed(1)
        losses = detector.train()(images, targets)
        with torch.no_grad():
            results.append((losses, detector.eval()(images)))
    (losses, detections), (their_losses, their_detections) = results
    torch.testing.assert_close(losses, their_losses)
    torch.testing.assert_close(detections, their_detections)
    assert all(len(of_image["boxes"]) > 3 for of_image in detections)


@pytest.mark.parametrize(
    "build, theirs", [(faster_rcnn, fasterrcnn_resnet50_fpn), (mask_rcnn, maskrcnn_resnet50_fpn)]
)
def test_with_a_pyramid(build, theirs, images, targets):
    options = dict(neck="fpn", box_pool="align", norm="batch", trainable_backbone_layers=5)
    ours = build("resnet50", 3, **options, **SIZES, **COUNTS)
    reference = theirs(weights=None, weights_backbone=None, num_classes=3, **SIZES, **COUNTS)
    targets[0]["labels"] = torch.tensor([1, 2])
    assert_same(ours, reference, images, targets)


def numbers(module: nn.Module) -> dict[str, object]:
    """All attributes of a module that are no modules, and those of its samplers and matchers."""
    own = {name: value for name, value in vars(module).items() if name not in vars(nn.Module())}
    helpers = {name: vars(value) for name, value in own.items() if hasattr(value, "__dict__")}
    return {**own, **helpers}


def test_the_numbers_are_torchvisions():
    with torch.device("meta"):
        ours = mask_rcnn("resnet18", box_pool="align")
        theirs = MaskRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 91)
    for name in ("rpn", "roi_heads", "transform"):
        assert numbers(ours.get_submodule(name)) == numbers(theirs.get_submodule(name))
    assert ours.rpn.anchor_generator.sizes == theirs.rpn.anchor_generator.sizes
    assert ours.rpn.anchor_generator.aspect_ratios == theirs.rpn.anchor_generator.aspect_ratios


def test_the_numbers_of_conv5_are_detectrons():
    with torch.device("meta"):
        rpn = faster_rcnn("resnet18").rpn
    assert rpn._pre_nms_top_n == dict(training=12000, testing=6000)
    assert rpn._post_nms_top_n == dict(training=2000, testing=1000)
    assert rpn.anchor_generator.sizes == ((32, 64, 128, 256, 512),)
    assert rpn.anchor_generator.aspect_ratios == ((0.5, 1.0, 2.0),)


@pytest.mark.parametrize("trainable", range(6))
def test_the_stages_that_train_are_torchvisions(trainable):
    with torch.device("meta"):
        ours = faster_rcnn(
            "resnet18", neck="fpn", box_pool="align", trainable_backbone_layers=trainable
        ).backbone
        theirs = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=trainable)
    trained = {name for name, parameter in ours.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in theirs.named_parameters() if parameter.requires_grad}


class Conv5Body(nn.Module):
    """The papers' conv5 from torchvision's parts."""

    def __init__(self) -> None:
        super().__init__()
        network = resnet50(norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=[False, False, True])
        network.layer4[0].conv2.dilation = network.layer4[0].conv2.padding = (2, 2)
        self.body = IntermediateLayerGetter(network, {"layer3": "conv4", "layer4": "conv5"})
        self.reduction = nn.Conv2d(2048, 256, 1)
        self.out_channels = 256

    def forward(self, images):
        features = self.body(images)
        return OrderedDict(conv4=features["conv4"], conv5=self.reduction(features["conv5"]))


class Conv4RPN(RegionProposalNetwork):
    def forward(self, images, features, targets=None):
        return super().forward(images, {"conv4": features["conv4"]}, targets)


def conv5_detector() -> GeneralizedRCNN:
    anchors = AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),))
    counts = [dict(training=12000, testing=6000), dict(training=40, testing=10)]
    rpn = Conv4RPN(anchors, RPNHead(1024, 15), 0.7, 0.3, 256, 0.5, *counts, 0.7)
    pool = MultiScaleRoIAlign(["conv5"], 7, 2)
    heads = FasterRCNN(Conv5Body(), 3, rpn_anchor_generator=anchors, box_roi_pool=pool).roi_heads
    heads = RoIHeads(pool, heads.box_head, heads.box_predictor, 0.5, 0.5, 16, 0.25, None, 0.05, 0.5, 100)
    transform = GeneralizedRCNNTransform(64, 96, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return GeneralizedRCNN(Conv5Body(), rpn, heads, transform)


def test_with_the_papers_conv5(images, targets):
    targets[0]["labels"] = torch.tensor([1, 2])
    assert_same(
        faster_rcnn("resnet50", 3, box_pool="align", **SIZES, **COUNTS), conv5_detector(), images, targets
    )
