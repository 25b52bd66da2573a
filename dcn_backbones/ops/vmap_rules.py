"""`torch.vmap`: the mapped dimension B is folded into the batch, into groups, or among the regions.

Folding into groups is always right, since groups and offset groups are both read off the shapes:
input `(N, B * C_in, H, W)` with weight `(B * C_out, C_in / groups, kh, kw)` makes `B * groups` groups.
Folding into the batch is cheaper and enough for a forward whose weight is not mapped.
"""

import torch
from torch import Tensor


def register(deform_conv2d, deform_conv2d_backward) -> None:
    """Attach the rules to the two operators."""
    deform_conv2d.register_vmap(lambda info, in_dims, *args: _forward(deform_conv2d, info, in_dims, args))
    deform_conv2d_backward.register_vmap(
        lambda info, in_dims, *args: _backward(deform_conv2d_backward, info, in_dims, args)
    )


def _forward(operator, info, in_dims, args) -> tuple[Tensor, int]:
    input, offset, weight, bias, mask = _mapped_first(args[:5], in_dims, info.batch_size)
    settings = args[5:]
    if in_dims[2] is None and in_dims[3] is None:
        images = [None if t is None else t.flatten(0, 1) for t in (input, offset, mask)]
        output = operator(images[0], images[1], args[2], args[3], images[2], *settings)
        return output.unflatten(0, (info.batch_size, -1)), 0
    output = operator(
        _into_channels(input),
        _into_channels(offset),
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(0, 1),
        _into_channels(mask),
        *settings,
    )
    return output.unflatten(1, (info.batch_size, -1)), 1


def _backward(operator, info, in_dims, args) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    grad_output, input, offset, weight, mask = _mapped_first(args[:5], in_dims, info.batch_size)
    images = [_into_channels(t) for t in (grad_output, input, offset)]
    settings, needs = args[5:], args[-1]
    gradients = operator(*images, weight.flatten(0, 1), _into_channels(mask), *settings)
    dims = [dim if needed else None for dim, needed in zip((1, 1, 0, 1), needs, strict=True)]
    unfolded = [
        gradient if dim is None else gradient.unflatten(dim, (info.batch_size, -1))
        for gradient, dim in zip(gradients, dims, strict=True)
    ]
    return tuple(unfolded), tuple(dims)


def _mapped_first(tensors, in_dims, size: int) -> list[Tensor | None]:
    """Each tensor as (B, ...); one that is not mapped is repeated without a copy."""
    return [
        None if t is None else t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, in_dims[: len(tensors)], strict=True)
    ]


def _into_channels(tensor: Tensor | None) -> Tensor | None:
    """(B, N, C, H, W) as (N, B * C, H, W)."""
    return None if tensor is None else tensor.transpose(0, 1).flatten(1, 2)


def register_roi_pool(deform_roi_pool, deform_roi_pool_backward) -> None:
    """Attach the rules for RoI pooling: images fold into the batch, which the boxes' indices follow."""
    deform_roi_pool.register_vmap(
        lambda info, in_dims, *args: _roi_pool_forward(deform_roi_pool, info, in_dims, args)
    )
    deform_roi_pool_backward.register_vmap(
        lambda info, in_dims, *args: _roi_pool_backward(deform_roi_pool_backward, info, in_dims, args)
    )


def _roi_pool_forward(operator, info, in_dims, args) -> tuple[Tensor, int]:
    input, boxes, offset, mask = _mapped_first(args[:4], in_dims, info.batch_size)
    if in_dims[0] is None:  # the images need no copies
        input, boxes = args[0], boxes.flatten(0, 1)
    else:
        boxes = _into_batch(boxes, input.shape[1])
        input = input.flatten(0, 1)
    positions = [None if t is None else t.flatten(0, 1) for t in (offset, mask)]
    return operator(input, boxes, *positions, *args[4:]).unflatten(0, (info.batch_size, -1)), 0


def _roi_pool_backward(operator, info, in_dims, args) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    grad_output, input, boxes, offset, mask = _mapped_first(args[:5], in_dims, info.batch_size)
    boxes = _into_batch(boxes, input.shape[1])
    grad_output, input, offset, mask = (
        None if t is None else t.flatten(0, 1) for t in (grad_output, input, offset, mask)
    )
    needs = args[-1]
    gradients = operator(grad_output, input, boxes, offset, mask, *args[5:])
    unfolded = [
        gradient.unflatten(0, (info.batch_size, -1)) if needed else gradient
        for gradient, needed in zip(gradients, needs, strict=True)
    ]
    return tuple(unfolded), tuple(0 if needed else None for needed in needs)


def _into_batch(boxes: Tensor, images: int) -> Tensor:
    """Boxes (B, R, 5) of batches of so many images each, as (B * R, 5) of all; boxes of no image stay so.

    float32 at least: the half types cannot count images.
    """
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    index = boxes[..., :1]
    first = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype).view(-1, 1, 1) * images
    index = torch.where((index >= 0) & (index < images), index + first, -1)
    return torch.cat([index, boxes[..., 1:]], 2).flatten(0, 1)
