"""Where a network samples, as an SVG to lay over the photograph: sharp at every size, without matplotlib.

The colours are Okabe and Ito's orange and sky blue, which people with any kind of colour blindness tell
apart, each with a dark edge; and what they mark differs in shape too.
"""

import base64
import io
import math
from collections.abc import Iterator
from html import escape

from PIL import Image
from torch import Tensor

from .effective_locations import EffectiveLocations
from .sampling import SamplingLocations

Box = tuple[float, float, float, float]

SAMPLE_COLOUR, POINT_COLOUR, REGULAR_COLOUR, EDGE_COLOUR = "#e69f00", "#56b4e9", "#ffffff", "#101010"

# Lengths in parts of the image's diagonal.
_LARGEST_SAMPLE = {1: 0.014, 2: 0.009}  # its radius, by the number of layers
_SMALL_LARGEST_SAMPLE = 0.006
_SMALLEST_SAMPLE = 0.25  # in parts of the largest: none disappears
_REGULAR_RADIUS, _UNIT_RADIUS, _POINT_RADIUS = 0.006, 0.013, 0.009
_THIN, _THICK = 0.0022, 0.0035

_MOST_STRENGTHS = 500  # the strongest; the others could hardly be seen
_DARKEST = 0.85  # opacity of the shade where nothing depends on the image


def sampling_svg(locations: SamplingLocations, size: tuple[int, int], seen: Box | None = None) -> str:
    """Draw sampling locations as an SVG element of the image's size, transparent where nothing is marked.

    A blue cross marks the point, a blue diamond the unit nearest to it, orange discs its samples, larger
    where their weight is larger. Through a single layer, a white ring marks where each would be in a plain
    convolution, and a line leads from there. Samples outside the image are left out.

    Args:
        locations: What is drawn, in pixels of the image.
        size: Width and height of the image, in pixels.
        seen: Left, upper, right and lower border of what the network sees of it; the rest is dimmed.
    """
    diagonal = math.hypot(*size)
    label = f"{int(locations.inside.sum())} samples of {escape(locations.layers[0])}"
    marks = _cased(_shifts(locations, diagonal), REGULAR_COLOUR, _THIN * diagonal, "plain convolution")
    return _element(locations, size, seen, label, marks + _samples(locations, diagonal))


def strengths_svg(
    locations: SamplingLocations, effective: EffectiveLocations, size: tuple[int, int], seen: Box
) -> str:
    """The same element with a node's effective sampling locations, larger where they are stronger.

    Args:
        locations: Of the node, for its point and unit, in pixels of the image.
        effective: What is drawn, in pixels of the image.
        size: Width and height of the image, in pixels.
        seen: As in `sampling_svg`.
    """
    largest = math.hypot(*size) * _LARGEST_SAMPLE[1]
    radii = (effective.strengths / effective.strengths.max()).sqrt() * largest  # by area
    order = radii.argsort(descending=True)[:_MOST_STRENGTHS]
    discs = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.2f}"/>'
        for (x, y), radius in zip(effective.positions[order].tolist(), radii[order].tolist(), strict=True)
    )
    marks = (
        f'<g fill="{SAMPLE_COLOUR}" stroke="{EDGE_COLOUR}" stroke-width="{0.08 * largest:.2f}">{discs}</g>'
    )
    label = f"effective sampling locations of {escape(effective.layer)}"
    return _element(locations, size, seen, label, marks)


def spotlight_svg(
    locations: SamplingLocations, brightness: Tensor, size: tuple[int, int], seen: Box, label: str
) -> str:
    """The same element with the image darkened where little depends on it.

    Args:
        locations: Of the node, for its point and unit, in pixels of the image.
        brightness: ``(H, W)``, 0 to 1, of the pixels of the network's input.
        size: Width and height of the image, in pixels.
        seen: As in `sampling_svg`: where the input lies on the image.
        label: What is shown, in words.
    """
    shade = Image.fromarray(((1 - brightness.float()) * _DARKEST * 255).byte().cpu().numpy())
    picture = Image.merge("LA", (Image.new("L", shade.size, 0), shade))
    file = io.BytesIO()
    picture.save(file, "PNG")
    encoded = base64.b64encode(file.getvalue()).decode()
    left, upper, right, lower = seen
    marks = (
        f'<image x="{left:.1f}" y="{upper:.1f}" width="{right - left:.1f}" height="{lower - upper:.1f}" '
        f'preserveAspectRatio="none" href="data:image/png;base64,{encoded}"/>'
    )
    return _element(locations, size, seen, escape(label), marks)


