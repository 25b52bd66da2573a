"""Small deformable networks whose offsets and masks are known."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

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
