"""Gradients as every operator's autograd formula hands them on, and their own derivatives.

`needs` says for each tensor whether its gradient is asked for. A custom operator has no optional results:
what is not asked for is an empty tensor there, and None outside.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from .autocast import without_autocast
from .memory_format import empty_strided_like, with_format_of

Tensors = Sequence[Tensor | None]


def finished(tensors: Tensors, gradients: Tensors, needs: Sequence[bool]) -> tuple[Tensor, ...]:
    """A backend's gradients in the types and formats of their tensors, the first of which is there."""
    return tuple(
        with_format_of(tensor, gradient.to(tensor.dtype)) if needed else tensors[0].new_empty(0)
        for tensor, gradient, needed in zip(tensors, gradients, needs, strict=True)
    )


def fake(tensors: Tensors, needs: Sequence[bool]) -> tuple[Tensor, ...]:
    """What `finished` returns, uninitialised."""
    return tuple(
        empty_strided_like(tensor, tensor.shape) if needed else tensors[0].new_empty(0)
        for tensor, needed in zip(tensors, needs, strict=True)
    )


def only_needed(gradients: Iterable, needs: Sequence[bool]) -> list[Tensor | None]:
    """None in the place of what was not asked for."""
    return [gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True)]


def of_gradients(
    formula: Callable[..., Tensor],
    tensors: Tensors,
    needs: Sequence[bool],
    grad_gradients: Tensors,
    needs_again: Sequence[bool],
) -> list[Tensor | None]:
    """The double backward: differentiate the gradients of the formula, whatever backend computed them.

    `tensors` are the gradient of the output and the arguments of `formula`, of which `needs` were given
    gradients in the first backward; `needs_again` says of all of them what is asked for now.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad(), without_autocast(tensors[0]):
        # Aliases let the formula be differentiated by its arguments without cutting off what made them.
        tensors = [None if t is None else t.view_as(t) for t in tensors]
        grad_output, *arguments = tensors
        output = formula(*arguments)
        wanted = [t for t, needed in zip(arguments, needs, strict=True) if needed]
        gradients = torch.autograd.grad(output, wanted, grad_output, create_graph=True)
    directions = [g for g, needed in zip(grad_gradients, needs, strict=True) if needed]
    sources = [t for t, needed in zip(tensors, needs_again, strict=True) if needed]
    results = iter(
        torch.autograd.grad(gradients, sources, directions, create_graph=create_graph, allow_unused=True)
    )
    return [next(results) if needed else None for needed in needs_again]