def _element(
    locations: SamplingLocations, size: tuple[int, int], seen: Box | None, label: str, marks: str
) -> str:
    """An SVG of marks, and of a point and its unit in front of them."""
    diagonal = math.hypot(*size)
    return (
        # Positions count from the centre of the first pixel, an SVG's from its corner.
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-0.5 -0.5 {size[0]} {size[1]}" role="img" '
        f'aria-label="{label}">'
        + (_unseen(seen, size) if seen else "")
        + marks
        + _cased(_diamond(locations.unit, _UNIT_RADIUS * diagonal), POINT_COLOUR, _THICK * diagonal, "unit")
        + _cased(_cross(locations.point, _POINT_RADIUS * diagonal), POINT_COLOUR, _THICK * diagonal, "point")
        + "</svg>"
    )


def _unseen(seen: Box, size: tuple[int, int]) -> str:
    left, upper = (max(border, -0.5) for border in seen[:2])
    right, lower = (min(border, length - 0.5) for border, length in zip(seen[2:], size, strict=True))
    whole = f"M-.5-.5h{size[0]}v{size[1]}h-{size[0]}z"
    hole = f"M{left:.1f} {upper:.1f}H{right:.1f}V{lower:.1f}H{left:.1f}z"
    return f'<path fill="#000" opacity="0.6" fill-rule="evenodd" d="{whole}{hole}"/>'


def _samples(locations: SamplingLocations, diagonal: float) -> str:
    largest = diagonal * _LARGEST_SAMPLE.get(len(locations.layers), _SMALL_LARGEST_SAMPLE)
    radii = (locations.weights / locations.weights.max()).sqrt().clamp(
        min=_SMALLEST_SAMPLE
    ) * largest  # by area
    discs = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.2f}"><title>weight {weight:.2f}</title></circle>'
        for (x, y), radius, weight in _inside(locations, locations.positions, radii, locations.weights)
    ]
    group = f'<g fill="{SAMPLE_COLOUR}" stroke="{EDGE_COLOUR}" stroke-width="{0.12 * largest:.2f}">'
    return f"{group}{''.join(discs)}</g>"


def _shifts(locations: SamplingLocations, diagonal: float) -> str:
    """For a single layer, a ring where each sample would be in a plain convolution and a line from there."""
    if len(locations.layers) > 1:
        return ""
    radius = _REGULAR_RADIUS * diagonal
    return "".join(
        f'<circle cx="{from_x:.1f}" cy="{from_y:.1f}" r="{radius:.2f}"/>'
        f'<path d="M{from_x:.1f} {from_y:.1f}L{x:.1f} {y:.1f}"/>'
        for (from_x, from_y), (x, y) in _inside(locations, locations.regular, locations.positions)
    )


def _inside(locations: SamplingLocations, *columns: Tensor) -> Iterator[tuple]:
    return zip(*(column[locations.inside].tolist() for column in columns), strict=True)


def _diamond(centre: Tensor, radius: float) -> str:
    x, y = centre.tolist()
    half = f"{radius:.2f}"
    return f'<path d="M{x:.1f} {y - radius:.2f}l{half} {half}l-{half} {half}l-{half}-{half}z"/>'


def _cross(centre: Tensor, radius: float) -> str:
    x, y = centre.tolist()
    return f'<path d="M{x - radius:.2f} {y:.1f}h{2 * radius:.2f}M{x:.1f} {y - radius:.2f}v{2 * radius:.2f}"/>'


def _cased(shapes: str, colour: str, width: float, title: str) -> str:
    """Outlines in a colour on a wider dark line, to show on anything."""
    strokes = ((EDGE_COLOUR, 2.2 * width), (colour, width))
    groups = (f'<g fill="none" stroke="{c}" stroke-width="{w:.2f}">{shapes}</g>' for c, w in strokes)
    return f"<g><title>{title}</title>{''.join(groups)}</g>" if shapes else ""
