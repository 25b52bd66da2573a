"""All views of one node's spatial support in one photograph, as Figure 1 of the DCNv2 paper has them."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from .effective_locations import EffectiveLocations, effective_sampling_locations, merge_locations
from .node import ClassLogit, Node, Point, point_at
from .photograph import Preprocessing, input_point
from .receptive_field import effective_receptive_field
from .record import record_sampling
from .saliency import Progress, SaliencyRegion, saliency_region
from .sampling import SamplingLocations, sampling_locations


@dataclass(frozen=True)
class SupportSettings:
    """How the views are made.

    Attributes:
        layer: Layer of the points; the last feature map of a timm model when None.
        levels: Number of layers that sampling locations go through.
        bound: Largest relative error of the response of the saliency region alone.
    """

    layer: str | None = None
    levels: int = 3
    bound: float = 0.2


@dataclass(frozen=True)
class SpatialSupport:
    """What one node of one model depends on; positions are in pixels of ``picture``.

    Attributes:
        model: Name of the model.
        node: The node.
        picture: What the network sees of the photograph, as large as its input.
        sampling: Where the unit of a point samples; None for other nodes.
        effective: The locations of the last layers together, each with its strength.
        receptive_field: ``(H, W)``, see `effective_receptive_field`.
        saliency: The error-bounded saliency region.
    """

    model: str
    node: Node
    picture: Image.Image
    sampling: SamplingLocations | None
    effective: EffectiveLocations
    receptive_field: Tensor
    saliency: SaliencyRegion


def spatial_support(
    name: str,
    model: nn.Module,
    photograph: Image.Image,
    target: tuple[float, float] | ClassLogit,
    settings: SupportSettings = SupportSettings(),
    progress: Progress | None = None,
) -> SpatialSupport:
    """Every view of what a timm model's node depends on in a photograph.

    Args:
        name: What the model is called.
        model: A timm model, on any device.
        photograph: Mode RGB; it reaches the network as its evaluation transform prepares it.
        target: ``(x, y)`` in pixels of the photograph, for the unit of the layer that is nearest, or a logit.
        settings: How the views are made.
        progress: Called after every batch of the saliency region with the number of images in it.

    Raises:
        ValueError: When the network does not see the point, or the node is not in the model.
    """
    preprocessing = Preprocessing(model)
    image = preprocessing(photograph)
    node = target
    if not isinstance(target, ClassLogit):
        position = input_point(photograph, preprocessing.geometry(photograph), target)
        node = point_at(model, image, settings.layer or last_layer(model), position)
    effective = effective_sampling_locations(model, image, node, levels=settings.levels)
    return SpatialSupport(
        model=name,
        node=node,
        picture=preprocessing.seen(photograph),
        sampling=_sampling(model, image, node, effective) if isinstance(node, Point) else None,
        effective=merge_locations(effective),
        receptive_field=effective_receptive_field(model, image, node),
        saliency=saliency_region(model, image, node, settings.bound, progress=progress),
    )


def last_layer(model: nn.Module) -> str:
    """The layer with the last feature map of a timm model."""
    return model.feature_info[-1]["module"]


def _sampling(
    model: nn.Module, image: Tensor, node: Point, effective: list[EffectiveLocations]
) -> SamplingLocations:
    """Where the node's unit samples, through the layers that have effective locations."""
    record = record_sampling(model, image, plain=True)
    top = next(entry for entry in record if entry.name == effective[0].layer)
    last = torch.tensor(top.image_size) - 1
    x, y = torch.minimum(torch.tensor([node.x, node.y]) * top.stride, last).tolist()
    return sampling_locations(record, (x, y), top.name, len(effective))
