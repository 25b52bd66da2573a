"""The compiled extension on NVIDIA GPUs: a fused forward, and kernels for `blocked` and `dense_roi_pool`."""

import torch
from torch import Tensor

from .base import OPERATORS, ROI_POOL_SCHEMA
from .blocked import BlockedBackend
from .blocks import Geometry, Operands
from .dense_roi_pool import DenseRoiPool

_SETTINGS = "int[2] kernel, int[2] stride, int[2] padding, int[2] dilation"

_library = torch.library.Library("dcn_backbones", "FRAGMENT")
_library.define(
    f"_gather(Tensor input, Tensor offset, Tensor? mask, {_SETTINGS}, int first, Tensor(a!) columns) -> ()"
)
_library.define(
    f"_gather_backward(Tensor grad_columns, Tensor input, Tensor offset, Tensor? mask, {_SETTINGS}, "
    "int first, Tensor(a!)? columns, Tensor(b!)? grad_offset, Tensor(c!)? grad_mask, Tensor(d!)? grad_input, "
    "Tensor? scale) -> ()"
)
_library.define(
    "_fused_forward(Tensor input, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, int[2] stride, "
    "int[2] padding, int[2] dilation, Tensor(a!) output) -> bool"
)
_library.define(f"_roi_pool({ROI_POOL_SCHEMA}, Tensor(a!) output) -> ()")
_library.define(
    f"_roi_pool_backward(Tensor grad_output, {ROI_POOL_SCHEMA}, Tensor(a!)? grad_input, "
    "Tensor(b!)? grad_offset, Tensor(c!)? grad_mask, Tensor? scale) -> ()"
)

# Imported after the schemas are defined, and only where it can load: it links to torch's CUDA libraries.
if torch.version.cuda is None:
    import_error = "this torch is built without CUDA"
else:
    try:
        import dcn_backbones._CUDA  # noqa: F401

        import_error = None
    except ImportError as error:
        import_error = str(error)


_FUSED_TYPES = (torch.float16, torch.bfloat16)


class CudaKernels(BlockedBackend, DenseRoiPool):
    """What `extension` runs on a GPU; the layouts are those of `blocked` and `dense_roi_pool`."""

    name = "extension"
    operators = frozenset(OPERATORS)
    devices = frozenset({"cuda"})
    overwrites_grad_columns = True

    def unavailable_reasons(self) -> list[str]:
        if import_error is None:
            return []
        return [f"the compiled library dcn_backbones._CUDA does not import ({import_error})"]

    def _fill_output(self, operands: Operands, bias: Tensor | None, output: Tensor) -> None:
        may_fuse = output.dtype in _FUSED_TYPES and output.numel() > 0
        if not (may_fuse and _fused_forward(operands, bias, output)):
            super()._fill_output(operands, bias, output)

    def gather(self, operands, first, columns) -> None:
        torch.ops.dcn_backbones._gather(*operands.sampled, *_settings(operands.geometry), first, columns)

    def gather_backward(self, operands, first, grad_columns, columns, gradients) -> None:
        torch.ops.dcn_backbones._gather_backward(
            grad_columns,
            *operands.sampled,
            *_settings(operands.geometry),
            first,
            columns,
            gradients.offset,
            gradients.mask,
            gradients.input,
            gradients.scale,
        )

    def roi_pool(self, pooling, output) -> None:
        torch.ops.dcn_backbones._roi_pool(*pooling, output)

    def roi_pool_backward(self, pooling, grad_output, gradients) -> None:
        torch.ops.dcn_backbones._roi_pool_backward(grad_output, *pooling, *gradients)


def _fused_forward(operands: Operands, bias: Tensor | None, output: Tensor) -> bool:
    """Fill `output` (N, H_out, W_out, C_out); False, and nothing done, where the kernel does not take such
    sizes or such a device."""
    geometry = operands.geometry
    group_channels = operands.input.shape[3] // operands.groups
    return torch.ops.dcn_backbones._fused_forward(
        *operands.sampled,
        operands.weight.view(operands.out_channels, *geometry.kernel, group_channels),
        bias,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        output,
    )


def _settings(geometry: Geometry) -> tuple:
    return geometry.kernel, geometry.stride, geometry.padding, geometry.dilation
