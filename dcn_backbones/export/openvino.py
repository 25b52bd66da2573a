"""OpenVINO: its reader of ONNX has no rule for DeformConv, so that this one brings it along."""

from torch import nn

from .onnx import onnx_model
from .program import ImageSize, preprocessing_json

# Compile with these: where the processor multiplies bfloat16, OpenVINO's default is to use it.
FULL_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


def openvino_model(model: nn.Module, image_size: ImageSize | None = None, dynamic: bool = True):
    """A model as an `openvino.Model`, by way of ONNX.

    Compile it with `FULL_PRECISION`; saved, it is OpenVINO's own format, which needs no rule any more.
    Arguments and names are `onnx_model`'s.

    Raises:
        ValueError: When the model is in training mode or the size too small.
        ImportError: When openvino, onnx or onnxscript is not installed.
    """
    _core()  # says what is missing before the export takes its time
    converted = read_onnx(onnx_model(model, image_size=image_size, dynamic=dynamic))
    converted.set_rt_info(preprocessing_json(model), ["model_info", "preprocessing"])
    return converted


def read_onnx(model):
    """An `onnx.ModelProto` with deformable convolutions as an `openvino.Model`."""
    core = _core()
    core.add_extension(deform_conv_extension())
    # Not openvino.convert_model: that reports its use to Intel over the network.
    return core.read_model(model.SerializeToString())


def deform_conv_extension():
    """The rule for ONNX's DeformConv: `openvino.Core().add_extension` takes it before `read_model`.

    Raises:
        ImportError: When openvino is not installed.
    """
    _core()
    from openvino.frontend.onnx import ConversionExtension

    return ConversionExtension("DeformConv", _deformable_convolution)


def _core():
    try:
        import openvino
    except ImportError as error:
        raise ImportError(
            "export to OpenVINO needs openvino: pip install 'dcn_backbones[export]'."
        ) from error
    return openvino.Core()


def _deformable_convolution(node):
    from openvino import opset8, opset13

    input, weight, offset, *rest = (node.get_input(index) for index in range(node.get_input_size()))
    padding = node.get_attribute("pads", [0, 0, 0, 0])
    output = opset8.deformable_convolution(
        input,
        offset,
        weight,
        node.get_attribute("strides", [1, 1]),
        padding[:2],
        padding[2:],
        node.get_attribute("dilations", [1, 1]),
        *rest[1:],  # the mask, where there is one
        group=node.get_attribute("group", 1),
        deformable_group=node.get_attribute("offset_group", 1),
        bilinear_interpolation_pad=True,  # samples within a pixel of the border count, as in ONNX
    )
    if not rest:
        return output.outputs()
    bias = opset13.reshape(rest[0], [1, -1, 1, 1], special_zero=False)
    return opset13.add(output, bias).outputs()
