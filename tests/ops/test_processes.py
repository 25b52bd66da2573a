"""The operator in data-loading workers, in forked and spawned children, and from several threads at once."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dcn_backbones.ops import deform_conv2d, use_backend
from dcn_backbones.ops.backends.base import OPERATORS
from dcn_backbones.ops.dispatch import forced_backend

from . import roi_cases
from .cases import Case, named_leaves
from .compare import assert_near, backends_on

CASE = Case(channels=16, out_channels=8, size=(20, 20))
ROI_CASE = roi_cases.RoICase(out_channels=32, size=(20, 20), regions=80)  # enough for several threads


def _operated() -> list[tuple[str, str]]:
    """Every operator with every backend of ours; on the CPU only: CUDA does not survive a fork."""
    return [
        (operator, backend)
        for operator in OPERATORS
        for backend in backends_on("cpu", leave_out=("torchvision",), operator=operator)
    ]


@pytest.fixture(params=_operated(), ids="-".join)
def operated(request) -> tuple[str, str]:
    return request.param


TIME_LIMIT = 60  # seconds, for a child that hangs


def results(operated: tuple[str, str], seed: int = 0) -> list[torch.Tensor]:
    operator, backend = operated
    if operator == "deform_roi_pool":
        arguments, leaves = roi_cases.with_leaves(ROI_CASE.tensors(torch.float32, seed))
        output = roi_cases.run(backend, ROI_CASE, arguments)
    else:
        leaves = named_leaves(CASE.tensors(torch.float32, seed))
        with use_backend(backend):
            output = deform_conv2d(**leaves, **CASE.settings)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), list(leaves.values()))]


class Operated(torch.utils.data.Dataset):
    """Item `i` is the operator's output for seed `i`."""

    def __init__(self, operated: tuple[str, str]) -> None:
        self.operated = operated

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return results(self.operated, index)[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loading_workers(operated, start):
    expected = [results(operated, seed)[0] for seed in range(4)]
    loader = torch.utils.data.DataLoader(
        Operated(operated), None, num_workers=2, multiprocessing_context=start, timeout=TIME_LIMIT
    )
    for found, output in zip(loader, expected, strict=True):
        assert_near(found, output, 1e-5)


def _child(operated: tuple[str, str], queue) -> None:
    torch.set_num_threads(1)
    queue.put([t.numpy() for t in results(operated)])


def test_a_forked_child_with_one_thread(operated):
    """The parent's threads do not exist in the child, though OpenMP there believes that they do."""
    expected = results(operated)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(operated, queue))
    child.start()
    try:
        found = queue.get(timeout=TIME_LIMIT)
    finally:
        child.kill()
        child.join()
    for tensor, other in zip(found, expected, strict=True):
        assert_near(torch.from_numpy(tensor), other, 1e-4)


def test_several_threads_at_once(operated):
    expected = [results(operated, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(lambda seed: results(operated, seed), range(4)))
            for seed in range(4):
                for tensor, other in zip(found[seed], expected[seed], strict=True):
                    assert_near(tensor, other, 1e-4)


def test_a_backend_holds_for_its_own_thread_only():
    with use_backend("reference"), ThreadPoolExecutor(1) as pool:
        assert forced_backend() == "reference"
        assert pool.submit(forced_backend).result() == ""
