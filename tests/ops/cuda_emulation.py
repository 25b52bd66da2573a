"""The CUDA path without a GPU: its host side and the real kernel bodies, compiled for an emulated grid.

The library registers the CUDA operators for the CPU, so it must be loaded in a process that has no GPU
kernels for them there: tests only. `csrc/cuda/emulation` says what the grid makes visible.
"""

import ctypes
import functools
import os
import shutil
from pathlib import Path

import pytest
from torch.utils import cpp_extension

from dcn_backbones.ops.backends.cuda_kernels import CudaKernels

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["cuda/deform_conv2d_cuda.cpp", "cuda/roi_pool_cuda.cpp", "cuda/emulation/launches.cpp"]
FLAGS = [
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
    "-DDCN_DISPATCH_KEY=CPU",
    "-std=c++20",
    "-O2",
    "-Wall",
    "-Werror",
    "-Wno-unknown-pragmas",
]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1"]


@functools.cache
def library() -> ctypes.CDLL:
    """Build what changed and load it; skips where there is no compiler or no source."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("needs a C++ compiler")
    if not (ROOT / "csrc").is_dir():
        pytest.skip("needs the checkout's csrc/")
    sanitizers = SANITIZERS if "DCN_SANITIZE" in os.environ else []
    folder = ROOT / "build" / ("emulation_sanitized" if sanitizers else "emulation")
    folder.mkdir(parents=True, exist_ok=True)
    cpp_extension.load(
        "dcn_cuda_emulation",
        [str(ROOT / "csrc" / source) for source in SOURCES],
        extra_cflags=FLAGS + sanitizers,
        extra_ldflags=sanitizers,
        build_directory=str(folder),
        is_python_module=False,
        with_cuda=False,
    )
    return ctypes.CDLL(str(folder / "dcn_cuda_emulation.so"))


class EmulatedCuda(CudaKernels):
    """The backend of the CUDA kernels, on CPU tensors."""

    name = "cuda_emulated"
    devices = frozenset({"cpu"})

    def unavailable_reasons(self) -> list[str]:
        return []

    @staticmethod
    def set_device(
        multiprocessors: int = 2,
        shared_bytes: int = 227 << 10,
        tensor_tiles: bool = True,
        vector_sums: bool = True,
        backwards: bool = False,
    ) -> None:
        """The device that launches are planned for, and the order in which threads of a block run."""
        library().set_emulated_device(multiprocessors, shared_bytes, tensor_tiles, vector_sums, backwards)

    @staticmethod
    def last_kernel() -> str:
        """The mangled type of the kernel that ran last."""
        name = library().last_emulated_kernel
        name.restype = ctypes.c_char_p
        return name().decode()
