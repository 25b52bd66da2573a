"""Effective dilation: how far apart the samples of a deformable filter lie.

Source: Dai et al., "Deformable Convolutional Networks", 2017, section 4.2 and Table 2: the mean of the
distances between all adjacent pairs of sampling locations of a filter. Adjacent are neighbours in a row or in
a column of the filter, not on a diagonal: the value of a plain convolution is then its dilation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .record import LayerSampling, record_sampling


@dataclass(frozen=True)
class LayerDilation:
    """The effective dilation of every filter of one layer, for one image.

    Attributes:
        layer: The layer's name in its model.
        values: ``(H, W, G)`` in float64, for each unit and offset group, in pixels of the layer's input:
            ``d`` for a plain convolution of dilation ``d``.
        centres: ``(H, W, 2)`` in float64, ``(x, y)`` of the units in pixels of the network's input, as in
            `record`.
    """

    layer: str
    values: Tensor
    centres: Tensor


def effective_dilation(model: nn.Module, image: Tensor, plain: bool = False) -> list[LayerDilation]:
    """The effective dilation of a network's deformable layers, in the order of the computation.

    Args:
        model: A network with deformable layers; of a detector the backbone runs. It is left as it was.
        image: Input of the network, ``(1, C, H, W)``, on the model's device.
        plain: Whether plain convolutions of more than one sample are measured too.

    Raises:
        ValueError: When the model has no such layers, or ``image`` has another shape.
    """
    record = record_sampling(model, image, plain)
    return [_layer_dilation(entry) for entry in record if max(entry.kernel_size) > 1]


def _layer_dilation(entry: LayerSampling) -> LayerDilation:
    height, width, samples, _ = entry.positions.shape
    kernel_height, kernel_width = entry.kernel_size
    groups = samples // (kernel_height * kernel_width)
    filters = entry.positions.view(height, width, groups, kernel_height, kernel_width, 2) / entry.input_stride
    distances = [filters.diff(dim=axis).norm(dim=-1).flatten(3) for axis in (3, 4)]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return LayerDilation(
        layer=entry.name,
        values=torch.cat(distances, dim=-1).mean(-1),
        centres=torch.stack([x, y], dim=-1).double() * entry.stride,
    )
