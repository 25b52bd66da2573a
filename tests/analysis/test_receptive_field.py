"""The effective receptive field against finite differences, and where it must be nothing."""

import pytest
import timm
import torch

from dcn_backbones.analysis import ClassLogit, Point, effective_receptive_field
from dcn_backbones.layers import DeformConv2d, ModulatedDeformConv2d

from .conftest import small_network

STEP = 1e-6


def finite_differences(network, image, node) -> torch.Tensor:
    """Pixel by pixel and channel by channel, ``(H, W)``."""
    _, channels, height, width = image.shape
    total = torch.zeros(height, width, dtype=torch.float64)
    with torch.no_grad():
        for channel in range(channels):
            steps = torch.zeros(height * width, *image.shape[1:], dtype=torch.float64)
            steps[:, channel] = STEP * torch.eye(height * width, dtype=torch.float64).view(-1, height, width)
            above, below = (node.responses(network, image + sign * steps).mean(1) for sign in (1, -1))
            total += ((above - below) / (2 * STEP)).abs().view(height, width)
    return total / channels


@pytest.mark.parametrize("layer_class", [torch.nn.Conv2d, ModulatedDeformConv2d])
@pytest.mark.parametrize("node", [Point("2", 4, 7), Point("4", 3, 6, channel=1), ClassLogit(2)])
def test_it_agrees_with_finite_differences(layer_class, node):
    network = small_network(layer_class, size=16)
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    found = effective_receptive_field(network, image, node)
    assert found.shape == (16, 16) and found.max() > 1e-3
    torch.testing.assert_close(found, finite_differences(network, image, node), rtol=1e-4, atol=1e-9)


def test_it_is_averaged_over_images():
    network = small_network(DeformConv2d)
    images, node = torch.randn(3, 3, 24, 24, dtype=torch.float64), Point("4", 5, 5)
    single = [effective_receptive_field(network, image[None], node) for image in images]
    torch.testing.assert_close(effective_receptive_field(network, images, node), sum(single) / 3)


def test_random_inputs_take_the_place_of_the_image():
    network, node = small_network(DeformConv2d), Point("4", 5, 5)
    image = torch.zeros(1, 3, 24, 24, dtype=torch.float64)
    torch.manual_seed(7)
    drawn = torch.cat([torch.randn_like(image) for _ in range(4)])
    torch.manual_seed(7)
    found = effective_receptive_field(network, image, node, random_inputs=4)
    torch.testing.assert_close(found, effective_receptive_field(network, drawn, node))


def test_outside_of_the_receptive_field_there_is_nothing():
    image = torch.randn(1, 3, 24, 24, dtype=torch.float64)
    found = effective_receptive_field(small_network(), image, Point("2", 6, 2))  # its centre: x 12, y 4
    rows, columns = found.nonzero().T
    # Three units of stride 2, each three pixels wide.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 7, 9, 15)


def test_the_model_is_left_as_it_was():
    model = timm.create_model("dcnv2_resnet18", num_classes=3).train().requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = effective_receptive_field(model, torch.randn(2, 3, 64, 64), ClassLogit(0))
    assert found.sum() > 0 and model.training and model.layer1.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_image_has_four_dimensions():
    with pytest.raises(ValueError, match=r"\(3, 24, 24\); expected images, \(N, C, H, W\)"):
        effective_receptive_field(small_network(), torch.zeros(3, 24, 24), ClassLogit(0))
