"""Small deformable networks whose offsets and masks are known."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from dcn_backbones.layers import DeformConv2d

SAMPLES = 9  # of a 3x3 kernel


@pytest.fixture
def make_network() -> Callable[..., nn.Module]:
    """A function: an untrained model whose every deformable layer has the same offsets and mask logits.

    Offsets are ``(9, 2)``, y and x, or one pair for all samples, in units of the layer's input.
    """

    def make(
        name: str = "dcnv2_resnet18", offset: object = (0.0, 0.0), logits: object = 0.0, **options
    ) -> nn.Module:
        network = timm.create_model(name, num_classes=10, **options).eval()
        for module in network.modules():
            if isinstance(module, DeformConv2d):
                set_sampling(module, offset, logits)
        return network

    return make


@torch.no_grad()
def set_sampling(layer: DeformConv2d, offset: object, logits: object) -> None:
    groups, bias = layer.offset_groups, layer.conv_offset.bias
    count = 2 * groups * SAMPLES
    bias[:count] = torch.as_tensor(offset).expand(groups * SAMPLES, 2).flatten()
    if len(bias) > count:
        bias[count:] = torch.as_tensor(logits).expand(groups * SAMPLES)


def grid(spacing_y: float, spacing_x: float) -> Tensor:
    """The samples of a regular 3x3 kernel around zero, ``(9, 2)``: x and y, row by row."""
    steps = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    return torch.cartesian_prod(steps * spacing_y, steps * spacing_x).flip(-1)


class FixedOffsets(nn.Module):
    """Stands for ``conv_offset``: it says the same for every image, ``(1, 2*K or 3*K, H, W)``."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, input: Tensor) -> Tensor:
        return self.values


def small_network(layer_class: type[nn.Module] = nn.Conv2d, size: int = 24) -> nn.Sequential:
    """A convolution of stride 2, two of stride 1 of which the last is dilated, and a classifier; float64."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Tanh(),
        layer_class(4, 4, 3, padding=1, bias=True),
        nn.Tanh(),
        layer_class(4, 5, 3, padding=2, dilation=2, bias=True),
        nn.Flatten(),
        nn.Linear(5 * (size // 2) ** 2, 3),
    ).double()
    for name, parameter in network.named_parameters():
        nn.init.normal_(parameter, std=0.05 if "offset" in name else 0.3)
    return network.eval()


class Pyramid(nn.Module):
    """A backbone of three levels, for torchvision's detectors."""

    out_channels = 6

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=4, padding=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.stem(images).tanh()
        middle = nn.functional.avg_pool2d(fine, 2)
        return {"fine": fine, "middle": middle, "coarse": nn.functional.avg_pool2d(middle, 2)}


def small_detector(pool: nn.Module) -> FasterRCNN:
    """torchvision's Faster R-CNN around a pooling of 3x2 bins, in float64."""
    anchors = AnchorGenerator(((16,), (32,), (64,)), ((1.0,),) * 3)
    head = TwoMLPHead(6 * 3 * 2, 10)
    predictor = FastRCNNPredictor(10, 4)
    return (
        FasterRCNN(
            Pyramid(),
            rpn_anchor_generator=anchors,
            box_roi_pool=pool,
            box_head=head,
            box_predictor=predictor,
        )
        .double()
        .eval()
    )
