"""Deformable RoI pooling: the public functions and the one custom operator behind them."""

import torch
from torch import Tensor

from . import flop_formulas, gradients, roi_checks, validation, vmap_rules
from .autocast import cast_operands, without_autocast
from .backends.reference_roi_pool import deform_roi_pool_formula
from .dispatch import forced_backend, select
from .memory_format import empty_strided_like, with_format_of
from .roi_checks import Boxes
from .transforms import needs_formula, refuse_forward_mode

IntOrPair = int | tuple[int, int]

_NAME = "deform_roi_pool"


def deform_roi_pool(
    input: Tensor,
    boxes: Boxes,
    output_size: IntOrPair,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    offset: Tensor | None = None,
    mask: Tensor | None = None,
    gamma: float = 0.1,
) -> Tensor:
    """Aligned RoI pooling; with offsets deformable (DCNv1), with a mask modulated (DCNv2).

    Without offset and mask it is `torchvision.ops.roi_align(..., aligned=True)`. Equation 6 of "Deformable
    Convolutional Networks" (Dai et al., 2017), where a bin's offset is `gamma * offset * (width, height)`
    of its RoI; with a mask, equation 2 of "Deformable ConvNets v2" (Zhu et al., 2019). For R boxes:

    Args:
        input: `(N, C, H, W)`, of any float type. Channels-last is the fast path.
        boxes: `(R, 5)`, each `[index of the image, x1, y1, x2, y2]`, or a list of `(R_i, 4)`, one for each
            image, each `[x1, y1, x2, y2]`. Typed as the input, or float32 beside a half input. No gradient.
        output_size: the bins `(kh, kw)`, or one number for both.
        spatial_scale: pixels of the input for each unit of the boxes.
        sampling_ratio: sampling points of a bin along each axis; if not positive, as many as the bin has
            pixels, rounded up.
        offset: `(R, 2, kh, kw)`, in widths and heights of the RoI. **Channel 0 is the shift in x, channel 1
            that in y**, as in mmcv; the offsets of `deform_conv2d` have y first. Typed as boxes may be.
        mask: `(R, kh, kw)`, a factor for each bin. Typed as boxes may be.
        gamma: the scale of the offsets.

    Returns:
        `(R, C, kh, kw)` in the type and the memory format of `input`.

    A sampling point at `(y, x)` counts when `-1 <= y <= H` and `-1 <= x <= W`; beyond the outermost pixel
    centres it sees the nearest one, without a slope. This is `roi_align`'s rule, not that of `deform_conv2d`.
    All points of a bin divide its sum, whether they count or not. NaN and infinite offsets are outside: they
    add nothing and get no gradient. So is a box with a coordinate that is not finite and, where its size
    decides the sampling, one without area or in need of more than 32768 points along an axis of a bin.

    Half types are pooled in float32, on the CPU from a copy of the whole input. Under autocast, the input is
    cast to the autocast type, and boxes, offset and mask are left as they are, since positions need the
    precision. Function transforms and forward mode run the plain PyTorch formula.

    Raises:
        ValueError: a shape, a size or a device does not fit the others; on the CPU, a box of no image.
        TypeError: an argument is no tensor, or of a type that does not fit.
    """
    input, boxes, output_size = _prepare(
        input, boxes, output_size, spatial_scale, sampling_ratio, offset, mask, gamma, False
    )
    mask = None if mask is None else mask.unsqueeze(1)
    return _pool(input, boxes, offset, mask, output_size, spatial_scale, sampling_ratio, gamma, False)


def deform_ps_roi_pool(
    input: Tensor,
    boxes: Boxes,
    output_size: IntOrPair,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    offset: Tensor | None = None,
    gamma: float = 0.1,
) -> Tensor:
    """Deformable position-sensitive RoI pooling (DCNv1, for R-FCN): every bin reads channels of its own.

    Without offset it is `torchvision.ops.ps_roi_align`, but zero for a box without area. Section 2.2 of
    "Deformable Convolutional Networks" (Dai et al., 2017). Arguments and errors are those of
    `deform_roi_pool` but for

    Args:
        input: `(N, C_out * kh * kw, H, W)`; bin `(i, j)` of output channel `c` reads channel
            `(c * kh + i) * kw + j`.
        offset: `(R, 2 * G, kh, kw)`, channels ordered `[group][x, y]`. The output channels are split evenly
            over the G offset groups, in order: G classes of `C_out / G` channels each.

    Returns:
        `(R, C_out, kh, kw)` in the type and the memory format of `input`.
    """
    input, boxes, output_size = _prepare(
        input, boxes, output_size, spatial_scale, sampling_ratio, offset, None, gamma, True
    )
    return _pool(input, boxes, offset, None, output_size, spatial_scale, sampling_ratio, gamma, True)


