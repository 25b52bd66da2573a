"""The wheel: its tag, its contents, its life outside the checkout, and the build without a compiler."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("LICENSE", "MANIFEST.in", "README.md", "csrc", "dcn_backbones", "pyproject.toml", "setup.py")

CLASSIFY = """
import pathlib, sys, timm, torch
import dcn_backbones
from dcn_backbones.ops import available_backends
assert pathlib.Path(dcn_backbones.__file__).is_relative_to(sys.argv[1]), dcn_backbones.__file__
assert "extension" in available_backends(), available_backends()
model = timm.create_model("dcnv2_resnet18", pretrained=True).eval()
image = torch.linspace(-2, 2, 3 * 64 * 64).reshape(1, 3, 64, 64)
logits = model(image)
assert logits.shape == (1, model.num_classes) and logits.isfinite().all()
assert logits.std() > 0.1, "the weights look untrained"
"""

CONVOLVE = """
import pathlib, sys, torch
import dcn_backbones
from dcn_backbones.ops import available_backends, deform_conv2d
assert pathlib.Path(dcn_backbones.__file__).is_relative_to(sys.argv[1]), dcn_backbones.__file__
assert available_backends()[0] == "reference", available_backends()
output = deform_conv2d(torch.ones(1, 1, 4, 4), torch.zeros(1, 2, 4, 4), torch.full((1, 1, 1, 1), 2.0))
assert (output == 2).all()
"""


def build_wheel(folder: Path, **environment: str) -> tuple[Path, str]:
    """A wheel of a copy of the checkout, so that nothing built before is inside; and what pip printed."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(path, source)
    command = ["wheel", "-v", "--no-build-isolation", "--no-deps", "--wheel-dir", str(folder), str(source)]
    output = pip(*command, **environment)
    (wheel,) = folder.glob("*.whl")
    return wheel, output


def pip(*arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "pip", *arguments]
    variables = {**os.environ, "TORCH_CUDA_ARCH_LIST": "native", **environment}
    result = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def run_outside_the_checkout(wheel: Path, script: str, folder: Path) -> None:
    """`script` in an environment that has the wheel and this one's dependencies, but no Hub and no cache."""
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    (site,) = environment.glob("lib/python*/site-packages")
    # A folder named in a .pth file has its own .pth files ignored: an editable install stays invisible.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip("--python", str(python), "install", "--quiet", "--no-deps", str(wheel))
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DCN_"))}
    result = subprocess.run(
        [python, "-c", script, str(site)],
        env={**variables, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "empty")},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("needs a C++ compiler")
    return build_wheel(tmp_path_factory.mktemp("wheel"))[0]


def test_the_wheel_serves_every_python_from_3_11(wheel):
    assert "-cp311-abi3-" in wheel.name


def test_the_wheel_holds_the_library_the_weights_and_nothing_else_of_the_checkout(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "dcn_backbones/_C.abi3.so" in names
    assert ("dcn_backbones/_CUDA.abi3.so" in names) == (
        torch.version.cuda is not None and shutil.which("nvcc") is not None
    )
    assert any(name.startswith("dcn_backbones/weights/") and name.endswith(".safetensors") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dcn_backbones"}


def fake_cuda(folder: Path, release: str | None) -> str:
    """A CUDA_HOME whose nvcc says what release it is of, when given one, and can do nothing else."""
    nvcc = folder / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    answer = f'[ "$1" = --version ] && echo release {release}, V1' if release else "exit 1"
    nvcc.write_text(f"#!/bin/sh\n{answer}\n")
    nvcc.chmod(0o755)
    return str(folder / "cuda")


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a torch for CUDA")
def test_without_a_working_nvcc_the_wheel_has_the_cpu_library_and_the_build_says_so(tmp_path):
    wheel, output = build_wheel(tmp_path, CUDA_HOME=fake_cuda(tmp_path, torch.version.cuda))
    assert "being installed without its CUDA kernels" in output and "compiling them failed" in output
    names = zipfile.ZipFile(wheel).namelist()
    assert "dcn_backbones/_C.abi3.so" in names and "dcn_backbones/_CUDA.abi3.so" not in names


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a torch for CUDA")
@pytest.mark.parametrize(
    ("release", "words"), [("5.5", "nvcc is of CUDA 5.5, torch of CUDA"), (None, "names no release")]
)
def test_an_nvcc_that_does_not_fit_torch_is_left_alone(tmp_path, release, words):
    command = [sys.executable, "setup.py", "--version"]
    variables = os.environ | dict(CUDA_HOME=fake_cuda(tmp_path, release))
    result = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "without its CUDA kernels" in result.stderr and words in result.stderr


def test_the_installed_wheel_classifies_offline(wheel, tmp_path):
    run_outside_the_checkout(wheel, CLASSIFY, tmp_path)


def test_without_a_compiler_a_pure_python_wheel_works_and_the_build_says_so(tmp_path):
    wheel, output = build_wheel(tmp_path, CC="/bin/false", CXX="/bin/false")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert output.count("being installed as pure Python, without its compiled extension") >= 1
    assert "dcn_backbones/_C.abi3.so" not in zipfile.ZipFile(wheel).namelist()
    run_outside_the_checkout(wheel, CONVOLVE, tmp_path)
