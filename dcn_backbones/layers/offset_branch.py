"""What all offset branches share: the precision of what they predict, and a learning rate of their own."""

import torch
from torch import Tensor, nn


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
