"""The Numba fallback where there is no GPU: in the simulator, through the compiler, and as a reason."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dcn_backbones.ops import dispatch
from dcn_backbones.ops.backends import numba_cuda

ROOT = Path(__file__).parents[2]
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="needs numba-cuda")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


# Compiles every kernel to PTX; device functions ask for the device that is not there.
COMPILE = """
import sys, types as python_types
import numba.cuda.dispatcher as dispatcher
from numba import cuda, types
from numba.cuda.cudadrv import nvvm
try:
    nvvm.NVVM()
except nvvm.NvvmSupportError as error:
    sys.exit(f"no libNVVM: {error}")
from dcn_backbones.ops.backends import numba_kernels as kernels, numba_roi_kernels as roi_kernels

capability = tuple(map(int, sys.argv[1:]))
dispatcher.get_current_device = lambda: python_types.SimpleNamespace(compute_capability=capability)
sizes = types.NamedUniTuple(types.int64, len(kernels.Sizes._fields), kernels.Sizes)
has = types.UniTuple(types.boolean, 5)
two = types.UniTuple(types.boolean, 2)
roi_sizes = types.NamedUniTuple(types.int64, len(roi_kernels.RoiSizes._fields), roi_kernels.RoiSizes)

def compiled(kernel, *arguments):
    ptx = cuda.compile_ptx(kernel.py_func, arguments, cc=capability)[0]
    assert ".local" not in ptx, kernel
    return ptx

for name, stored in dict(
    float64=types.float64, float32=types.float32, float16=types.float16, bfloat16=types.uint16
).items():
    element = stored[::1]
    real = (types.float64 if name == "float64" else types.float32)[::1]
    compiled(kernels.gather_kernel(name), element, real, real, types.boolean, element, sizes)
    settings = two, types.UniTuple(real.dtype, 2), roi_sizes
    compiled(roi_kernels.roi_pool_kernel(name), element, real, real, real, *settings, element)
    positions = roi_kernels.roi_positions_kernel(name)
    compiled(positions, element, real, real, real, *settings, element, real, real, two)
    for fixed_point, sums, add in ((False, real, ".add.f"), (True, types.int64[::1], ".add.u64")):
        backward = kernels.gather_backward_kernel(name, fixed_point)
        arrays = (element, element, real, real, element, real, real, sums, real)
        assert compiled(backward, *arrays, has, sizes).count("global" + add) >= 4, name
        scatter = roi_kernels.roi_scatter_kernel(name, fixed_point)
        assert compiled(scatter, real, real, real, *settings, element, sums, real).count("global" + add) >= 4
print("compiled")
"""

LAZY = """
import sys, torch, dcn_backbones
from dcn_backbones.ops import available_backends
if not torch.cuda.is_available():
    assert "numba_cuda" not in available_backends()
assert "numba" not in sys.modules or torch.cuda.is_available()
"""


@needs_numba
def test_the_kernels_in_the_simulator():
    files = ("tests/ops/simulated_numba.py", "tests/ops/simulated_numba_roi.py")
    result = run("-m", "pytest", "-x", *files, NUMBA_ENABLE_CUDASIM="1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout


@needs_numba
@pytest.mark.parametrize("capability", [("7", "5"), ("9", "0")], ids=".".join)
def test_the_kernels_compile_without_local_memory(capability):
    result = run("-c", COMPILE, *capability)
    if "no libNVVM" in result.stderr:
        pytest.skip(result.stderr.strip())
    assert result.stdout.split() == ["compiled"], result.stderr


def test_numba_is_not_imported_before_it_is_needed():
    result = run("-c", LAZY)
    assert result.returncode == 0, result.stderr


def test_every_reason_is_a_sentence_of_its_own(monkeypatch):
    backend = dispatch.BACKENDS["numba_cuda"]
    monkeypatch.setattr(torch.version, "cuda", None)
    assert backend.unavailable_reasons() == [f"torch {torch.__version__} is not built for CUDA"]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'dcn_backbones[numba]'" in backend.unavailable_reasons()[0]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backend.unavailable_reasons() == ["there is no CUDA device"]


@needs_numba
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_numba_without_a_driver_is_a_reason():
    (reason,) = numba_cuda._numba_reasons()
    assert "no driver or no libNVVM" in reason


# numba-cuda 0.30 wants a function of NumPy's that 2.5 no longer has, with the first kernel and not before.
INCOMPATIBLE = """
import sys
import numpy
from numba.cuda.cudadrv import nvvm
try:
    nvvm.NVVM()
except nvvm.NvvmSupportError as error:
    sys.exit(f"no libNVVM: {error}")
from dcn_backbones.ops.backends import numba_cuda

if sys.argv[1] == "broken":
    for name in ("row_stack", "vstack"):
        vars(numpy).pop(name, None)
print(numba_cuda._compilation_reasons((9, 0)))
"""


@needs_numba
@pytest.mark.parametrize("state", ["whole", "broken"])
def test_a_numba_that_cannot_compile_is_a_reason(state):
    result = run("-W", "ignore", "-c", INCOMPATIBLE, state)
    if "no libNVVM" in result.stderr:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    reasons = result.stdout.strip()
    assert (reasons == "[]") if state == "whole" else ("does not compile beside NumPy" in reasons), reasons
