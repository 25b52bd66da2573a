"""How much memory a call takes beside its tensors, read from the kernel's own peak counter (Linux)."""

import multiprocessing
from pathlib import Path

import torch

from . import peers
from .shapes import Shape

_MIB = 2**20


def workspace_mib(shape: Shape, batch: int) -> float:
    """Peak beyond the tensors and the output, over the number of threads, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (shape, batch, torch.get_num_threads()))


def _measure(shape: Shape, batch: int, threads: int) -> float:
    torch.set_num_threads(threads)
    function = peers.deformable("extension", shape)
    tensors = peers.make_tensors(shape, batch, torch.float32, channels_last=True)
    with torch.inference_mode():
        function({name: t[:1] if name != "weight" else t for name, t in tensors.items()})  # starts threads
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        output = function(tensors)
    return max(0.0, (_status("VmHWM") - before - output.nbytes) / threads / _MIB)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}, expected Linux")
