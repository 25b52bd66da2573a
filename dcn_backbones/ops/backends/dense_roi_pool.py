"""Deformable RoI pooling on dense, channels-last tensors, for backends on a GPU that bring two kernels.

Nothing here waits for the device or decides by what is in its memory: a call can be captured in a CUDA graph.
"""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from . import fixed_point
from .base import Backend, Gradients, Pair, accumulate_type
from .blocks import Images, channels_first, channels_last, sums_like


class Pooling(NamedTuple):
    """What both kernels are given, all dense; R regions, G offset groups, K = kh * kw bins.

    "Accumulate" is float64 beside a float64 input and float32 beside all others.
    """

    input: Tensor  # (N, H, W, C); where it is position-sensitive, channels are `[bin][channel of the output]`
    boxes: Tensor  # (R, 5), accumulate type
    offset: Tensor | None  # (R, 2 * G, kh, kw), accumulate type
    mask: Tensor | None  # (R, G, kh, kw), accumulate type
    output_size: Pair
    spatial_scale: float
    sampling_ratio: int
    gamma: float
    position_sensitive: bool

    @property
    def bins(self) -> int:
        return self.output_size[0] * self.output_size[1]

    @property
    def regions(self) -> int:
        return self.boxes.shape[0]

    @property
    def offset_groups(self) -> int:
        if self.offset is not None:
            return self.offset.shape[1] // 2
        return 1 if self.mask is None else self.mask.shape[1]

    @property
    def out_channels(self) -> int:
        channels = self.input.shape[3]
        return channels // self.bins if self.position_sensitive else channels

    def from_input(self, grad_input: Tensor) -> Tensor:
        """(N, H, W, C) in the order of the channels here as (N, C, H, W) in that of the caller."""
        if not self.position_sensitive:
            return channels_first(grad_input)
        return grad_input.unflatten(3, (self.bins, -1)).permute(0, 4, 3, 1, 2).flatten(1, 2)


class RoiGradients(NamedTuple):
    """What a backward is to fill; None stands for what is not asked for."""

    input: Tensor | None  # as `Pooling.input`, sums: added to; 64-bit integers beside a scale (`fixed_point`)
    offset: Tensor | None  # as `Pooling.offset`, overwritten
    mask: Tensor | None  # as `Pooling.mask`, overwritten
    scale: Tensor | None  # no dimensions, accumulate type


class DenseRoiPool(Backend):
    """The layouts and the sums; a subclass pools. No kernel is asked for no region."""

    @abstractmethod
    def roi_pool(self, pooling: Pooling, output: Tensor) -> None:
        """Fill `output` (R, kh, kw, C_out), of the input's type."""

    @abstractmethod
    def roi_pool_backward(self, pooling: Pooling, grad_output: Tensor, gradients: RoiGradients) -> None:
        """Fill the gradients from `grad_output` (R, kh, kw, C_out), of the input's type."""

    def deform_roi_pool_forward(self, input, boxes, offset, mask, *settings) -> Tensor:
        pooling = _prepare(input, boxes, offset, mask, *settings)
        output = input.new_empty(pooling.regions, *pooling.output_size, pooling.out_channels)
        if pooling.regions > 0:
            self.roi_pool(pooling, output)
        return channels_first(output)

    def deform_roi_pool_backward(
        self, grad_output, input, boxes, offset, mask, *settings_and_needs
    ) -> Gradients:
        *settings, (needs_input, needs_offset, needs_mask) = settings_and_needs
        pooling = _prepare(input, boxes, offset, mask, *settings, reads_pixels=needs_offset or needs_mask)
        grad_output = channels_last(grad_output)
        sums = sums_like(pooling.input, _scale(pooling, grad_output)) if needs_input else None
        images = Images(0, input.shape[0], [])
        gradients = RoiGradients(
            sums.begin(images) if sums else None,
            torch.empty_like(pooling.offset) if needs_offset else None,
            torch.empty_like(pooling.mask) if needs_mask else None,
            sums.scale if sums else None,
        )
        if pooling.regions > 0:
            self.roi_pool_backward(pooling, grad_output, gradients)
        if sums:
            sums.end(images)
        grad_input = pooling.from_input(sums.result) if sums else None
        return grad_input, gradients.offset, gradients.mask


def _prepare(
    input,
    boxes,
    offset,
    mask,
    output_size,
    spatial_scale,
    sampling_ratio,
    gamma,
    position_sensitive,
    reads_pixels=True,
) -> Pooling:
    """Where no pixel is read the input is only a type and a shape, and not converted."""
    if position_sensitive:
        bins = output_size[0] * output_size[1]
        pixels = input.unflatten(1, (-1, bins)).permute(0, 3, 4, 2, 1).flatten(3)
    else:
        pixels = input.permute(0, 2, 3, 1)
    pixels = pixels.contiguous() if reads_pixels else pixels.new_empty(pixels.shape)
    positions = accumulate_type(input.dtype)
    boxes, offset, mask = (
        None if tensor is None else tensor.to(positions).contiguous() for tensor in (boxes, offset, mask)
    )
    settings = tuple(output_size), spatial_scale, sampling_ratio, gamma, position_sensitive
    return Pooling(pixels, boxes, offset, mask, *settings)


def _scale(pooling: Pooling, grad_output: Tensor) -> Tensor | None:
    """For a deterministic backward: at most one contribution of each bin of each region meets in a pixel."""
    if not torch.are_deterministic_algorithms_enabled():
        return None
    contributions = max(1, pooling.regions * pooling.bins)
    return fixed_point.scale_of(
        grad_output, None, pooling.mask, contributions, accumulate_type(grad_output.dtype)
    )
