"""The CUDA kernels as compiled: no spills, no local memory, registers that leave room for the blocks wanted.

One architecture in the usual run; `DCN_CUDA_ARCHITECTURES=75,80,90` (`make cuda-all`) names others.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from dcn_backbones.ops.backends import cuda_kernels

CUDA = Path(__file__).resolve().parents[1] / "csrc" / "cuda"
ARCHITECTURES = os.environ.get("DCN_CUDA_ARCHITECTURES", "90").split(",")
FLAGS = ["-std=c++20", "-O3", "-Xptxas", "-v", "-c", "-o", os.devnull]
KERNELS = {  # how many each has
    "gather.cu": 16,
    "scatter.cu": 16,
    "fused_forward.cu": 12,
    "roi_gather.cu": 16,
    "roi_scatter.cu": 11,
}
BLOCKS = {"RoiGather": 6, "RoiScatter": 8, "Gather": 4, "Scatter": 2}  # of a multiprocessor
REGISTERS = 65_536  # of a multiprocessor


class Kernel(NamedTuple):
    name: str
    stack: int
    spills: int
    registers: int

    @property
    def blocks(self) -> int:
        """Blocks of a multiprocessor that it is compiled for; of a fused one the number after its tile."""
        if "Fused" in self.name:
            return int(re.search(r"FusedTile.*?EELi(\d+)E", self.name).group(1))
        return next(blocks for kind, blocks in BLOCKS.items() if kind in self.name)

    @property
    def threads(self) -> int:
        return 256 if "Fused" in self.name else 128


def compiled(source: str, architecture: str) -> list[Kernel]:
    """What ptxas reports of the kernels in a source."""
    command = ["nvcc", f"-arch=sm_{architecture}", *FLAGS, str(CUDA / source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report = re.findall(
        r"Compiling entry function '(\S+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        result.stderr,
        re.DOTALL,
    )
    return [
        Kernel(name, int(stack), int(stores) + int(loads), int(registers))
        for name, stack, stores, loads, registers in report
    ]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.skipif(not CUDA.is_dir(), reason="needs the checkout's csrc/")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("source", "kernels"), KERNELS.items())
def test_kernels_stay_in_registers(source, kernels, architecture):
    found = compiled(source, architecture)
    assert len(found) == kernels
    for kernel in found:
        assert kernel.stack == 0 and kernel.spills == 0, kernel
        assert kernel.registers * kernel.threads * kernel.blocks <= REGISTERS, kernel


@pytest.mark.skipif(bool(cuda_kernels.import_error), reason=f"no CUDA library: {cuda_kernels.import_error}")
@pytest.mark.parametrize(
    "operator", ["_gather", "_gather_backward", "_fused_forward", "_roi_pool", "_roi_pool_backward"]
)
def test_the_library_brings_the_operators_that_python_declares(operator):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dcn_backbones::{operator}", "CUDA")
