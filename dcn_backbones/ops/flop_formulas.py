"""What `torch.utils.flop_counter.FlopCounterMode` counts: twice the multiply-adds of the products.

Bilinear sampling is left out, as in the papers' figures.
"""

from math import prod

from torch.utils.flop_counter import register_flop_formula


def register(deform_conv2d, deform_conv2d_backward) -> None:
    """Attach the formulas to the two operators."""
    register_flop_formula(deform_conv2d)(_forward)
    register_flop_formula(deform_conv2d_backward)(_backward)


def register_sampling(*operators) -> None:
    """Zero, said of operators that have no products."""
    for operator in operators:
        register_flop_formula(operator)(lambda *args, **kwargs: 0)


def _forward(input_shape, offset_shape, weight_shape, *args, **kwargs) -> int:
    batch, (out_height, out_width) = input_shape[0], offset_shape[2:]
    return 2 * batch * out_height * out_width * prod(weight_shape)


def _backward(grad_shape, input_shape, offset_shape, weight_shape, *args, **kwargs) -> int:
    """One product for the gradient of the columns, which three gradients share, and one for the weight's."""
    needs_input, needs_offset, needs_weight, needs_mask = args[-1]
    products = int(needs_input or needs_offset or needs_mask) + int(needs_weight)
    return products * _forward(input_shape, offset_shape, weight_shape)
