"""Every operator test runs over every backend that is here, on every device that it takes."""

import pytest
import torch

from dcn_backbones.ops import dispatch

from . import cuda_emulation
from .compare import backends_on

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _parameters(*leave_out: str, **request) -> list:
    """Pairs of device and backend; `-k on_cuda` selects those on a GPU."""
    return [
        pytest.param((device, name), id=name if device == "cpu" else f"{name}_on_{device}")
        for device in DEVICES
        for name in backends_on(device, leave_out, **request)
    ]


@pytest.fixture(params=_parameters())
def backend(request):
    yield from _on_its_device(*request.param)


@pytest.fixture(params=_parameters("torchvision"))
def own_backend(request):
    """Every backend that keeps the whole contract; torchvision's kernel does not."""
    yield from _on_its_device(*request.param)


@pytest.fixture(params=_parameters("torchvision", "reference"))
def fast_backend(request):
    """Every backend worth comparing with the reference."""
    yield from _on_its_device(*request.param)


@pytest.fixture(params=_parameters(operator="deform_roi_pool", deformed=False))
def plain_roi_backend(request):
    """Every backend that pools without offset and mask."""
    yield from _on_its_device(*request.param)


@pytest.fixture(params=_parameters(operator="deform_roi_pool"))
def roi_backend(request):
    """Every backend that has all of deformable RoI pooling."""
    yield from _on_its_device(*request.param)


def _on_its_device(device: str, name: str):
    """The backend's name, while tensors are made on its device."""
    if device == "cpu":
        yield name
        return
    torch.set_default_device(device)
    try:
        yield name
    finally:
        torch.set_default_device(None)


@pytest.fixture
def emulated(monkeypatch):
    """The CUDA kernels on the emulated grid, as a backend."""
    cuda_emulation.library()
    backend = cuda_emulation.EmulatedCuda()
    monkeypatch.setitem(dispatch.BACKENDS, backend.name, backend)
    backend.set_device()
    yield backend
    dispatch._select.cache_clear()


@pytest.fixture(params=[False, True], ids=["forwards", "backwards"])
def order(request, emulated):
    """Threads of a block in either order: a barrier that is missing is seen in one of them."""
    emulated.set_device(backwards=request.param)


SUMS = {
    "directly": dict(vector_sums=True),
    "windows": dict(vector_sums=False),
    "windows_backwards": dict(vector_sums=False, backwards=True),
}


@pytest.fixture(params=SUMS)
def sums(request, emulated):
    """How a device sums grad_input: in global memory while it gathers, or in windows, in either order."""
    emulated.set_device(**SUMS[request.param])


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=[1, 2, 3, 5])
def threads(request):
    """Fewer and more threads than images: the kernels divide their work differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
