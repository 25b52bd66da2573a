"""Where a custom operator cannot follow: function transforms and forward-mode differentiation.

An operator registered with `torch.library` refuses `torch.func.grad`, and would give forward-mode
tangents of zero without a word.
"""

import torch
from torch import Tensor
from torch._C import _functorch
from torch._subclasses.fake_tensor import is_fake
from torch.autograd import forward_ad

_DIFFERENTIATING = (_functorch.TransformType.Grad, _functorch.TransformType.Jvp)


def needs_formula() -> bool:
    """Whether a call made now has to consist of plain PyTorch operations to be differentiated."""
    return _inside_forward_mode() or _inside_differentiating_transform()


def refuse_forward_mode(operator: str) -> None:
    """Raise where tangents would be lost: in the operator's body, called around the public function."""
    if _inside_forward_mode():
        raise RuntimeError(
            f"The operator {operator} runs in a graph that was traced outside of the forward-mode level "
            "(or was called by itself) and has no tangents, expected a function compiled inside that level."
        )


def values_can_be_read(tensor: Tensor) -> bool:
    """Whether a size may depend on the numbers in a tensor: not where it stands for many, or for none yet."""
    if torch.compiler.is_compiling() or is_fake(tensor):
        return False
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return False
        tensor = _functorch.get_unwrapped(tensor)
    return True


def _inside_forward_mode() -> bool:
    return forward_ad._current_level >= 0


@torch.compiler.assume_constant_result  # Dynamo enters the transforms that it traces, and guards on them
def _inside_differentiating_transform() -> bool:
    transforms = _functorch.get_interpreter_stack()
    return bool(transforms) and any(transform.key() in _DIFFERENTIATING for transform in transforms)
