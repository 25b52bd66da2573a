"""How offsets and modulations are distributed in each layer: `offset_health` in full, for a picture of it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .record import LayerSampling, record_sampling
from .running import check_images

SHARES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""Of the samples that lie below each quantile."""


@dataclass(frozen=True)
class OffsetDistribution:
    """Quantiles of one layer's offsets and modulations over images, in float64; Q of them, see `SHARES`.

    Attributes:
        layer: The layer's name in its model.
        offsets: ``(2, Q)``, of the offsets in x and in y, in pixels of the layer's input.
        modulations: ``(Q,)``, of the mask, 0 to 1; ones in a layer without modulation.
    """

    layer: str
    offsets: Tensor
    modulations: Tensor


def offset_distribution(model: nn.Module, images: Tensor) -> list[OffsetDistribution]:
    """The distribution of offsets and modulations in every deformable layer, in the order of the computation.

    Args:
        model: A network with deformable layers; of a detector the backbone runs. It is left as it was.
        images: ``(N, C, H, W)``, on the model's device.

    Raises:
        ValueError: When the model has no deformable layers, or ``images`` has another shape.
    """
    check_images(images)
    records = [record_sampling(model, image) for image in images.split(1)]
    return [_distribution(entries) for entries in zip(*records, strict=True)]


def _distribution(entries: tuple[LayerSampling, ...]) -> OffsetDistribution:
    """Of one layer for every image."""
    first = entries[0]
    offsets = torch.cat([(entry.positions - entry.regular).flatten(0, 2) for entry in entries])
    modulations = torch.cat([entry.weights.flatten() for entry in entries])
    return OffsetDistribution(
        first.name,
        torch.stack([_quantiles(axis) for axis in (offsets / first.input_stride).unbind(-1)]),
        _quantiles(modulations),
    )


def _quantiles(values: Tensor) -> Tensor:
    ordered = values.sort().values  # torch.quantile refuses more than 16 million values
    return ordered[[round(share * (len(ordered) - 1)) for share in SHARES]]
