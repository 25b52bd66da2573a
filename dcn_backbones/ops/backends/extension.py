"""The compiled extension: C++ on the CPU, CUDA on NVIDIA GPUs; one library each."""

import torch
from torch import Tensor

from .base import ROI_POOL_SCHEMA, Backend, Gradients, Request
from .cuda_kernels import CudaKernels

_library = torch.library.Library("dcn_backbones", "FRAGMENT")
_library.define(
    "_deform_conv2d_forward(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, "
    "int[2] stride, int[2] padding, int[2] dilation) -> Tensor"
)
_library.define(
    "_deform_conv2d_backward(Tensor grad_output, Tensor input, Tensor offset, Tensor weight, Tensor? mask, "
    "int[2] stride, int[2] padding, int[2] dilation, bool[4] needs) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(f"_deform_roi_pool_forward({ROI_POOL_SCHEMA}) -> Tensor")
_library.define(
    f"_deform_roi_pool_backward(Tensor grad_output, {ROI_POOL_SCHEMA}, bool[3] needs) "
    "-> (Tensor, Tensor, Tensor)"
)

# Imported after the schemas are defined, since importing registers the kernels behind them.
try:
    import dcn_backbones._C

    _import_error = None
except ImportError as error:
    _import_error = error


def cpu_capability() -> str:
    """The instruction sets that the CPU kernels use: generic, avx2, avx512, avx512_bf16 or amx.

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

    def __init__(self) -> None:
        self._cuda = CudaKernels()
        self.devices = frozenset(device for device, why in self._reasons_by_device().items() if not why)

    def operators_on(self, device: str) -> frozenset[str]:
        return self._cuda.operators if device == "cuda" else self.operators

    def unavailable_reasons(self) -> list[str]:
        reasons = self._reasons_by_device()
        return sum(reasons.values(), []) if all(reasons.values()) else []

    def missing_parts(self) -> list[str]:
        reasons = self._reasons_by_device()
        return [f"not on {device}: {' and '.join(why)}" for device, why in reasons.items() if why]

    def not_supported_reasons(self, request: Request) -> list[str]:
        missing = self.unavailable_reasons() or self._reasons_by_device().get(request.device, [])
        return missing or super().not_supported_reasons(request)

    def _reasons_by_device(self) -> dict[str, list[str]]:
        cpu = f"the compiled library dcn_backbones._C does not import ({_import_error})"
        return {"cpu": [cpu] if _import_error else [], "cuda": self._cuda.unavailable_reasons()}

    def deform_conv2d_forward(self, input, offset, weight, bias, mask, stride, padding, dilation) -> Tensor:
        if input.is_cuda:
            return self._cuda.deform_conv2d_forward(
                input, offset, weight, bias, mask, stride, padding, dilation
            )
        return torch.ops.dcn_backbones._deform_conv2d_forward(
            input, offset, weight, bias, mask, stride, padding, dilation
        )

    def deform_conv2d_backward(
        self, grad_output, input, offset, weight, mask, stride, padding, dilation, needs
    ) -> Gradients:
        if input.is_cuda:
            return self._cuda.deform_conv2d_backward(
                grad_output, input, offset, weight, mask, stride, padding, dilation, needs
            )
        return torch.ops.dcn_backbones._deform_conv2d_backward(
            grad_output, input, offset, weight, mask, stride, padding, dilation, needs
        )

    def deform_roi_pool_forward(self, input, *arguments) -> Tensor:
        if input.is_cuda:
            return self._cuda.deform_roi_pool_forward(input, *arguments)
        return torch.ops.dcn_backbones._deform_roi_pool_forward(input, *arguments)

    def deform_roi_pool_backward(self, grad_output, input, *arguments) -> Gradients:
        if input.is_cuda:
            return self._cuda.deform_roi_pool_backward(grad_output, input, *arguments)
        return torch.ops.dcn_backbones._deform_roi_pool_backward(grad_output, input, *arguments)
