"""Builds the compiled extensions; everything else about the package is in pyproject.toml.

Without a working C++ compiler, or without torch, the package installs as pure Python and the build says so.
The CUDA kernels are a library of their own, built where nvcc and a torch for CUDA are; without them, or with
`DCN_CUDA=0`, everything else is built and the build says why. `TORCH_CUDA_ARCH_LIST` chooses what they are
compiled for: by default every architecture, with `native` that of the GPUs here.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel

ROOT = Path(__file__).parent
# One binary for every torch from 2.11 on: nothing newer of torch's stable ABI may be used.
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"
COMPILE_FLAGS = [
    TORCH_TARGET,
    "-O3",
    "-g0",
    "-std=c++20",
    "-Wall",
    "-fvisibility=hidden",
    "-fopenmp-simd",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
]
# Machine code runs on every later minor version, and PTX is compiled by the driver of a later major one.
CUDA_ARCHITECTURES = ["7.5", "8.0", "9.0", "10.0"]
CUDA_ARCHITECTURE_WITHOUT_GPU = "9.0"  # of `native` where there is none, to compile quickly
NVCC_FLAGS = ["-O3", "-std=c++20", "-Xcompiler=-fvisibility=hidden"]
# For `make sanitize`; a violation ends the process.
SANITIZERS = (
    ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"] if "DCN_SANITIZE" in os.environ else []
)


def files(*patterns: str) -> list[str]:
    """Paths below csrc/ that match, relative to the project as setuptools wants them."""
    found = (path for pattern in patterns for path in (ROOT / "csrc").glob(pattern))
    return sorted(str(path.relative_to(ROOT)) for path in found)


def cpu_extension():
    from torch.utils.cpp_extension import CppExtension

    return CppExtension(
        "dcn_backbones._C",
        files("*.cpp", "cpu/*.cpp"),
        depends=files("*.h", "cpu/*.h", "cpu/*.inc"),
        extra_compile_args={"cxx": COMPILE_FLAGS + SANITIZERS},
        extra_link_args=SANITIZERS,
        py_limited_api=True,
    )


def cuda_extension():
    from torch.utils.cpp_extension import CUDAExtension

    choose_cuda_architectures()
    return CUDAExtension(
        "dcn_backbones._CUDA",
        files("cuda/*.cpp", "cuda/*.cu"),
        depends=files("*.h", "cuda/*.h", "cuda/*.cuh"),
        extra_compile_args={"cxx": [*COMPILE_FLAGS, "-DUSE_CUDA"], "nvcc": NVCC_FLAGS},
        py_limited_api=True,
    )


def find_cuda() -> None:
    """Set `CUDA_HOME` to where nvcc really is: torch takes the folder above it, which a wrapper's is not."""
    nvcc = shutil.which("nvcc")
    if nvcc and "CUDA_HOME" not in os.environ:
        plan = subprocess.run([nvcc, "--dryrun", "-c", "any.cu"], capture_output=True, text=True).stderr
        top = re.search(r"TOP=(.+)", plan)
        if top:
            os.environ["CUDA_HOME"] = os.path.realpath(top.group(1))


def choose_cuda_architectures() -> None:
    """Complete `TORCH_CUDA_ARCH_LIST`, which torch reads while it builds."""
    import torch

    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST") or ";".join(known_architectures()) + "+PTX"
    if wanted == "native" and not torch.cuda.is_available():
        wanted = CUDA_ARCHITECTURE_WITHOUT_GPU
    os.environ["TORCH_CUDA_ARCH_LIST"] = wanted


def known_architectures() -> list[str]:
    """Those of `CUDA_ARCHITECTURES` that this nvcc knows: 10.0 is new in CUDA 12.8."""
    listed = subprocess.run([nvcc(), "--list-gpu-arch"], capture_output=True, text=True).stdout.split()
    return [name for name in CUDA_ARCHITECTURES if f"compute_{name.replace('.', '')}" in listed]


def nvcc() -> Path:
    from torch.utils.cpp_extension import CUDA_HOME

    return Path(CUDA_HOME or "", "bin", "nvcc")


def no_cuda_reason() -> str | None:
    """Why the CUDA kernels cannot be built; None when they can."""
    import torch

    if os.environ.get("DCN_CUDA") == "0":
        return "DCN_CUDA is 0"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not nvcc().exists():
        return "nvcc is not found, expected on the PATH or below CUDA_HOME"
    answer = subprocess.run([nvcc(), "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release ([\d.]+)", answer)
    if release is None:
        return f"{nvcc()} --version names no release"
    if release[1].split(".")[0] != torch.version.cuda.split(".")[0]:
        return f"nvcc is of CUDA {release[1]}, torch of CUDA {torch.version.cuda}, expected one major version"
    return None


def extensions() -> list:
    reason = no_cuda_reason()
    if reason:
        say_without_cuda(reason)
    return [cpu_extension()] if reason else [cpu_extension(), cuda_extension()]


def optional_build_ext() -> type:
    """torch's build_ext, with a failure turned into a package without CUDA kernels, then without any."""
    from torch.utils.cpp_extension import BuildExtension

    class OptionalBuildExtension(BuildExtension):
        def run(self) -> None:
            compiler = self.compiler
            try:
                super().run()
            except Exception as error:  # compilers fail in many ways, none of which may stop the install
                self.compiler = compiler
                if len(self.extensions) > 1:
                    say_without_cuda(f"compiling them failed: {error}")
                    self.extensions = self.distribution.ext_modules = self.extensions[:1]
                    self.run()
                else:
                    say_pure_python(f"compiling it failed: {error}")
                    self.extensions = self.distribution.ext_modules = []

    return OptionalBuildExtension


class Wheel(bdist_wheel):
    """abi3 with the extension inside, a pure-Python tag without it."""

    def get_tag(self) -> tuple[str, str, str]:
        return super().get_tag() if self.distribution.ext_modules else ("py3", "none", "any")


def say_pure_python(reason: str) -> None:
    print(
        "dcn_backbones is being installed as pure Python, without its compiled extension, "
        f"so deformable convolution will be slow ({reason}).",
        file=sys.stderr,
    )


def say_without_cuda(reason: str) -> None:
    print(
        "dcn_backbones is being installed without its CUDA kernels, so deformable convolution will be slow "
        f"on NVIDIA GPUs ({reason}).",
        file=sys.stderr,
    )


def build_arguments() -> dict:
    find_cuda()
    try:
        commands = {"build_ext": optional_build_ext()}
        modules = extensions()
    except ImportError as error:
        say_pure_python(f"torch is needed to build it: {error}")
        return {}
    return {"ext_modules": modules, "cmdclass": commands}


arguments = build_arguments()
arguments.setdefault("cmdclass", {})["bdist_wheel"] = Wheel
setup(options={"bdist_wheel": {"py_limited_api": "cp311"}}, **arguments)
