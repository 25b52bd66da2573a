"""The zoo's networks with offsets that matter, and each one's ONNX model, exported once."""

from collections.abc import Callable
from functools import cache

import pytest
import timm
import torch
from torch import Tensor, nn

from dcn_backbones.export import onnx_model
from dcn_backbones.layers import DeformConv2d

from ..models.conftest import MODELS, photographs, plain_network  # noqa: F401  (fixtures)


@pytest.fixture(scope="session")
def network(plain_network) -> Callable[[str], nn.Module]:  # noqa: F811
    """Makes the model of a name: a calibrated plain network's weights, offsets of about a pixel."""

    @cache
    def make(name: str) -> nn.Module:
        model = timm.create_model(name, num_classes=1000).eval()
        model.load_state_dict(plain_network(name.split("_", 1)[1]).state_dict())
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, DeformConv2d):
                scatter_offsets(module)
        return model

    return make


@pytest.fixture(scope="session")
def small_network() -> nn.Module:
    """A DCNv2 ResNet of one block a stage, for what does not depend on the depth."""
    torch.manual_seed(0)
    model = timm.create_model("dcnv2_resnet18", layers=(1, 1, 1, 1), zero_init_last=False).eval()
    for module in model.modules():
        if isinstance(module, DeformConv2d):
            scatter_offsets(module)
    return model


def scatter_offsets(layer: DeformConv2d) -> None:
    """Offsets and mask logits of about 1, half of them from the input."""
    nn.init.normal_(layer.conv_offset.weight, std=0.5 / layer.conv_offset.weight[0].numel() ** 0.5)
    nn.init.normal_(layer.conv_offset.bias)


@pytest.fixture(scope="session")
def exported(network) -> Callable[[str], object]:
    """Makes the `onnx.ModelProto` of a name."""
    return cache(lambda name: onnx_model(network(name), image_size=64))


@pytest.fixture(scope="session")
def image_batches(photographs) -> list[Tensor]:  # noqa: F811
    """The photographs in other batches and sizes than any example: four, one of an odd size, and 32 px."""
    wide = nn.functional.interpolate(photographs[1:2], (57, 75), mode="bilinear")
    return [photographs, wide, nn.functional.avg_pool2d(photographs[2:], 2)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that ask for ``model_name`` run on all eight models."""
    if "model_name" in metafunc.fixturenames:
        metafunc.parametrize("model_name", MODELS, scope="module")
