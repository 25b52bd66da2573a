"""The kernels compile for ARM, and with another compiler: `make portability` also runs what that one builds.

The compilers are Debian's packages `g++-aarch64-linux-gnu` and `clang`.
"""

import functools
import shutil
import subprocess
from distutils.core import run_setup
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNELS = sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))


@functools.cache
def command() -> list[str]:
    """The compiler's arguments, as setup.py has them."""
    extension = run_setup(str(ROOT / "setup.py"), stop_after="init").ext_modules[0]
    folders = [argument for folder in extension.include_dirs for argument in ("-isystem", folder)]
    return [*folders, *extension.extra_compile_args["cxx"], "-c"]


@pytest.mark.parametrize("compiler", ["aarch64-linux-gnu-g++", "clang++"])
@pytest.mark.parametrize("source", KERNELS, ids=lambda path: path.name)
def test_kernels_compile(compiler, source, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    output = tmp_path / "kernels.o"
    run = subprocess.run(
        [compiler, *command(), str(source), "-o", str(output)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert output.stat().st_size > 0
