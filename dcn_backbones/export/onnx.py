"""ONNX: our convolution as the standard's DeformConv, which is the same down to the order of the channels."""

import numpy
import torch
from torch import nn
from torch.export import ExportedProgram

from .program import ImageSize, dynamic_dimensions, exported_program, preprocessing_json
from .roi_pool import ROI_ALIGN, with_plain_pooling

DEFAULT_OPSET = 20
OPSETS = range(19, 23)


def onnx_model(
    model: nn.Module,
    opset: int = DEFAULT_OPSET,
    image_size: ImageSize | None = None,
    dynamic: bool = True,
):
    """A model as an `onnx.ModelProto`: input ``images``, output ``logits`` (``features_0`` and so on).

    Its dynamic dimensions are called ``batch``, ``height`` and ``width``; its property ``preprocessing`` says
    in JSON how images become its input.

    Args:
        model: A timm model in evaluation mode, a classifier or a `features_only` backbone.
        opset: Version of ONNX's operators, 19 to 22.
        image_size: Pixels, one number or ``(height, width)``; by default what the model evaluates at.
        dynamic: Any batch of images of any size. Otherwise one image of exactly this size.

    Raises:
        ValueError: When the opset is another, the model is in training mode or the size too small.
        ImportError: When onnx or onnxscript is not installed.
    """
    check_opset(opset)
    _check_installed()
    program = exported_program(model, image_size, dynamic)
    outputs = len(program.graph_signature.user_outputs)
    proto = onnx_program(
        program,
        opset,
        input_names=["images"],
        output_names=["logits"] if outputs == 1 else [f"features_{index}" for index in range(outputs)],
        dynamic_shapes=(dynamic_dimensions("batch", "height", "width"),) if dynamic else None,
    )
    proto.metadata_props.add(key="preprocessing", value=preprocessing_json(model))
    return proto


def onnx_program(
    program: ExportedProgram,
    opset: int = DEFAULT_OPSET,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
    dynamic_shapes: object = None,
):
    """What `torch.export` captured of any module with layers of this package, as an `onnx.ModelProto`.

    Deformable convolutions become the standard's DeformConv, RoI pooling its RoiAlign.

    Args:
        program: From `torch.export.export`, of a module in evaluation mode.
        opset: Version of ONNX's operators, 19 to 22.
        input_names: Names of the model's inputs, in order; by default the program's.
        output_names: Names of its outputs.
        dynamic_shapes: As for `torch.export.export`, with names for the dimensions: ``({0: "regions"},)``.

    Raises:
        ValueError: When the opset is another, or RoI pooling with offsets has no positive `sampling_ratio`.
        ImportError: When onnx or onnxscript is not installed.
    """
    check_opset(opset)
    _check_installed()
    exported = torch.onnx.export(
        with_plain_pooling(program),
        opset_version=opset,
        input_names=input_names,
        output_names=output_names,
        dynamic_shapes=dynamic_shapes,
        custom_translation_table={torch.ops.dcn_backbones.deform_conv2d.default: _deform_conv, **ROI_ALIGN},
        verbose=False,
    )
    proto = exported.model_proto
    _drop_traces(proto.graph)
    return proto


def check_opset(opset: int) -> None:
    """Raise ValueError for an opset that has no DeformConv, or one that is not tested."""
    if opset < OPSETS[0]:
        raise ValueError(
            f"ONNX has DeformConv from opset {OPSETS[0]} on, and torch would write an invalid model for "
            f"opset {opset} without a word; expected {OPSETS[0]} to {OPSETS[-1]}."
        )
    if opset not in OPSETS:
        raise ValueError(f"opset {opset} has not been tested; expected {OPSETS[0]} to {OPSETS[-1]}.")


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "export to ONNX needs onnx and onnxscript: pip install 'dcn_backbones[export]'."
        ) from error


def _deform_conv(input, offset, weight, bias, mask, stride, padding, dilation, backend):
    """The rule for our operator, on onnxscript's symbolic tensors."""
    from onnxscript import opset20

    if bias is None:
        bias = _zero_bias(opset20, weight)
    operands = [input, weight, bias]
    if input.dtype != offset.dtype:  # half input, positions in float32: DeformConv takes one type
        operands = [opset20.CastLike(operand, offset) for operand in operands]
    output = opset20.DeformConv(
        *operands[:2],
        offset,
        operands[2],
        mask,
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        group=input.shape[1] // weight.shape[1],
        offset_group=offset.shape[1] // (2 * weight.shape[2] * weight.shape[3]),
        kernel_shape=list(weight.shape[2:]),
    )
    return output if input.dtype == offset.dtype else opset20.CastLike(output, input)


def _zero_bias(operators, weight):
    """Optional in ONNX, but TensorRT's parser reads the bias of every DeformConv that has a mask."""
    import onnx_ir

    zeros = numpy.zeros(weight.shape[0], dtype=weight.dtype.numpy())
    return operators.Constant(value=onnx_ir.tensor(zeros))


def _drop_traces(graph) -> None:
    """Remove what torch notes about every node and value: it holds paths of this machine."""
    for part in (*graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output, graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
