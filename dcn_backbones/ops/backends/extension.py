"""The compiled extension: C++ on the CPU."""

import torch
from torch import Tensor

from .base import Backend, Gradients, accumulate_type

_library = torch.library.Library("dcn_backbones", "FRAGMENT")
_library.define(
    "_deform_conv2d_forward(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, "
    "int[2] stride, int[2] padding, int[2] dilation) -> Tensor"
)
_library.define(
    "_deform_conv2d_backward(Tensor grad_output, Tensor input, Tensor offset, Tensor weight, Tensor? mask, "
    "int[2] stride, int[2] padding, int[2] dilation, bool[4] needs) -> (Tensor, Tensor, Tensor, Tensor)"
)

# Imported after the schemas are defined, since importing registers the kernels behind them.
try:
    import dcn_backbones._C  # noqa: F401

    _import_error = None
except ImportError as error:
    _import_error = error


class ExtensionBackend(Backend):
    """Kernels for channels-last tensors; a contiguous input is converted once a call."""

    name = "extension"
    devices = frozenset({"cpu"})

    def unavailable_reasons(self) -> list[str]:
        if _import_error is None:
            return []
        return [f"the compiled library dcn_backbones._C does not import ({_import_error})"]

    def forward(self, input, offset, weight, bias, mask, stride, padding, dilation) -> Tensor:
        return torch.ops.dcn_backbones._deform_conv2d_forward(
            input.contiguous(memory_format=torch.channels_last),
            _position(offset, input),
            weight,
            bias,
            None if mask is None else _position(mask, input),
            stride,
            padding,
            dilation,
        )

    def backward(
        self, grad_output, input, offset, weight, mask, stride, padding, dilation, needs
    ) -> Gradients:
        return torch.ops.dcn_backbones._deform_conv2d_backward(
            grad_output.contiguous(memory_format=torch.channels_last),
            input.contiguous(memory_format=torch.channels_last),
            _position(offset, input),
            weight,
            None if mask is None else _position(mask, input),
            stride,
            padding,
            dilation,
            needs,
        )


def _position(tensor: Tensor, input: Tensor) -> Tensor:
    """Offsets and mask in the type that positions are computed in."""
    return tensor.to(accumulate_type(input.dtype))
