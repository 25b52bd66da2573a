"""torchvision's own kernel: an oracle in the tests, a peer in the benchmarks, never chosen by itself."""

import torch
from torch import Tensor

from .base import Backend, Gradients


class TorchvisionBackend(Backend):
    """Half types run in float32: its kernel would round the positions, and takes no bfloat16."""

    name = "torchvision"
    automatic = False
    devices = frozenset({"cpu", "cuda"})
    nondeterministic_devices = frozenset({"cuda"})

    def unavailable_reasons(self) -> list[str]:
        try:
            import torchvision.ops  # noqa: F401
        except Exception as error:  # not only ImportError: RuntimeError beside a torch it was not built for
            return [f"torchvision does not import ({error})"]
        return []

    def deform_conv2d_forward(self, input, offset, weight, bias, mask, stride, padding, dilation) -> Tensor:
        arguments = _arguments(input, offset, weight, bias, mask, stride, padding, dilation)
        return torch.ops.torchvision.deform_conv2d(*arguments).to(input.dtype)

    def deform_conv2d_backward(
        self, grad_output, input, offset, weight, mask, stride, padding, dilation, needs
    ) -> Gradients:
        arguments = _arguments(input, offset, weight, None, mask, stride, padding, dilation)
        grad_input, grad_weight, grad_offset, grad_mask, _ = torch.ops.torchvision._deform_conv2d_backward(
            grad_output.to(arguments[0].dtype).contiguous(), *arguments
        )
        return grad_input, grad_offset, grad_weight, grad_mask


def _arguments(input, offset, weight, bias, mask, stride, padding, dilation) -> tuple:
    """torchvision's order and types; what is absent is a tensor of zeros there."""
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    use_mask = mask is not None
    mask = input.new_zeros(input.shape[0], 0) if mask is None else mask
    groups = input.shape[1] // weight.shape[1]
    offset_groups = offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])
    compute_type = torch.float64 if input.dtype == torch.float64 else torch.float32
    tensors = [t.to(compute_type) for t in (input, weight, offset, mask, bias)]
    return (*tensors, *stride, *padding, *dilation, groups, offset_groups, use_mask)
