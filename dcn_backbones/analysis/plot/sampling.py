"""Pictures of where a network samples a photograph."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageEnhance
from torch import nn

from ..overlay import EDGE_COLOUR, POINT_COLOUR, SAMPLE_COLOUR, Box
from ..photograph import Preprocessing, image_centre, input_point
from ..sampling import SamplingLocations, trace_sampling
from .figure import FONT, Background, colour_text, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DIMMED = 0.4  # brightness of what the network does not see
_ROW_LABEL = {**FONT, "rotation": "vertical", "ha": "right", "va": "center"}
_SAMPLE = {"c": SAMPLE_COLOUR, "edgecolors": EDGE_COLOUR}
_UNIT = {"c": POINT_COLOUR, "marker": "D", "edgecolors": EDGE_COLOUR, "linewidths": 0.9, "s": 70}
_POINT = {"c": POINT_COLOUR, "marker": "X", "edgecolors": EDGE_COLOUR, "linewidths": 0.6, "s": 48}
_SAMPLE_AREA = {1: 28.0, 2: 14.0}  # square points, by the number of layers
_SMALL_SAMPLE_AREA = 7.0


def draw_sampling(
    model: nn.Module,
    image: Image.Image,
    path: str | Path,
    point: tuple[float, float] | None = None,
    levels: int = 3,
) -> None:
    """Draw where a model's deformable layers sample a photograph for a point on it.

    Args:
        model: A network of the zoo, on any device.
        image: The photograph, mode RGB; it reaches the network as its evaluation transform prepares it.
        path: The file to write; its suffix names the format.
        point: ``(x, y)`` in pixels of the photograph; its centre when None.
        levels: The largest number of deformable layers to go through.

    Raises:
        ValueError: When the model has no deformable layers, the network does not see the point, or the
            format is unknown.
        OSError: When the file cannot be written.
        ImportError: When matplotlib is not installed.
    """
    preprocessing = Preprocessing(model)
    geometry = preprocessing.geometry(image)
    target = input_point(image, geometry, point or image_centre(image))
    rows = trace_sampling(model, preprocessing(image), target, levels)
    on_photograph = [[locations.moved(geometry.to_photograph) for locations in row] for row in rows]
    plot_sampling(image, on_photograph, path, seen=geometry.borders())


def plot_sampling(
    image: Image.Image,
    locations: Sequence[Sequence[SamplingLocations]],
    path: str | Path,
    seen: Box | None = None,
    background: Background = "light",
) -> None:
    """Draw sampling locations on an image, one panel each: a unit blue, its samples orange.

    The larger its weight, the larger and the more opaque a sample is. Samples outside are counted in the
    panel's title instead.

    Args:
        image: What is drawn on.
        locations: Rows of panels, with positions in pixels of ``image``.
        path: The file to write; its suffix names the format.
        seen: Left, upper, right and lower border of what the network sees of ``image``; the rest is dimmed.
        background: "light" or "dark", of the page around the panels.

    Raises:
        ValueError: When the format is unknown.
        OSError: When the file cannot be written.
        ImportError: When matplotlib is not installed.
    """
    if seen:
        image = _dim_outside(image, seen)
    columns = max(len(row) for row in locations)
    figure = new_figure(len(locations), columns, image.height / image.width, background)
    panels = figure.subplots(len(locations), columns, squeeze=False)
    for axes_row, row in zip(panels, locations, strict=True):
        for axes in axes_row:
            axes.set_axis_off()
        for axes, entry in zip(axes_row, row, strict=False):
            axes.imshow(image)
            draw_samples(axes, entry)
            axes.set_title(_title(entry), **FONT)
        row_label = f"{row[0].layers[0]}, stride {row[0].stride}"
        axes_row[0].text(-0.02, 0.5, row_label, transform=axes_row[0].transAxes, **_ROW_LABEL)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, **FONT)
    colour_text(figure, background)
    save_figure(figure, path)


def _dim_outside(image: Image.Image, seen: Box) -> Image.Image:
    left, upper, right, lower = (round(border + 0.5) for border in seen)  # centres to corners of pixels
    box = max(left, 0), max(upper, 0), min(right, image.width), min(lower, image.height)
    dimmed = ImageEnhance.Brightness(image).enhance(_DIMMED)
    dimmed.paste(image.crop(box), box)
    return dimmed


def draw_samples(axes: "Axes", locations: SamplingLocations) -> None:
    positions = locations.positions[locations.inside].numpy()
    weights = locations.weights[locations.inside].numpy()
    strength = weights / locations.weights.max().item()
    area = _SAMPLE_AREA.get(len(locations.layers), _SMALL_SAMPLE_AREA)
    axes.scatter(*locations.point, label="point", **_POINT)
    axes.scatter(*locations.unit, label="unit nearest to it", **_UNIT)
    axes.scatter(
        *positions.T,
        s=area * (0.4 + 0.6 * strength),
        alpha=0.25 + 0.75 * strength if len(strength) else None,  # matplotlib takes no empty array
        linewidths=0.02 * area,
        label="its samples, sized by weight",
        **_SAMPLE,
    )


def _title(locations: SamplingLocations) -> str:
    layers, samples = len(locations.layers), len(locations.inside)
    outside = samples - int(locations.inside.sum())
    title = f"{layers} layer{'s' * (layers > 1)}, {samples} samples"
    return f"{title}, {outside} outside" if outside else title
