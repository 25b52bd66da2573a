"""Where one unit of a network samples the image, through one deformable layer or several.

Source: Dai et al., "Deformable Convolutional Networks", 2017, Figure 5: three levels of 3x3 samples are
``9**3 = 729`` positions. Positions are ``(x, y)`` in pixels of the network's input, as in `record`.

A sample of one layer is a unit of the deformable layer below, which has samples of its own. It falls between
units; the nearest one continues it, so that every position reported is one that a unit really samples. Paths
run through the residual branches alone: shortcuts sample nothing, the plain 1x1 convolutions between two
deformable ones move nothing, and a plain 3x3 between them is passed at its centre.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .record import LayerSampling, on_image, point_on_image, record_sampling


@dataclass(frozen=True)
class SamplingLocations:
    """Where one unit samples the image, through one or several deformable layers.

    Attributes:
        point: ``(2,)``, the ``(x, y)`` that was asked for, in pixels.
        layers: Names of the layers, the unit's own first.
        stride: Distance between the unit and its neighbours, in pixels.
        unit: ``(2,)``, the ``(x, y)`` of the unit, the nearest to the point, in pixels.
        positions: ``(M, 2)``, the ``(x, y)`` of its samples, in pixels; ``M`` is the product of the layers'
            ``G*K``. A path that has ended keeps its last position.
        regular: ``(M, 2)``, where the same samples were if the last of these layers had offsets of zero.
        weights: ``(M,)``, the product of the masks along each path; ones without modulation.
        ended: ``(M,)``, whether the path had left a feature map, to where its layer reads zeros, before it
            reached the last layer.
        inside: ``(M,)``, whether the position is on the image and its path has not ended.
    """

    point: Tensor
    layers: tuple[str, ...]
    stride: int
    unit: Tensor
    positions: Tensor
    regular: Tensor
    weights: Tensor
    ended: Tensor
    inside: Tensor

    def moved(self, move: Callable[[Tensor], Tensor]) -> "SamplingLocations":
        """The same with all positions, ``(..., 2)``, put through ``move``: back onto a photograph, say."""
        moved = {name: move(getattr(self, name)) for name in ("point", "unit", "positions", "regular")}
        return replace(self, **moved)


def sampling_locations(
    record: Sequence[LayerSampling], point: tuple[float, float], layer: str | None = None, levels: int = 1
) -> SamplingLocations:
    """Where the unit at a point samples the image, through ``levels`` deformable layers.

    Args:
        record: What `record_sampling` gives.
        point: ``(x, y)`` in pixels of the network's input; the unit nearest to it is taken.
        layer: Name of the layer that the unit belongs to; the last deformable one when None.
        levels: Number of layers to go through: this one and deformable ones computed before it.

    Raises:
        ValueError: When the point is outside the image, the layer is not on record, or there are fewer
            layers than ``levels``.
    """
    layers = _layers_from(record, layer, levels)
    top = layers[0]
    position = point_on_image(point, top.image_size)
    x, y = _nearest_units(position, top).tolist()
    locations = SamplingLocations(
        point=position,
        layers=(top.name,),
        stride=top.stride,
        unit=torch.tensor([x, y], dtype=torch.float64) * top.stride,
        positions=top.positions[y, x],
        regular=top.regular[y, x],
        weights=top.weights[y, x],
        ended=torch.zeros_like(top.weights[y, x], dtype=torch.bool),
        inside=on_image(top.positions[y, x], top.image_size),
    )
    for below in layers[1:]:
        locations = _through(locations, below)
    return locations


def trace_sampling(
    model: nn.Module, image: Tensor, point: tuple[float, float], levels: int = 3
) -> list[list[SamplingLocations]]:
    """Where a model samples an image for a point: from every resolution, through one layer, two and so on.

    Args:
        model: A network of the zoo; see `record_sampling`.
        image: Input of the network, ``(1, C, H, W)``, on the model's device.
        point: ``(x, y)`` in pixels of the input.
        levels: The largest number of layers to go through; fewer where fewer are below.

    Returns:
        For each stride that deformable layers have, from the last layer of that stride: a list whose entry
        ``l`` goes through ``l + 1`` layers.

    Raises:
        ValueError: When the model has no deformable layers, or the point is outside the image.
    """
    record = record_sampling(model, image)
    last_of_stride = {layer.stride: index for index, layer in enumerate(record)}
    return [
        [
            sampling_locations(record, point, record[index].name, level)
            for level in range(1, min(levels, index + 1) + 1)
        ]
        for index in last_of_stride.values()
    ]


def _layers_from(record: Sequence[LayerSampling], layer: str | None, levels: int) -> list[LayerSampling]:
    """The layers to go through, the top one first."""
    names = [entry.name for entry in record]
    if layer is not None and layer not in names:
        raise ValueError(f"layer {layer!r} is not on record; expected one of {', '.join(names)}.")
    available = len(names) if layer is None else names.index(layer) + 1
    if not 1 <= levels <= available:
        raise ValueError(
            f"levels={levels} was given for {names[available - 1]}, "
            f"which has {available - 1} deformable layers below it; expected 1 to {available}."
        )
    return list(record[available - levels : available])[::-1]


def _nearest_units(positions: Tensor, layer: LayerSampling) -> Tensor:
    """Indices ``(x, y)`` of the units of a layer that are nearest to positions, ``(..., 2)``."""
    units = (positions / layer.stride).nan_to_num().round()
    return units.clamp(min=0).minimum(layer.grid - 1).long()


def _through(above: SamplingLocations, layer: LayerSampling) -> SamplingLocations:
    """The paths of ``above`` through one layer more, ``M`` of them becoming ``M * G*K``."""
    units = above.positions / layer.stride
    reads_zeros = ~((units > -1) & (units < layer.grid)).all(-1)  # the operator's boundary rule
    ended = above.ended | reads_zeros
    x, y = _nearest_units(above.positions, layer).unbind(-1)
    over, last = ended[:, None, None], above.positions[:, None]
    positions = torch.where(over, last, layer.positions[y, x]).flatten(0, 1)
    regular = torch.where(over, last, layer.regular[y, x]).flatten(0, 1)
    weights = above.weights[:, None] * torch.where(ended[:, None], 1.0, layer.weights[y, x])
    ended = ended[:, None].expand_as(weights).flatten()
    return replace(
        above,
        layers=(*above.layers, layer.name),
        positions=positions,
        regular=regular,
        weights=weights.flatten(),
        ended=ended,
        inside=on_image(positions, layer.image_size) & ~ended,
    )