def _prepare(
    input, boxes, output_size, spatial_scale, sampling_ratio, offset, mask, gamma, position_sensitive
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Check everything; return the input as it is pooled, the boxes as a tensor, the size as a pair."""
    boxes = roi_checks.as_tensor(input, boxes)
    validation.check_tensors(dict(input=input, boxes=boxes), dict(offset=offset, mask=mask))
    (input,) = cast_operands(input)
    output_size = validation.pair(output_size, "output_size", minimum=1)
    roi_checks.check_numbers(spatial_scale, sampling_ratio, gamma)
    validation.check_types(input, {}, dict(boxes=boxes, offset=offset, mask=mask))
    roi_checks.check_shapes(input, boxes, offset, mask, output_size, position_sensitive)
    return input, boxes, output_size


def _pool(input, *arguments) -> Tensor:
    if needs_formula():
        with without_autocast(input):
            return deform_roi_pool_formula(input, *arguments)
    return _deform_roi_pool(input, *arguments, forced_backend())


_TENSORS = "Tensor input, Tensor boxes, Tensor? offset, Tensor? mask"
_SETTINGS = (
    "SymInt[2] output_size, float spatial_scale, SymInt sampling_ratio, float gamma, "
    "bool position_sensitive, str backend"
)


@torch.library.custom_op(
    f"dcn_backbones::{_NAME}", mutates_args=(), schema=f"({_TENSORS}, {_SETTINGS}) -> Tensor"
)
def _deform_roi_pool(input, boxes, offset, mask, *settings):
    refuse_forward_mode(_NAME)
    roi_checks.check_image_indices(input, boxes)
    *settings, backend = settings
    with without_autocast(input):
        chosen = select(_NAME, backend, input, _deformed(offset, mask))
        output = chosen.deform_roi_pool_forward(input, boxes, offset, mask, *settings)
    return with_format_of(input, output)


@_deform_roi_pool.register_fake
def _(
    input, boxes, offset, mask, output_size, spatial_scale, sampling_ratio, gamma, position_sensitive, backend
):
    height, width = output_size
    channels = input.shape[1] // (height * width) if position_sensitive else input.shape[1]
    return empty_strided_like(input, (boxes.shape[0], channels, height, width))


@torch.library.custom_op(
    f"dcn_backbones::{_NAME}_backward",
    mutates_args=(),
    schema=f"(Tensor grad_output, {_TENSORS}, {_SETTINGS}, bool[3] needs) -> (Tensor, Tensor, Tensor)",
)
def _deform_roi_pool_backward(grad_output, input, boxes, offset, mask, *settings):
    *settings, backend, needs = settings
    with without_autocast(input):
        chosen = select(_NAME, backend, input, _deformed(offset, mask))
        found = chosen.deform_roi_pool_backward(grad_output, input, boxes, offset, mask, *settings, needs)
    return gradients.finished((input, offset, mask), found, needs)


@_deform_roi_pool_backward.register_fake
def _(grad_output, input, boxes, offset, mask, *settings):
    return gradients.fake((input, offset, mask), settings[-1])


def _deformed(offset: Tensor | None, mask: Tensor | None) -> bool:
    return offset is not None or mask is not None


def _save_for_backward(ctx, inputs, output) -> None:
    input, boxes, offset, mask, *ctx.settings = inputs
    ctx.save_for_backward(input, boxes, offset, mask)


def _backward(ctx, grad_output):
    needs_input, _, needs_offset, needs_mask = ctx.needs_input_grad[:4]
    needs = [needs_input, needs_offset, needs_mask]
    found = [None] * 3
    if any(needs):
        found = _deform_roi_pool_backward(grad_output, *ctx.saved_tensors, *ctx.settings, needs)
    grad_input, grad_offset, grad_mask = gradients.only_needed(found, needs)
    return grad_input, None, grad_offset, grad_mask, *[None] * len(ctx.settings)


_deform_roi_pool.register_autograd(_backward, setup_context=_save_for_backward)


def _save_for_double_backward(ctx, inputs, output) -> None:
    *tensors, ctx.needs = inputs
    tensors, (*ctx.settings, _) = tensors[:5], tensors[5:]
    ctx.save_for_backward(*tensors)


def _double_backward(ctx, *grad_gradients):
    grad_output, input, boxes, offset, mask = ctx.saved_tensors

    def formula(input, offset, mask):
        return deform_roi_pool_formula(input, boxes, offset, mask, *ctx.settings)

    needs_grad_output, needs_input, _, *needs_positions = ctx.needs_input_grad[:5]
    needs_again = [needs_grad_output, needs_input, *needs_positions]
    grads = gradients.of_gradients(
        formula, (grad_output, input, offset, mask), ctx.needs, grad_gradients, needs_again
    )
    return *grads[:2], None, *grads[2:], *[None] * (len(ctx.settings) + 2)


_deform_roi_pool_backward.register_autograd(_double_backward, setup_context=_save_for_double_backward)


# Registered last: vmap and FLOP counting are added to the finished operators.
vmap_rules.register_roi_pool(_deform_roi_pool, _deform_roi_pool_backward)
flop_formulas.register_sampling(
    torch.ops.dcn_backbones.deform_roi_pool, torch.ops.dcn_backbones.deform_roi_pool_backward
)
