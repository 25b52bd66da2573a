"""RoI pooling in ONNX: the standard's RoiAlign, once for each bin where bins go their own ways.

A bin is a box itself: moved by its offset and pooled as one bin, it looks at the very same points.
"""

import torch
from torch import Tensor
from torch.export import ExportedProgram

_OPERATOR = torch.ops.dcn_backbones.deform_roi_pool.default

_OUTSIDE = 1e9
"""In units of the boxes, what stands for a position that is not finite: ONNX Runtime refuses those."""


def with_plain_pooling(program: ExportedProgram) -> ExportedProgram:
    """The program with all RoI pooling as aligned pooling without offsets and masks, which ONNX has.

    Raises:
        ValueError: When bins with offsets, or position-sensitive ones, choose how many points they have.
    """
    if all(node.target is not _OPERATOR for node in program.graph.nodes):
        return program
    return program.run_decompositions({_OPERATOR: plain_pooling})


def plain_pooling(
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    output_size: list[int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
    position_sensitive: bool,
    backend: str,
) -> Tensor:
    """The arguments and the result of the operator, by calls that have no offset and no mask."""
    rest = (spatial_scale, sampling_ratio, gamma, False, backend)
    if offset is None and not position_sensitive:
        if mask is None:
            return NotImplemented  # the operator stays as it is
        return _modulated(_OPERATOR(input, boxes, None, None, output_size, *rest), mask)
    if sampling_ratio <= 0:
        raise ValueError(
            f"sampling_ratio={sampling_ratio} cannot be exported to ONNX with offsets or position-sensitive: "
            "rounding would decide how many points a bin has; expected a positive number."
        )
    if offset is None:
        offset = boxes.new_zeros(boxes.shape[0], 2, *output_size)
    groups, bins = offset.shape[1] // 2, output_size[0] * output_size[1]
    bin_boxes = _bin_boxes(boxes, offset, output_size, gamma)
    if position_sensitive:
        input, bin_boxes = _with_an_image_for_each_bin(input, bin_boxes, groups, bins)
    pooled = _OPERATOR(input, bin_boxes.flatten(0, 2), None, None, [1, 1], *rest)
    pooled = pooled.view(boxes.shape[0], groups, *output_size, pooled.shape[1])
    return _modulated(pooled.permute(0, 1, 4, 2, 3).flatten(1, 2), mask)


def _modulated(pooled: Tensor, mask: Tensor | None) -> Tensor:
    return pooled if mask is None else (pooled * mask).to(pooled.dtype)


def _bin_boxes(boxes: Tensor, offset: Tensor, output_size: list[int], gamma: float) -> Tensor:
    """Each bin as a box of its own, (R, G, K, 5)."""
    kernel_height, kernel_width = output_size
    image, x1, y1, x2, y2 = boxes[:, :, None, None, None].unbind(1)  # (R, 1, 1, 1)
    width, height = x2 - x1, y2 - y1
    shift_x, shift_y = (gamma * offset).unflatten(1, (-1, 2)).unbind(2)  # (R, G, kh, kw)
    columns = torch.arange(kernel_width, device=boxes.device, dtype=boxes.dtype) / kernel_width
    rows = torch.arange(kernel_height, device=boxes.device, dtype=boxes.dtype)[:, None] / kernel_height
    left, top = x1 + (columns + shift_x) * width, y1 + (rows + shift_y) * height
    right, bottom = left + width / kernel_width, top + height / kernel_height
    bin_boxes = torch.stack([image.expand_as(left), left, top, right, bottom], -1)
    return torch.nan_to_num(bin_boxes, _OUTSIDE, _OUTSIDE, -_OUTSIDE).flatten(2, 3)


def _with_an_image_for_each_bin(
    input: Tensor, bin_boxes: Tensor, groups: int, bins: int
) -> tuple[Tensor, Tensor]:
    """(N, C_out * K, H, W) as (N * G * K, C_out / G, H, W), and the boxes with their indices in that."""
    split = input.unflatten(1, (groups, -1, bins)).transpose(2, 3)
    images = torch.arange(groups * bins, device=bin_boxes.device, dtype=bin_boxes.dtype).view(groups, bins)
    images = bin_boxes[..., 0] * (groups * bins) + images
    return split.flatten(0, 2), torch.cat([images[..., None], bin_boxes[..., 1:]], -1)


def roi_align(
    input, boxes, offset, mask, output_size, spatial_scale, sampling_ratio, gamma, position_sensitive, backend
):
    """The rule for what `with_plain_pooling` leaves of our operator, on onnxscript's symbolic tensors."""
    from onnxscript import opset20

    features = input if input.dtype == boxes.dtype else opset20.CastLike(input, boxes)  # it takes one type
    image = opset20.Cast(opset20.Gather(boxes, 0, axis=1), to=7)  # int64
    output = opset20.RoiAlign(
        features,
        opset20.Slice(boxes, [1], [5], [1]),
        image,
        coordinate_transformation_mode="half_pixel",
        output_height=output_size[0],
        output_width=output_size[1],
        sampling_ratio=max(sampling_ratio, 0),
        spatial_scale=spatial_scale,
    )
    return output if input.dtype == boxes.dtype else opset20.CastLike(output, input)


ROI_ALIGN = {_OPERATOR: roi_align}
