"""What the page shows, without the page: a photograph, its classes and where each layer looks for a point."""

from dataclasses import dataclass, replace
from functools import lru_cache

import timm
from PIL import Image
from timm.models import get_pretrained_cfg
from torch import nn

import dcn_backbones  # noqa: F401 (registers the models)
from dcn_backbones.analysis import (
    InputGeometry,
    LayerSampling,
    Point,
    Prediction,
    Preprocessing,
    SamplingLocations,
    classify,
    effective_receptive_field,
    effective_sampling_locations,
    load_model,
    merge_locations,
    record_sampling,
    saliency_region,
    sampling_locations,
    sampling_svg,
)
from dcn_backbones.analysis.overlay import spotlight_svg, strengths_svg
from dcn_backbones.analysis.photograph import input_point

MODELS_IN_MEMORY = 2
BOUND = 0.2  # of the saliency region's error
STRENGTHS = (
    "The larger a disc, the more the unit's response changes when that sample moves: three layers together."
)
FIELD = "The brighter a pixel, the more it changes the unit's response: the effective receptive field."
REGION = (
    "The bright {share:.0%} of what the network sees give the unit nearly the same response when the rest is "
    "wiped out: {error:.0%} off."
)
UNSEEN = "The network does not see this part of the picture; please click where it is bright."


@dataclass(frozen=True)
class Look:
    """One model's look at one photograph.

    Attributes:
        model: Its name.
        photograph: As the page shows it.
        predictions: Its five most probable classes.
        record: Where every unit of every deformable layer samples it.
        geometry: Where the network's input lies on it.
        point: The ``(x, y)`` that was clicked, in its pixels.
    """

    model: str
    photograph: Image.Image
    predictions: list[Prediction]
    record: list[LayerSampling]
    geometry: InputGeometry
    point: tuple[float, float]

    def at(self, point: tuple[float, float]) -> "Look":
        """The same for another point.

        Raises:
            ValueError: With a sentence for the visitor, when the network does not see the point.
        """
        try:
            input_point(self.photograph, self.geometry, point)
        except ValueError as error:
            raise ValueError(UNSEEN) from error
        return replace(self, point=point)

    def at_part(self, x: float, y: float) -> "Look":
        """The same for the point at these parts of the photograph's width and height; see `at`."""
        size = self.photograph.size
        x, y = (min(max(part * n - 0.5, 0), n - 1) for part, n in zip((x, y), size, strict=True))
        return self.at((x, y))

    def moved(self, x: float, y: float) -> "Look":
        """The same for a point that is these parts of the photograph's width and height away; see `at`."""
        parts = ((p + 0.5) / n for p, n in zip(self.point, self.photograph.size, strict=True))
        return self.at_part(*(part + step for part, step in zip(parts, (x, y), strict=True)))

    def locations(self, layer: int, levels: int = 1) -> SamplingLocations:
        """Where a layer samples the photograph for the point, in its pixels.

        Args:
            layer: Counted from 0, in the order of the computation.
            levels: Number of layers to go through, down to the first one at most.
        """
        point = input_point(self.photograph, self.geometry, self.point)
        levels = min(levels, layer + 1)
        locations = sampling_locations(self.record, point, self.record[layer].name, levels)
        return locations.moved(self.geometry.to_photograph)

    def show(self, view: str, layer: int, levels: int = 1) -> tuple[str, str]:
        """A view of what a layer's unit at the point depends on, as an SVG, and what to say of it.

        Args:
            view: "samples", "strengths", "field" or "region".
            layer: Counted from 0, in the order of the computation.
            levels: Of samples, as in `locations`.
        """
        size, seen = self.photograph.size, self.geometry.borders()
        if view == "samples":
            return sampling_svg(self.locations(layer, levels), size, seen), ""
        model, at = load(self.model), self.locations(layer)
        image, node = Preprocessing(model)(self.photograph), self.node(layer)
        if view == "strengths":
            found = merge_locations(effective_sampling_locations(model, image, node))
            moved = replace(found, positions=self.geometry.to_photograph(found.positions))
            return strengths_svg(at, moved, size, seen), STRENGTHS
        if view == "field":
            field = effective_receptive_field(model, image, node)
            return spotlight_svg(at, (field / field.max()).sqrt(), size, seen, "receptive field"), FIELD
        region = saliency_region(model, image, node, BOUND)
        said = REGION.format(share=region.share, error=region.error)
        return spotlight_svg(at, region.mask, size, seen, "saliency region"), said

    def node(self, layer: int) -> Point:
        """The unit of a layer that is nearest to the point."""
        entry = self.record[layer]
        x, y = input_point(self.photograph, self.geometry, self.point)
        unit = sampling_locations(self.record, (x, y), entry.name).unit / entry.stride
        return Point(entry.name, *map(int, unit.tolist()))

    def shifts(self) -> list[float]:
        """For each layer, how far its samples for the point lie from a plain convolution's, in pixels."""
        return [mean_shift(self.locations(layer)) for layer in range(len(self.record))]


def mean_shift(locations: SamplingLocations) -> float:
    """Mean distance between samples and where they were with offsets of zero."""
    return (locations.positions - locations.regular).norm(dim=-1).mean().item()


def look(name: str, photograph: Image.Image, point: tuple[float, float] | None = None) -> Look:
    """Run a model on a photograph.

    Args:
        name: As for `load_model`.
        photograph: Mode RGB.
        point: ``(x, y)`` in its pixels; the middle when None, or when this model does not see the point.

    Raises:
        ValueError: When the model cannot be had or has no deformable layers.
    """
    model = load(name)
    preprocessing = Preprocessing(model)
    middle = (photograph.width - 1) / 2, (photograph.height - 1) / 2
    looked = Look(
        model=name,
        photograph=photograph,
        predictions=classify(model, photograph, top=5),
        record=record_sampling(model, preprocessing(photograph)),
        geometry=preprocessing.geometry(photograph),
        point=middle,
    )
    try:
        return looked.at(point or middle)
    except ValueError:
        return looked


@lru_cache(maxsize=MODELS_IN_MEMORY)
def load(name: str) -> nn.Module:
    """`load_model`, with the last ones kept in memory."""
    return load_model(name)


def zoo_choices() -> list[tuple[str, str]]:
    """The zoo's models, ``(what is shown, name)``: first those that need no download."""
    choices = []
    for name in timm.list_models("dcnv*"):
        cfg = get_pretrained_cfg(name)
        embedded = cfg.file is not None
        kind = "trained" if embedded else "plain ResNet weights"
        choices.append((not embedded, f"{name} · {kind}, {cfg.num_classes} classes", name))
    return [choice[1:] for choice in sorted(choices)]
