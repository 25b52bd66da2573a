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
    if _inside_differentiating_transform():
        return True
    if forward_ad._current_level < 0:
        return False
    # Dynamo cannot look for a tangent while it traces, so inside a dual level it takes the safe way.
    return torch.compiler.is_compiling() or any(_has_tangent(t) for t in tensors)


def _has_tangent(tensor: Tensor | None) -> bool:
    return tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None


@torch.compiler.assume_constant_result  # Dynamo enters the transforms that it traces, and guards on them
def _inside_differentiating_transform() -> bool:
    transforms = _functorch.get_interpreter_stack()
    return bool(transforms) and any(transform.key() in _DIFFERENTIATING for transform in transforms)
