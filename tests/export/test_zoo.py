"""Every model of the zoo computes in ONNX Runtime and in OpenVINO what it computes in PyTorch."""

from copy import deepcopy

import pytest
import torch

from dcn_backbones.export import TOLERANCE, difference, run_onnxruntime, run_openvino
from dcn_backbones.export.openvino import read_onnx

pytest.importorskip("onnxscript", reason="needs the extra `export`")


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request):
    pytest.importorskip(request.param, reason="needs the extra `export`")
    if request.param == "onnxruntime":
        return lambda proto: run_onnxruntime(proto.SerializeToString(), threads=1)
    return lambda proto: run_openvino(read_onnx(proto), threads=1)


def test_logits_on_photographs(model_name, runtime, network, exported, image_batches):
    model = network(model_name)
    assert model(image_batches[0]).std(0).mean() > 0.1  # the photographs tell the logits apart
    assert difference(runtime(exported(model_name)), model, image_batches) <= TOLERANCE


@pytest.mark.parametrize("name", ["dcnv1_resnet18", "dcnv2_resnet18"])
def test_small_changes_of_offsets_and_masks_are_seen(name, runtime, network, exported, image_batches):
    """What is compared has to depend on all that the deformable layers add."""
    run = runtime(exported(name))
    for channels in (slice(0, 18, 2), slice(1, 18, 2), slice(18, None)):  # y, x, masks
        changed = deepcopy(network(name))
        bias = changed.layer4[0].conv1.conv_offset.bias
        with torch.no_grad():
            bias[channels] += 0.1
        if bias[channels].numel():
            assert difference(run, changed, image_batches) > 2 * TOLERANCE
