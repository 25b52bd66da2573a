"""Pictures of spatial support: the views of one node, side by side for several models."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from ..bins import BinLocations
from ..effective_locations import EffectiveLocations
from ..overlay import EDGE_COLOUR, POINT_COLOUR, REGULAR_COLOUR, SAMPLE_COLOUR
from ..saliency import SaliencyRegion
from ..support import SpatialSupport
from .figure import FONT, Background, colour_text, new_figure, new_panel, save_figure, set_title
from .sampling import draw_samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEAT = "inferno"  # in steps that look equal, and in grey and to colour-blind eyes too
_DIMMED = 0.45  # brightness of the photograph behind what is drawn on it
_LARGEST_DOT = 60.0  # square points


def draw_effective(axes: "Axes", picture: Image.Image, found: EffectiveLocations) -> None:
    """Locations as dots, the stronger the brighter, larger and further in front."""
    axes.imshow(_dimmed_grey(picture))
    order = found.strengths.argsort()
    strength = (found.strengths[order] / found.strengths.max()).numpy()
    dots = {"s": _LARGEST_DOT * (0.05 + 0.95 * strength), "c": strength, "cmap": _HEAT, "vmin": 0, "vmax": 1}
    axes.scatter(*found.positions[order].T.numpy(), linewidths=0, **dots)
    _keep_to(axes, picture)


def draw_receptive_field(axes: "Axes", picture: Image.Image, field: Tensor) -> None:
    """The square root of the field, of its largest value, as colours over the photograph in grey."""
    axes.imshow(_dimmed_grey(picture))
    values = field.float().cpu().numpy()
    values = np.sqrt(values / values.max()) if values.max() > 0 else values
    axes.imshow(values, cmap=_HEAT, vmin=0, vmax=1, alpha=np.clip(2 * values, 0, 1))


def draw_saliency(axes: "Axes", picture: Image.Image, region: SaliencyRegion) -> None:
    """The photograph where the region is, and hardly anything elsewhere."""
    mask = region.mask.cpu().numpy()
    axes.imshow(np.where(mask[..., None], np.asarray(picture), _dimmed_grey(picture)))
    if 0 < mask.mean() < 1:
        axes.contour(mask, levels=[0.5], colors=SAMPLE_COLOUR, linewidths=1.5)


def draw_bins(axes: "Axes", picture: Image.Image, bins: BinLocations) -> None:
    """The RoI in white, its bins as outlines where they are pooled, the stronger the brighter."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    axes.imshow(_dimmed_grey(picture))
    x1, y1, x2, y2 = bins.box.tolist()
    width, height = bins.size.tolist()
    strengths = bins.strengths / bins.strengths.max().clamp(min=1e-300)
    for index in strengths.argsort().tolist():
        corner = bins.positions[index] - bins.size / 2
        colour = colormaps[_HEAT](float(strengths[index]))
        axes.add_patch(Rectangle(corner.tolist(), width, height, fill=False, color=colour, linewidth=1.2))
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=REGULAR_COLOUR, linewidth=1.5))
    _keep_to(axes, picture)


VIEWS: dict[str, Callable[["Axes", SpatialSupport], None]] = {
    "sampling locations": lambda axes, support: _draw_sampling(axes, support),
    "effective sampling locations": lambda axes, s: draw_effective(axes, s.picture, s.effective),
    "effective receptive field": lambda axes, s: draw_receptive_field(axes, s.picture, s.receptive_field),
    "error-bounded saliency region": lambda axes, s: draw_saliency(axes, s.picture, s.saliency),
}
"""What is drawn of a node, in the order of the rows."""


def plot_support(
    supports: Sequence[SpatialSupport], path: str | Path, background: Background = "light"
) -> None:
    """The papers' figure: a row for each view, a column for each model.

    Args:
        supports: The same node of several models.
        path: The file to write; its suffix names the format, as .png or .svg.
        background: "light" or "dark", of the page around the panels.

    Raises:
        ValueError: When the format or the background is unknown.
        OSError: When the file cannot be written.
        ImportError: When matplotlib is not installed.
    """
    picture = supports[0].picture
    figure = new_figure(len(VIEWS), len(supports), picture.height / picture.width, background)
    panels = figure.subplots(len(VIEWS), len(supports), squeeze=False)
    for row, (title, draw) in zip(panels, VIEWS.items(), strict=True):
        for axes, support in zip(row, supports, strict=True):
            axes.set_axis_off()
            draw(axes, support)
            _mark(axes, support)
        row[0].text(
            -0.02, 0.5, title, transform=row[0].transAxes, rotation=90, ha="right", va="center", **FONT
        )
    for axes, support in zip(panels[0], supports, strict=True):
        set_title(axes, support.model)
    colour_text(figure, background)
    save_figure(figure, path)


def plot_view(support: SpatialSupport, view: str, path: str | Path) -> None:
    """One of `VIEWS` alone, without a word on it; arguments and errors as in `plot_support`."""
    figure, axes = new_panel(support.picture.size)
    axes.set_axis_off()
    VIEWS[view](axes, support)
    _mark(axes, support)
    save_figure(figure, path)


def plot_bins(
    picture: Image.Image,
    columns: Sequence[tuple[str, BinLocations]],
    path: str | Path,
    background: Background = "light",
) -> None:
    """Bins of one region in several detectors, side by side; arguments and errors as in `plot_support`."""
    figure = new_figure(1, len(columns), picture.height / picture.width, background)
    for axes, (title, bins) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        axes.set_axis_off()
        draw_bins(axes, picture, bins)
        set_title(axes, title)
    colour_text(figure, background)
    save_figure(figure, path)


def _draw_sampling(axes: "Axes", support: SpatialSupport) -> None:
    axes.imshow(support.picture)
    if support.sampling is not None:
        draw_samples(axes, support.sampling)
    _keep_to(axes, support.picture)


def _mark(axes: "Axes", support: SpatialSupport) -> None:
    """Mark the unit of a point."""
    if support.sampling is not None:
        marker = {"marker": "D", "c": POINT_COLOUR, "edgecolors": EDGE_COLOUR, "linewidths": 0.9, "s": 40}
        axes.scatter(*support.sampling.unit, **marker)
    _keep_to(axes, support.picture)


def _dimmed_grey(picture: Image.Image) -> np.ndarray:
    grey = np.asarray(picture.convert("L").convert("RGB"))
    return (_DIMMED * grey).astype(np.uint8)


def _keep_to(axes: "Axes", picture: Image.Image) -> None:
    """Show the picture and nothing beside it."""
    axes.set_xlim(-0.5, picture.width - 0.5)
    axes.set_ylim(picture.height - 0.5, -0.5)
