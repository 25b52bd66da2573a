"""Nodes: their responses, and what is said when they are not there."""

import pytest
import timm
import torch
from torchvision.ops import MultiScaleRoIAlign

from dcn_backbones.analysis import ClassLogit, Point, RoI, point_at

from .conftest import small_detector, small_network

IMAGES = torch.rand(2, 3, 64, 96)
NAMES = ["fine", "middle", "coarse"]


@pytest.fixture(scope="module")
def network():
    return timm.create_model("resnet18", num_classes=10).eval()


def test_a_point_is_a_unit_of_the_layers_map(network):
    with torch.no_grad():
        features = network.layer2(
            network.layer1(network.maxpool(network.act1(network.bn1(network.conv1(IMAGES)))))
        )
        assert torch.equal(Point("layer2", 11, 3).responses(network, IMAGES), features[:, :, 3, 11])
        assert torch.equal(
            Point("layer2", 11, 3, channel=7).responses(network, IMAGES)[:, 0], features[:, 7, 3, 11]
        )


def test_a_logit_is_one_of_the_outputs(network):
    with torch.no_grad():
        assert torch.equal(ClassLogit(9).responses(network, IMAGES), network(IMAGES)[:, 9:])


@pytest.mark.parametrize("position, unit", [((0, 0), (0, 0)), ((51, 27), (6, 3)), ((95, 63), (11, 7))])
def test_the_unit_nearest_to_a_pixel(network, position, unit):
    assert point_at(network, IMAGES[:1], "layer2", position) == Point("layer2", *unit)


def test_the_features_of_a_region_are_those_of_torchvisions_heads():
    detector = small_detector(MultiScaleRoIAlign(NAMES, (3, 2), 2))
    images, box = IMAGES.double(), (10.0, 4.0, 50.0, 60.0)
    boxes = [torch.tensor([box], dtype=torch.float64)] * 2
    noted = []
    detector.roi_heads.box_head.register_forward_hook(lambda *call: noted.append(call[2]))
    detector.roi_heads.box_predictor.register_forward_hook(lambda *call: noted.append(call[2][0]))
    with torch.no_grad():
        detector.roi_heads(detector.backbone(images), boxes, [(64, 96)] * 2)
        features, logits = noted
        assert torch.equal(RoI(box).responses(detector, images), features)
        assert torch.equal(RoI(box, category=2).responses(detector, images), logits[:, 2:3])


@pytest.mark.parametrize(
    "node, sentence",
    [
        (Point("layer2", 12, 3), r"point \(12, 3\) is outside the map of layer2; expected x from 0 to 11"),
        (Point("layer2", -1, 3), r"point \(-1, 3\) is outside"),
        (Point("layer9", 0, 0), "ResNet has no layer 'layer9'; expected one of conv1, .*layer4, global_pool"),
        (Point("layer2.2.conv1", 0, 0), "no layer 'layer2.2.conv1'; expected one of layer2.0, layer2.1, or"),
        (Point("layer2.0.conv1.x", 0, 0), "expected one of none, it ends there"),
        (Point("fc", 0, 0), r"layer 'fc' gives \(2, 10\); expected one with a feature map"),
        (Point("layer2", 0, 0, channel=128), "128 is none of the channels of layer2; expected 0 to 127"),
        (ClassLogit(10), "10 is none of the classes; expected 0 to 9"),
        (RoI((0, 0, 8, 8)), "ResNet is no detector; expected backbone and roi_heads"),
    ],
)  # fmt: skip
def test_errors(network, node, sentence):
    with pytest.raises(ValueError, match=sentence):
        node.responses(network, IMAGES)


def test_errors_of_a_detector():
    detector = small_detector(MultiScaleRoIAlign(NAMES, (3, 2), 2))
    for box in ((10, 10, 10, 20), (50, 0, 40, 20), (0, 0, 97, 20), (-1, 0, 10, 10)):
        with pytest.raises(ValueError, match=r"is empty or not in the image; expected x1 < x2 from 0 to 96"):
            RoI(box).responses(detector, IMAGES.double())
    with pytest.raises(ValueError, match="4 is none of the categories"):
        RoI((0, 0, 8, 8), category=4).responses(detector, IMAGES.double())
    with pytest.raises(ValueError, match="gives no logits"):
        ClassLogit(0).responses(detector, IMAGES.double())


def test_errors_of_a_position(network):
    with pytest.raises(
        ValueError, match=r"point \(96, 5\) is outside the network's input; expected x from 0 to 95"
    ):
        point_at(network, IMAGES[:1], "layer2", (96, 5))
    with pytest.raises(ValueError, match=r"\(2, 3, 64, 96\); expected one image"):
        point_at(network, IMAGES, "layer2", (5, 5))


def test_a_layer_that_does_not_run_gives_nothing():
    network = small_network()
    network.add_module("spare", torch.nn.Conv2d(3, 3, 1))
    network.forward = lambda images: torch.nn.Sequential(*list(network)[:7])(images)
    with pytest.raises(ValueError, match="layer 'spare' gives no tensor"):
        Point("spare", 0, 0).responses(network, torch.rand(1, 3, 24, 24).double())
