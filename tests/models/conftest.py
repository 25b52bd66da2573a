"""Plain networks whose every layer counts, calibrated on photographs: what warm starts are compared with."""

from collections.abc import Callable
from functools import cache

import pytest
import timm
import torch
from skimage import data
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

BACKBONES = ("resnet18", "resnet50", "resnet101", "resnext101_32x4d")
MODELS = tuple(f"{generation}_{backbone}" for generation in ("dcnv1", "dcnv2") for backbone in BACKBONES)


@pytest.fixture(scope="session")
def photographs() -> Tensor:
    """Four normalised photographs, (4, 3, 64, 64)."""
    images = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    tensors = [torch.from_numpy(image).movedim(-1, 0)[None].float() for image in images]
    small = [nn.functional.interpolate(tensor, (64, 64), mode="area") for tensor in tensors]
    return (torch.cat(small) - 120) / 60


@pytest.fixture(scope="session")
def plain_network(photographs: Tensor) -> Callable[[str], nn.Module]:
    """Makes timm's plain network of a name, calibrated: treat it as read-only."""

    @cache
    def make(name: str) -> nn.Module:
        torch.manual_seed(0)
        network = timm.create_model(name, zero_init_last=False)
        calibrate(network, photographs)
        return network.eval()

    return make


def calibrate(network: nn.Module, photographs: Tensor) -> None:
    """Random batch-norm parameters, and the running statistics that they give the photographs.

    The last norm of a residual branch gets small weights, as training gives it: with larger ones a random
    network of a hundred layers is chaotic and multiplies every rounding error.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.reset_running_stats()
            module.momentum = None  # average over all batches, here of the only one
    for module in network.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            nn.init.uniform_((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight, 0.1, 0.3)
    with torch.no_grad():
        network.train()(photographs)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that ask for ``model_name`` run on all eight models."""
    if "model_name" in metafunc.fixturenames:
        metafunc.parametrize("model_name", MODELS, scope="module")
