"""The compiled extension: C++ on the CPU."""

import torch
from torch import Tensor

from .base import Backend, Gradients

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
    import dcn_backbones._C

    _import_error = None
except ImportError as error:
    _import_error = error


def cpu_capability() -> str:
    """The instruction sets that the CPU kernels use: generic, avx2, avx512 or avx512_bf16.

    The most that the processor has, or what the environment variable `DCN_CPU_CAPABILITY` named at first use.

    Raises:
        RuntimeError: the variable names none that the processor has, which every call then says too.
        ImportError: the library is not there.
    """
    if _import_error is not None:
        raise _import_error
    return dcn_backbones._C.cpu_capability()


class ExtensionBackend(Backend):
    """Kernels for channels-last tensors; a contiguous input is converted a few images at a time."""

    name = "extension"
    devices = frozenset({"cpu"})

    def unavailable_reasons(self) -> list[str]:
        if _import_error is None:
            return []
        return [f"the compiled library dcn_backbones._C does not import ({_import_error})"]

    def forward(self, input, offset, weight, bias, mask, stride, padding, dilation) -> Tensor:
        return torch.ops.dcn_backbones._deform_conv2d_forward(
            input, offset, weight, bias, mask, stride, padding, dilation
        )

    def backward(
        self, grad_output, input, offset, weight, mask, stride, padding, dilation, needs
    ) -> Gradients:
        return torch.ops.dcn_backbones._deform_conv2d_backward(
            grad_output, input, offset, weight, mask, stride, padding, dilation, needs
        )
