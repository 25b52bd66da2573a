"""Networks of other projects with this project's models of the same design, all in float64."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

import dcn_backbones  # noqa: F401

from .foreign import Design


@pytest.fixture(scope="session")
def images(photographs: Tensor) -> Tensor:
    return photographs.double()


@pytest.fixture
def our_model() -> Callable[..., nn.Module]:
    """Makes this project's model of a design, with weights of no other network."""

    def make(design: Design, **options) -> nn.Module:
        return timm.create_model(design.model_name, **{**design.arguments, **options}).double().eval()

    return make


@torch.no_grad()
def difference(network: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Largest difference of the logits, relative to their spread."""
    expected = other(images)
    return ((network(images) - expected).abs().max() / expected.std()).item()
