"""Checks of what RoI pooling is given, and the one form of its boxes."""

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from .validation import Shape, check_rank, check_shape, check_tensors

Boxes = Tensor | Sequence[Tensor]
_NUMBER = (int, float, torch.SymInt, torch.SymFloat)


def as_tensor(input: object, boxes: Boxes) -> object:
    """A list of (R_i, 4), one for each image, as (R, 5), each box headed by the index of its image.

    float32 at least: the half types cannot count images. Whatever is no list is handed back.
    """
    if not isinstance(boxes, (tuple, list)) or not isinstance(input, Tensor):
        return boxes
    check_tensors(dict(input=input, **{f"boxes[{i}]": each for i, each in enumerate(boxes)}), {})
    for i, each in enumerate(boxes):
        if each.dim() != 2 or each.shape[1] != 4:
            raise ValueError(f"boxes[{i}] has shape {tuple(each.shape)}, expected (R_i, 4).")
    if input.dim() > 0 and len(boxes) > input.shape[0]:
        raise ValueError(
            f"boxes is a list of {len(boxes)}, expected at most {input.shape[0]}, one for each image."
        )
    if not boxes:
        return input.new_zeros(0, 5)
    boxes = [each.to(torch.promote_types(each.dtype, torch.float32)) for each in boxes]
    return torch.cat([torch.nn.functional.pad(each, (1, 0), value=i) for i, each in enumerate(boxes)])


def check_numbers(spatial_scale: object, sampling_ratio: object, gamma: object) -> None:
    """Finite numbers, the sampling ratio a whole one."""
    for name, value in (("spatial_scale", spatial_scale), ("gamma", gamma)):
        if not isinstance(value, _NUMBER):
            raise TypeError(f"{name} is {value!r}, expected a number.")
        if not -inf < value < inf:
            raise ValueError(f"{name} is {value}, expected a finite number.")
    if not isinstance(sampling_ratio, (int, torch.SymInt)):
        raise TypeError(f"sampling_ratio is {sampling_ratio!r}, expected a whole number.")


def check_shapes(
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    output_size: tuple[int, int],
    position_sensitive: bool,
) -> None:
    """Ranks, then channels, then sizes: each check relies on those before it. The mask is (R, kh, kw)."""
    check_rank("input", input, 4)
    check_rank("offset", offset, 4)
    check_rank("mask", mask, 3)
    input_shape, boxes_shape = tuple(input.shape), tuple(boxes.shape)
    if boxes.dim() != 2 or boxes_shape[1] != 5:
        raise ValueError(f"boxes has shape {boxes_shape}, expected (R, 5).")
    if min(input_shape[1:]) < 1:
        raise ValueError(f"input has shape {input_shape}, expected at least one channel and one pixel.")
    if input_shape[0] == 0 and boxes_shape[0] > 0:
        raise ValueError(f"boxes has shape {boxes_shape}, expected (0, 5) for an input of no images.")
    groups = _offset_groups(input_shape, offset, output_size, position_sensitive)
    regions = boxes_shape[0]
    if offset is not None:
        check_shape("offset", tuple(offset.shape), (regions, 2 * groups, *output_size))
    if mask is not None:
        check_shape("mask", tuple(mask.shape), (regions, *output_size))


def _offset_groups(
    input: Shape, offset: Tensor | None, output_size: tuple[int, int], position_sensitive: bool
) -> int:
    """As many as the channels of the offset make, which have to divide the output's; one if not sensitive."""
    if not position_sensitive:
        return 1
    bins = output_size[0] * output_size[1]
    if input[1] % bins != 0:
        raise ValueError(
            f"input has shape {input}, expected channels (dimension 1) in a multiple of {bins}, the bins of "
            f"output_size {output_size}."
        )
    if offset is None:
        return 1
    channels, out_channels = offset.shape[1], input[1] // bins
    if channels < 2 or channels % 2 != 0 or out_channels % (channels // 2) != 0:
        raise ValueError(
            f"offset has shape {tuple(offset.shape)}, expected channels (dimension 1) twice as many as "
            f"offset groups that divide the {out_channels} channels of the output."
        )
    return channels // 2


def check_image_indices(input: Tensor, boxes: Tensor) -> None:
    """On the CPU alone, where reading them is cheap; elsewhere such a box is outside of every image."""
    if boxes.device.type != "cpu" or boxes.shape[0] == 0:
        return
    lowest, highest = (extreme.item() for extreme in torch.aminmax(boxes[:, 0]))
    if not (lowest >= 0 and highest < input.shape[0]):  # NaN fails too
        raise ValueError(
            f"boxes has image indices (column 0) from {lowest} to {highest}, expected indices of at least 0 "
            f"and below {input.shape[0]}, the images of input."
        )
