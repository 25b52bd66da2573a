"""Where a custom operator cannot follow: function transforms and forward-mode differentiation."""

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad

_DIFFERENTIATING = (_functorch.TransformType.Grad, _functorch.TransformType.Jvp)


def needs_formula(*tensors: Tensor | None) -> bool:
    """Whether a call has to be made of plain PyTorch operations to be differentiated.

    An operator registered with `torch.library` refuses `torch.func.grad` and would give forward-mode
    tangents of zero without a word.
    """
    if torch.compiler.is_compiling():
        return False
    transforms = _functorch.get_interpreter_stack()
    if transforms and any(transform.key() in _DIFFERENTIATING for transform in transforms):
        return True
    if forward_ad._current_level < 0:
        return False
    return any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)
