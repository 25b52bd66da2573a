"""OpenVINO: the file needs no rule of ours, and full precision has to be asked for."""

import subprocess
import sys

import pytest
import torch

from dcn_backbones.export import FULL_PRECISION, TOLERANCE, difference, export_file, run_openvino

openvino = pytest.importorskip("openvino", reason="needs the extra `export`")
pytest.importorskip("onnxscript", reason="needs the extra `export`")

# A program that knows nothing of this package.
INFERENCE = """
import sys, numpy, openvino
path, images, output = sys.argv[1:]
core = openvino.Core()
network = core.read_model(path)
print(network.get_rt_info(["model_info", "preprocessing"]).astype(str))
run = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
numpy.save(output, run(numpy.load(images))["logits"])
print("dcn_backbones" in sys.modules or "torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def file(small_network, tmp_path_factory):
    path = tmp_path_factory.mktemp("openvino") / "model.xml"
    export_file(small_network, path)
    return path


def test_the_file_runs_without_this_package(file, small_network, photographs, tmp_path):
    import numpy

    images, output = tmp_path / "images.npy", tmp_path / "logits.npy"
    numpy.save(images, photographs.numpy())
    command = [sys.executable, "-c", INFERENCE, str(file), str(images), str(output)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    preprocessing, imported = result.stdout.splitlines()
    assert '"input_size": [3, 128, 128]' in preprocessing and imported == "False"
    logits = torch.from_numpy(numpy.load(output))
    assert difference(lambda _: logits, small_network, [photographs]) <= TOLERANCE


def test_full_precision_is_what_the_hint_gives(file, small_network, photographs):
    """With the hint taken away, a processor that multiplies bfloat16 does, and this says so."""
    core = openvino.Core()
    types = {
        name: core.compile_model(file, "CPU", properties).get_property("INFERENCE_PRECISION_HINT").to_string()
        for name, properties in (("hint", FULL_PRECISION), ("default", {}))
    }
    assert types["hint"] == "f32"
    if types["default"] != "f32":
        assert difference(run_openvino(file, 1, {}), small_network, [photographs]) > TOLERANCE


def test_without_the_rule_openvino_cannot_read_the_onnx(exported):
    with pytest.raises(Exception, match="DeformConv"):
        core = openvino.Core()
        core.compile_model(core.read_model(exported("dcnv2_resnet18").SerializeToString()), "CPU")
