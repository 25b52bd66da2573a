"""What is compared: a function a peer, all on the same tensors."""

from collections.abc import Callable

import torch
from torch import Tensor

from dcn_backbones.export import onnxruntime_session
from dcn_backbones.ops import available_backends, deform_conv2d, use_backend

from .shapes import Shape

Tensors = dict[str, Tensor]


def make_tensors(
    shape: Shape, batch: int, dtype: torch.dtype, channels_last: bool, device: str = "cpu"
) -> Tensors:
    """Normal input and offsets, a mask in (0, 1), weights that keep the scale. Seeded."""
    generator = torch.Generator(device).manual_seed(0)
    output_size = shape.output_size
    per_group = shape.channels // shape.groups

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    tensors = dict(
        input=normal(batch, shape.channels, *shape.size).to(dtype),
        offset=normal(batch, 18, *output_size),
        weight=(normal(shape.channels, per_group, 3, 3) / (3 * per_group**0.5)).to(dtype),
        mask=normal(batch, 9, *output_size).sigmoid(),
    )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return {name: t.contiguous(memory_format=layout) for name, t in tensors.items()}


def deformable(backend: str, shape: Shape) -> Callable[[Tensors], Tensor]:
    def call(t: Tensors) -> Tensor:
        with use_backend(backend):
            return deform_conv2d(
                t["input"], t["offset"], t["weight"], stride=shape.stride, padding=1, mask=t["mask"]
            )

    return call


def public_function(name: str) -> Callable[[Tensors], Tensor]:
    """What a user calls, by itself: our public function, or torchvision's."""
    import torchvision

    function = torchvision.ops.deform_conv2d if name == "torchvision" else deform_conv2d
    return lambda t: function(t["input"], t["offset"], t["weight"], padding=1, mask=t["mask"])


def torchvision_function(shape: Shape) -> Callable[[Tensors], Tensor]:
    """torchvision's public function, which computes in the type of its tensors."""
    import torchvision

    return lambda t: torchvision.ops.deform_conv2d(
        t["input"], t["offset"], t["weight"], stride=shape.stride, padding=1, mask=t["mask"]
    )


def plain(shape: Shape) -> Callable[[Tensors], Tensor]:
    def call(t: Tensors) -> Tensor:
        return torch.nn.functional.conv2d(
            t["input"], t["weight"], stride=shape.stride, padding=1, groups=shape.groups
        )

    return call


def onnxruntime_peer(shape: Shape, tensors: Tensors, threads: int) -> Callable[[Tensors], Tensor]:
    """ONNX Runtime's DeformConv on contiguous float32; converting the tensors is not timed."""
    import numpy

    session = onnxruntime_session(_onnx_model(shape, tensors).SerializeToString(), threads)
    feed = {name: numpy.ascontiguousarray(t.float().numpy()) for name, t in tensors.items()}
    return lambda _: torch.from_numpy(session.run(None, feed)[0])


def _onnx_model(shape: Shape, tensors: Tensors):
    from onnx import TensorProto, helper

    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(tensors[name].shape))
        for name in ("input", "weight", "offset", "mask")
    ]
    node = helper.make_node(
        "DeformConv",
        ["input", "weight", "offset", "", "mask"],
        ["output"],
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        strides=[shape.stride] * 2,
        group=shape.groups,
    )
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "deform_conv", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def own_backends() -> list[str]:
    """The backends worth timing: the reference is for reading."""
    return [name for name in available_backends() if name not in ("reference", "torchvision")]
