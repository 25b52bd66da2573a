"""The kernels for lesser processors, on this one: `DCN_CPU_CAPABILITY` names them, a process for each."""

import functools
import hashlib
import multiprocessing
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch

from dcn_backbones.ops import available_backends
from dcn_backbones.ops.backends.extension import cpu_capability

from . import test_extension_cpu, test_roi_extension_cpu

pytestmark = pytest.mark.skipif("extension" not in available_backends(), reason="the extension is not built")

NAMES = ["generic", "avx2", "avx512", "avx512_bf16", "amx"]
FLAGS = [
    {"avx2", "fma"},
    {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    {"avx512_bf16"},
    {"amx_tile", "amx_bf16"},
]
HERE = cpu_capability() if "extension" in available_backends() else "generic"
LESSER = NAMES[: NAMES.index(HERE)]
CPU_INFORMATION = Path("/proc/cpuinfo")
TIME_LIMIT = 240  # seconds, for a child that hangs
# Values and all gradients, their bits on any number of threads, hostile offsets.
MEMBERS = "many_blocks or number_of_threads or (hostile_values and extension)"

CALLS = """
import torch
from dcn_backbones.ops import deform_conv2d
for _ in range(2):
    try:
        deform_conv2d(torch.ones(1, 1, 4, 4), torch.zeros(1, 2, 4, 4), torch.ones(1, 1, 1, 1))
    except RuntimeError as error:
        print(error)
"""


FILES = [
    "test_extension_cpu.py",
    "test_hostile_values.py",
    "test_roi_extension_cpu.py",
    "test_roi_hostile_values.py",
]


class Outcome(NamedTuple):
    capability: str
    exit_status: int
    bits: str
    roi_bits: str


def bits() -> str:
    """Of the output and all gradients, in the two types whose kernels depend most on the processor."""
    return _digest(
        test_extension_cpu.results("extension", "blocks", test_extension_cpu.tensors_of("blocks", dtype))
        for dtype in (torch.float32, torch.bfloat16)
    )


def roi_bits() -> str:
    """Likewise of RoI pooling, which has no kernels for bfloat16."""
    tensors = test_roi_extension_cpu.tensors_of(("blocks", "channels_last"), torch.float32)
    case = test_roi_extension_cpu.CASES["blocks"]
    return _digest([test_roi_extension_cpu.results("extension", case, tensors)])


def _digest(results: Iterable[dict[str, torch.Tensor]]) -> str:
    digest = hashlib.sha256()
    for result in results:
        for tensor in result.values():
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _run_operator_tests() -> Outcome:
    folder = Path(__file__).parent
    files = [str(folder / name) for name in FILES]
    status = pytest.main(["-p", "no:cacheprovider", "-k", MEMBERS, *files])
    return Outcome(cpu_capability(), int(status), bits(), roi_bits())


@functools.cache
def outcome(name: str) -> Outcome:
    """Of the operator's tests in a process whose environment names this capability."""
    with (
        mock.patch.dict(os.environ, DCN_CPU_CAPABILITY=name),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        return pool.submit(_run_operator_tests).result(timeout=TIME_LIMIT)


@pytest.mark.parametrize("name", LESSER)
def test_lesser_kernels_pass_the_operators_tests(name):
    assert outcome(name).capability == name
    assert outcome(name).exit_status == 0


@pytest.mark.skipif(
    not LESSER, reason="this processor has one capability, or DCN_CPU_CAPABILITY names the least"
)
def test_each_capability_sums_in_an_order_of_its_own():
    """The same bits would mean that the same kernels ran."""
    assert len({bits(), *(outcome(name).bits for name in LESSER)}) == len(LESSER) + 1
    with_roi_kernels = {*LESSER, HERE} & {"generic", "avx2", "avx512"}
    assert len({roi_bits(), *(outcome(name).roi_bits for name in LESSER)}) == len(with_roi_kernels)


@pytest.mark.skipif(
    not os.path.exists("/proc/cpuinfo"), reason="reads the processor's flags from /proc/cpuinfo"
)
@pytest.mark.skipif("DCN_CPU_CAPABILITY" in os.environ, reason="DCN_CPU_CAPABILITY names another")
def test_the_most_that_the_processor_has_is_in_use():
    flags = set(CPU_INFORMATION.read_text().split("flags", 1)[-1].split("\n", 1)[0].split())
    missing = [level for level, needed in enumerate(FLAGS) if not needed <= flags]
    most = missing[0] if missing else len(FLAGS)
    assert cpu_capability() == NAMES[most if platform.machine() == "x86_64" else 0]


def test_a_name_that_the_processor_does_not_know_is_an_error_of_every_call():
    environment = os.environ | dict(DCN_CPU_CAPABILITY="avx1024")
    run = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True, env=environment)
    expected = ", ".join(NAMES[: NAMES.index(HERE) + 1])
    message = f"DCN_CPU_CAPABILITY names 'avx1024', expected one that this processor has: {expected}"
    assert run.stdout.count(message) == 2, run.stdout + run.stderr
