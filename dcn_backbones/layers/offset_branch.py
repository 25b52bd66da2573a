"""What offset branches share: the convolution, the precision of what they predict, their learning rate."""

import torch
from torch import Tensor, nn

PADDED_DEVICES = {"cuda"}
_CHANNELS_TOGETHER = 8  # of a half type, 16 bytes


class OffsetConv2d(nn.Conv2d):
    """A convolution of 18 or 27 channels, say, which on a GPU computes 24 or 32 and drops those beyond.

    cuDNN would pad input and output instead, in kernels of their own: on an H200 an iteration of
    ``dcnv2_resnet50`` (128 px, batch 256, bfloat16 autocast, n=1) took 93 ms padded and 109 ms not.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        missing = -self.out_channels % _CHANNELS_TOGETHER
        if not missing or input.device.type not in PADDED_DEVICES:
            return super()._conv_forward(input, weight, bias)
        weight = torch.cat([weight, weight.new_zeros(missing, *weight.shape[1:])])
        output = super()._conv_forward(input, weight, None)[:, : self.out_channels]
        # Beside a half output under autocast the bias is float32, and so is the sum: no kernel to widen it.
        return output if bias is None else output + bias.view(-1, 1, 1)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor, the half types as float32: what follows a branch must not round positions further."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def offset_lr_scales(model: nn.Module) -> dict[str, float]:
    """What the papers multiply the learning rate by, for each parameter of an offset branch, by its name.

    A deformable layer names its branch in ``offset_branch`` and the multiplier in ``offset_lr_scale``, which
    may be set on a layer of yours:

    =========================  ===============  =================================================
    layer                      multiplier       source
    =========================  ===============  =================================================
    ``DeformConv2d``           1                Dai et al., 2017, section 2.3: the default
    ``ModulatedDeformConv2d``  0.1              Zhu et al., 2019, section 3.2
    ``DeformRoIPool``          0.01             Dai et al., 2017, section 2.3, Faster R-CNN
    ``ModulatedDeformRoIPool`` 1                Zhu et al., 2019, section 3.2
    =========================  ===============  =================================================

    For an optimizer of PyTorch's own, each parameter in a group of its rate::

        scales = offset_lr_scales(model)
        optimizer = torch.optim.SGD(
            [{"params": p, "lr": lr * scales.get(name, 1.0)} for name, p in model.named_parameters()]
        )
    """
    return {
        ".".join(part for part in (path, layer.offset_branch, name) if part): layer.offset_lr_scale
        for path, layer in model.named_modules()
        if hasattr(layer, "offset_branch")
        for name, _ in layer.get_submodule(layer.offset_branch).named_parameters()
    }
