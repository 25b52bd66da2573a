"""What is in an ONNX model: valid operators, dynamic dimensions, names, and nothing of this machine."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from dcn_backbones.export import OPSETS, TOLERANCE, difference, onnx_model, run_onnxruntime
from dcn_backbones.export import onnx as export_to_onnx
from dcn_backbones.layers import DeformConv2d, ModulatedDeformConv2d

from ..layers.geometries import GEOMETRIES
from .conftest import scatter_offsets

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
pytest.importorskip("onnxscript", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")


def make_layer(layer_class: type[DeformConv2d], geometry: str) -> nn.Module:
    """One deformable layer behind a plain one."""
    layer = layer_class(6, 4, **GEOMETRIES[geometry])
    scatter_offsets(layer)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return nn.Sequential(nn.Conv2d(3, 6, 1), layer).eval()


def dimensions(value) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_is_valid_and_right(opset, small_network, image_batches):
    proto = onnx_model(small_network, opset, image_size=64)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset)]
    onnx.checker.check_model(proto, full_check=True)
    assert (
        difference(run_onnxruntime(proto.SerializeToString(), 1), small_network, image_batches) <= TOLERANCE
    )


@pytest.mark.parametrize(
    "opset, reason", [(18, "an invalid model for opset 18 without a word"), (23, "not been")]
)
def test_other_opsets_are_refused(opset, reason, small_network):
    with pytest.raises(ValueError, match=f"{reason}.*expected 19 to 22"):
        onnx_model(small_network, opset)


def test_what_the_refusal_says_of_opset_18_is_so(monkeypatch):
    monkeypatch.setattr(export_to_onnx, "check_opset", lambda opset: None)
    proto = onnx_model(make_layer(DeformConv2d, "strided"), 18, image_size=40)
    with pytest.raises(onnx.checker.ValidationError, match="No Op registered for DeformConv"):
        onnx.checker.check_model(proto)


@pytest.mark.parametrize("layer_class", [DeformConv2d, ModulatedDeformConv2d])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_geometry_in_every_runtime(layer_class, geometry, photographs):
    model = make_layer(layer_class, geometry)
    proto = onnx_model(model, image_size=40)
    for run in (run_onnxruntime(proto.SerializeToString(), 1), *_openvino(proto)):
        assert difference(run, model, [photographs, photographs[:1, :, :41, :50]]) <= TOLERANCE


def _openvino(proto) -> list[Callable]:
    try:
        import openvino  # noqa: F401
    except ImportError:
        return []
    from dcn_backbones.export import run_openvino
    from dcn_backbones.export.openvino import read_onnx

    return [run_openvino(read_onnx(proto), 1)]


def test_half_keeps_positions_in_float32(photographs):
    half = make_layer(ModulatedDeformConv2d, "strided").half()
    proto = onnx_model(half, image_size=40)
    run = run_onnxruntime(proto.SerializeToString(), 1)
    output, expected = run(photographs.half()), half(photographs.half()).detach()
    assert output.dtype == torch.float16
    assert (output - expected).abs().max() < 5e-3 * expected.abs().max()
    kinds = [node.op_type for node in proto.graph.node]
    # Offsets and mask are cast before they are split; after that the input, and last the output.
    assert kinds == ["Conv", "Conv", "Cast", "Split", "Sigmoid", "Cast", "DeformConv", "Cast"]


def test_names_and_dynamic_dimensions(exported):
    graph = exported("dcnv2_resnet18").graph
    assert [(value.name, dimensions(value)) for value in graph.input] == [
        ("images", ["batch", 3, "height", "width"])
    ]
    assert [(value.name, dimensions(value)) for value in graph.output] == [("logits", ["batch", 1000])]


def test_fixed(small_network):
    graph = onnx_model(small_network, image_size=(64, 96), dynamic=False).graph
    assert dimensions(graph.input[0]) == [1, 3, 64, 96] and dimensions(graph.output[0]) == [1, 100]


def test_a_backbone_gives_its_feature_maps(photographs):
    backbone = timm.create_model(
        "dcnv2_resnet18", layers=(1, 1, 1, 1), features_only=True, out_indices=(2, 3, 4)
    )
    proto = onnx_model(backbone.eval(), image_size=64)
    assert [value.name for value in proto.graph.output] == ["features_0", "features_1", "features_2"]
    assert difference(run_onnxruntime(proto.SerializeToString(), 1), backbone, [photographs]) <= TOLERANCE


def test_the_preprocessing_travels_along(exported):
    (entry,) = exported("dcnv1_resnet50").metadata_props
    preprocessing = json.loads(entry.value)
    assert entry.key == "preprocessing" and preprocessing["mean"] == [0.485, 0.456, 0.406]
    assert preprocessing["input_size"] == [3, 288, 288]


def test_no_path_of_this_machine_is_in_the_file(exported):
    contents = exported("dcnv2_resnet18").SerializeToString()
    assert str(Path(torch.__file__).parents[1]).encode() not in contents
    assert str(Path(__file__).parents[2]).encode() not in contents


def test_every_layer_has_a_bias(exported):
    """TensorRT's parser takes no missing one."""
    nodes = [node for node in exported("dcnv2_resnet18").graph.node if node.op_type == "DeformConv"]
    assert len(nodes) == 12 and all(len(node.input) == 5 and all(node.input) for node in nodes)
