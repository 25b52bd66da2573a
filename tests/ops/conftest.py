"""Every operator test runs over every backend that is here."""

import pytest

from dcn_backbones.ops import available_backends


@pytest.fixture(params=available_backends())
def backend(request) -> str:
    return request.param


@pytest.fixture(params=[name for name in available_backends() if name != "torchvision"])
def own_backend(request) -> str:
    """Every backend that keeps the whole contract; torchvision's kernel does not."""
    return request.param
