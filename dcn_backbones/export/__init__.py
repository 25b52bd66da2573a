"""The models outside of plain PyTorch: torch.export, ONNX and OpenVINO, and what runs there."""

from .files import FORMATS, export_file
from .onnx import DEFAULT_OPSET, OPSETS, onnx_model, onnx_program
from .openvino import FULL_PRECISION, deform_conv_extension, openvino_model
from .program import exported_program
from .runtimes import TOLERANCE, difference, load_exported, onnxruntime_session, run_onnxruntime, run_openvino

__all__ = [
    "DEFAULT_OPSET",
    "FORMATS",
    "FULL_PRECISION",
    "OPSETS",
    "TOLERANCE",
    "deform_conv_extension",
    "difference",
    "export_file",
    "exported_program",
    "load_exported",
    "onnx_model",
    "onnx_program",
    "onnxruntime_session",
    "openvino_model",
    "run_onnxruntime",
    "run_openvino",
]
