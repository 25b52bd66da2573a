"""How much memory a call takes beside its tensors, read from the kernel's own peak counter (Linux)."""

import multiprocessing
import os
from pathlib import Path
from unittest import mock

import torch

from . import peers
from .shapes import Shape

_MIB = 2**20
# Else glibc keeps what a first call has freed, and a second one is not seen to take it again.
_FREED_MEMORY_IS_GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}


def workspace_mib(shape: Shape, batch: int, backward: bool = False) -> float:
    """Peak beyond the tensors and the results, over the number of threads.

    The call is the forward's, or with `backward` that of the backward with all gradients.
    """
    threads = torch.get_num_threads()
    return in_own_process(_measure, shape, batch, backward, threads) / threads


def in_own_process(function, *arguments):
    """What the function returns in a process where freed memory counts as freed."""
    with (
        mock.patch.dict(os.environ, _FREED_MEMORY_IS_GIVEN_BACK),
        multiprocessing.get_context("spawn").Pool(1) as pool,
    ):
        return pool.apply(function, arguments)


def peak_mib(call) -> float:
    """Of a call, beyond what there was before and the tensors that it returns."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    results = call()
    return max(0.0, (_status("VmHWM") - before - sum(result.nbytes for result in results)) / _MIB)


def _measure(shape: Shape, batch: int, backward: bool, threads: int) -> float:
    torch.set_num_threads(threads)
    prepare = _backward if backward else _forward
    prepare(shape, 1)()  # starts threads
    return peak_mib(prepare(shape, batch))


def _forward(shape: Shape, batch: int):
    function = peers.deformable("extension", shape)
    tensors = peers.make_tensors(shape, batch, torch.float32, channels_last=True)

    def call() -> list[torch.Tensor]:
        with torch.inference_mode():
            return [function(tensors)]

    return call


def _backward(shape: Shape, batch: int):
    tensors = peers.make_tensors(shape, batch, torch.float32, channels_last=True)
    leaves = [t.requires_grad_() for t in tensors.values()]
    output = peers.deformable("extension", shape)(tensors)
    grad_output = output.detach().clone()
    return lambda: torch.autograd.grad(output, leaves, grad_output)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}, expected Linux")
