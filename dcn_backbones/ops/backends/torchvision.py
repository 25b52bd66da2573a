"""torchvision's own kernel: an oracle in the tests, a peer in the benchmarks, never chosen by itself."""

import torch
from torch import Tensor

from .base import OPERATORS, Backend, Gradients, Request, accumulate_type


class TorchvisionBackend(Backend):
    """Half types run in float32: its kernel would round the positions, and takes no bfloat16."""

    name = "torchvision"
    automatic = False
    devices = frozenset({"cpu", "cuda"})
    nondeterministic_devices = frozenset({"cuda"})
    operators = frozenset(OPERATORS)

    def unavailable_reasons(self) -> list[str]:
        try:
            import torchvision.ops  # noqa: F401
        except Exception as error:  # not only ImportError: RuntimeError beside a torch it was not built for
            return [f"torchvision does not import ({error})"]
        return []

    def not_supported_reasons(self, request: Request) -> list[str]:
        reasons = super().not_supported_reasons(request)
        if request.operator == "deform_roi_pool" and request.deformed:
            reasons.append("it pools without offset and mask only")
        return reasons

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

    def deform_roi_pool_forward(
        self,
        input,
        boxes,
        offset,
        mask,
        output_size,
        spatial_scale,
        sampling_ratio,
        gamma,
        position_sensitive,
    ) -> Tensor:
        compute_type = accumulate_type(input.dtype)
        arguments = (
            input.to(compute_type),
            boxes.to(compute_type),
            spatial_scale,
            *output_size,
            sampling_ratio,
        )
        if position_sensitive:
            return torch.ops.torchvision.ps_roi_align(*arguments)[0].to(input.dtype)
        return torch.ops.torchvision.roi_align(*arguments, True).to(input.dtype)

    def deform_roi_pool_backward(
        self,
        grad_output,
        input,
        boxes,
        offset,
        mask,
        output_size,
        spatial_scale,
        sampling_ratio,
        gamma,
        position_sensitive,
        needs,
    ) -> Gradients:
        compute_type = accumulate_type(input.dtype)
        grad_output, boxes = grad_output.to(compute_type).contiguous(), boxes.to(compute_type)
        settings = (spatial_scale, *output_size)
        if position_sensitive:
            channels = torch.arange(input.shape[1], dtype=torch.int32, device=input.device)
            channel_of_bin = channels.view(grad_output.shape[1:]).expand(grad_output.shape).contiguous()
            grad_input = torch.ops.torchvision._ps_roi_align_backward(
                grad_output, boxes, channel_of_bin, *settings, sampling_ratio, *input.shape
            )
        else:
            grad_input = torch.ops.torchvision._roi_align_backward(
                grad_output, boxes, *settings, *input.shape, sampling_ratio, True
            )
        return grad_input, None, None


def _arguments(input, offset, weight, bias, mask, stride, padding, dilation) -> tuple:
    """torchvision's order and types; what is absent is a tensor of zeros there."""
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    use_mask = mask is not None
    mask = input.new_zeros(input.shape[0], 0) if mask is None else mask
    groups = input.shape[1] // weight.shape[1]
    offset_groups = offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])
    compute_type = accumulate_type(input.dtype)
    tensors = [t.to(compute_type) for t in (input, weight, offset, mask, bias)]
    return (*tensors, *stride, *padding, *dilation, groups, offset_groups, use_mask)
