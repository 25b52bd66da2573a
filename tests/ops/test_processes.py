"""The operator in data-loading workers, in forked and spawned children, and from several threads at once."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dcn_backbones.ops import deform_conv2d, use_backend
from dcn_backbones.ops.dispatch import forced_backend

from .cases import Case, named_leaves
from .compare import assert_near, backends_on

CASE = Case(channels=16, out_channels=8, size=(20, 20))


@pytest.fixture(params=backends_on("cpu", leave_out=("torchvision",)))
def own_backend(request) -> str:
    """On the CPU only: CUDA does not survive a fork."""
    return request.param


TIME_LIMIT = 60  # seconds, for a child that hangs


def results(backend: str, seed: int = 0) -> list[torch.Tensor]:
    leaves = named_leaves(CASE.tensors(torch.float32, seed))
    with use_backend(backend):
        output = deform_conv2d(**leaves, **CASE.settings)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), list(leaves.values()))]


class Operated(torch.utils.data.Dataset):
    """Item `i` is the operator's output for seed `i`."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return results(self.backend, index)[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loading_workers(own_backend, start):
    expected = [results(own_backend, seed)[0] for seed in range(4)]
    loader = torch.utils.data.DataLoader(
        Operated(own_backend), None, num_workers=2, multiprocessing_context=start, timeout=TIME_LIMIT
    )
    for found, output in zip(loader, expected, strict=True):
        assert_near(found, output, 1e-5)


def _child(backend: str, queue) -> None:
    torch.set_num_threads(1)
    queue.put([t.numpy() for t in results(backend)])


def test_a_forked_child_with_one_thread(own_backend):
    """The parent's threads do not exist in the child, though OpenMP there believes that they do."""
    expected = results(own_backend)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(own_backend, queue))
    child.start()
    try:
        found = queue.get(timeout=TIME_LIMIT)
    finally:
        child.kill()
        child.join()
    for tensor, other in zip(found, expected, strict=True):
        assert_near(torch.from_numpy(tensor), other, 1e-4)


def test_several_threads_at_once(own_backend):
    expected = [results(own_backend, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(lambda seed: results(own_backend, seed), range(4)))
            for seed in range(4):
                for tensor, other in zip(found[seed], expected[seed], strict=True):
                    assert_near(tensor, other, 1e-4)


def test_a_backend_holds_for_its_own_thread_only():
    with use_backend("reference"), ThreadPoolExecutor(1) as pool:
        assert forced_backend() == "reference"
        assert pool.submit(forced_backend).result() == ""
