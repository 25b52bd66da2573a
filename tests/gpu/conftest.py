"""What only a GPU has. The operator's own tests run there too: `pytest tests/ops -k on_cuda`."""

import os

import pytest

from ..ops.compare import backends_on

# cuBLAS reads it with its first product; without it torch refuses products in deterministic mode.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(params=backends_on("cuda", leave_out=("torchvision", "reference")))
def cuda_backend(request) -> str:
    return request.param
