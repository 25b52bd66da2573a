"""Builds the compiled extension; everything else about the package is in pyproject.toml.

Without a working C++ compiler, or without torch, the package installs as pure Python and the build says so.
"""

import os
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


def optional_build_ext() -> type:
    """torch's build_ext, with a failure turned into a package without extensions."""
    from torch.utils.cpp_extension import BuildExtension

    class OptionalBuildExtension(BuildExtension):
        def run(self) -> None:
            try:
                super().run()
            except Exception as error:  # compilers fail in many ways, none of which may stop the install
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


def build_arguments() -> dict:
    try:
        commands = {"build_ext": optional_build_ext()}
        extensions = [cpu_extension()]
    except ImportError as error:
        say_pure_python(f"torch is needed to build it: {error}")
        return {}
    return {"ext_modules": extensions, "cmdclass": commands}


arguments = build_arguments()
arguments.setdefault("cmdclass", {})["bdist_wheel"] = Wheel
setup(options={"bdist_wheel": {"py_limited_api": "cp311"}}, **arguments)
