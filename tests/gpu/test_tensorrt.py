"""TensorRT by ONNX, through ONNX Runtime: the command that the documentation gives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import skimage
import torch

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime-gpu")
pytest.importorskip("onnxscript", reason="needs the extra `export`")

PHOTOGRAPH = str(Path(skimage.__file__).parent / "data" / "chelsea.png")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("provider", ["TensorrtExecutionProvider", "CUDAExecutionProvider"])
def test_an_exported_file_is_right_on_the_gpu(provider, tmp_path):
    if provider not in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no {provider}")
    command = [
        sys.executable,
        "-m",
        "dcn_backbones.export",
        "dcnv2_resnet18",
        "--output",
        str(tmp_path / "m.onnx"),
    ]
    command += ["--check", PHOTOGRAPH, "--provider", provider]
    full_precision = os.environ | {"NVIDIA_TF32_OVERRIDE": "0"}
    result = subprocess.run(
        command, capture_output=True, text=True, env=full_precision, cwd=Path(__file__).parents[2]
    )
    assert result.returncode == 0 and "pass" in result.stdout, result.stdout + result.stderr
