"""Deformable convolution: the public function and the one custom operator behind it."""

import torch
from torch import Tensor

from . import convolution_shapes, flop_formulas, gradients, validation, vmap_rules
from .autocast import cast_operands, without_autocast
from .backends.reference import deform_conv2d_formula
from .dispatch import forced_backend, select
from .memory_format import empty_strided_like, with_format_of
from .transforms import needs_formula, refuse_forward_mode

IntOrPair = int | tuple[int, int]

_NAME = "deform_conv2d"


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution, without a mask DCNv1, with a mask DCNv2.

    Signature and meaning are those of `torchvision.ops.deform_conv2d`. Equation 2 of "Deformable
    Convolutional Networks" (Dai et al., 2017); with a mask, equation 1 of "Deformable ConvNets v2"
    (Zhu et al., 2019). With G offset groups and K = kh * kw taps:

    Args:
        input: `(N, C_in, H, W)`, of any float type. Channels-last is the fast path.
        offset: `(N, 2 * G * K, H_out, W_out)`, in input pixels, channels ordered
            `[group][tap][y, x]`. May be float32 beside a half input.
        weight: `(C_out, C_in / groups, kh, kw)`, in the type of the input.
        bias: `(C_out,)`, in the type of the input.
        stride, padding, dilation: one number for both axes or a pair `(y, x)`.
        mask: `(N, G * K, H_out, W_out)`, channels ordered `[group][tap]`, typed as `offset` may be.

    Returns:
        `(N, C_out, H_out, W_out)` in the type and the memory format of `input`.

    A sample at `(y, x)` counts when `-1 < y < H` and `-1 < x < W`; pixels outside the image are
    zero. NaN and infinite offsets are outside: they add nothing and get no gradient.

    Under autocast, input, weight and bias are cast to the autocast type; offset and mask are left
    as they are, since positions need the precision. Inside `torch.func.grad` and its relatives, and
    inside a forward-mode level, the plain PyTorch formula runs whatever the backend.

    Raises:
        ValueError: a shape, a size or a device does not fit the others.
        TypeError: an argument is no tensor, or of a type that does not fit.
    """
    validation.check_tensors(dict(input=input, offset=offset, weight=weight), dict(bias=bias, mask=mask))
    input, weight, bias = cast_operands(input, weight, bias)
    stride = validation.pair(stride, "stride", minimum=1)
    padding = validation.pair(padding, "padding", minimum=0)
    dilation = validation.pair(dilation, "dilation", minimum=1)
    validation.check_types(input, dict(weight=weight, bias=bias), dict(offset=offset, mask=mask))
    convolution_shapes.check(input, offset, weight, bias, mask, stride, padding, dilation)
    if needs_formula():
        with without_autocast(input):
            return deform_conv2d_formula(input, offset, weight, bias, mask, stride, padding, dilation)
    return _deform_conv2d(input, offset, weight, bias, mask, stride, padding, dilation, forced_backend())


@torch.library.custom_op(
    "dcn_backbones::deform_conv2d",
    mutates_args=(),
    schema="(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, "
    "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, str backend) -> Tensor",
)
def _deform_conv2d(input, offset, weight, bias, mask, stride, padding, dilation, backend):
    refuse_forward_mode(_NAME)
    with without_autocast(input):
        output = select(_NAME, backend, input).deform_conv2d_forward(
            input, offset, weight, bias, mask, stride, padding, dilation
        )
    return with_format_of(input, output)


@_deform_conv2d.register_fake
def _(input, offset, weight, bias, mask, stride, padding, dilation, backend):
    size = (input.shape[0], weight.shape[0], *offset.shape[2:])
    return empty_strided_like(input, size)


@torch.library.custom_op(
    "dcn_backbones::deform_conv2d_backward",
    mutates_args=(),
    schema="(Tensor grad_output, Tensor input, Tensor offset, Tensor weight, Tensor? mask, "
    "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, str backend, bool[4] needs) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)
def _deform_conv2d_backward(
    grad_output, input, offset, weight, mask, stride, padding, dilation, backend, needs
):
    with without_autocast(input):
        found = select(_NAME, backend, input).deform_conv2d_backward(
            grad_output, input, offset, weight, mask, stride, padding, dilation, needs
        )
    return gradients.finished((input, offset, weight, mask), found, needs)


@_deform_conv2d_backward.register_fake
def _(grad_output, input, offset, weight, mask, stride, padding, dilation, backend, needs):
    return gradients.fake((input, offset, weight, mask), needs)


def _save_for_backward(ctx, inputs, output) -> None:
    input, offset, weight, _, mask, *ctx.arguments = inputs
    ctx.save_for_backward(input, offset, weight, mask)


def _backward(ctx, grad_output):
    needs_input, needs_offset, needs_weight, needs_bias, needs_mask = ctx.needs_input_grad[:5]
    needs = [needs_input, needs_offset, needs_weight, needs_mask]
    found = [None] * 4
    if any(needs):
        found = _deform_conv2d_backward(grad_output, *ctx.saved_tensors, *ctx.arguments, needs)
    grad_input, grad_offset, grad_weight, grad_mask = gradients.only_needed(found, needs)
    grad_bias = grad_output.sum((0, 2, 3)) if needs_bias else None
    return grad_input, grad_offset, grad_weight, grad_bias, grad_mask, None, None, None, None


_deform_conv2d.register_autograd(_backward, setup_context=_save_for_backward)


def _save_for_double_backward(ctx, inputs, output) -> None:
    *tensors, ctx.stride, ctx.padding, ctx.dilation, _, ctx.needs = inputs
    ctx.save_for_backward(*tensors)


def _double_backward(ctx, *grad_gradients):
    def formula(input, offset, weight, mask):
        return deform_conv2d_formula(input, offset, weight, None, mask, ctx.stride, ctx.padding, ctx.dilation)

    needs_again = ctx.needs_input_grad[:5]
    found = gradients.of_gradients(formula, ctx.saved_tensors, ctx.needs, grad_gradients, needs_again)
    return *found, None, None, None, None, None


_deform_conv2d_backward.register_autograd(_double_backward, setup_context=_save_for_double_backward)


# Registered last: vmap and FLOP counting are added to the finished operators.
vmap_rules.register(_deform_conv2d, _deform_conv2d_backward)
flop_formulas.register(torch.ops.dcn_backbones.deform_conv2d, torch.ops.dcn_backbones.deform_conv2d_backward)
