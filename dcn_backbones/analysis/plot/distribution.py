"""Pictures of how offsets and modulations are distributed over the layers."""

from collections.abc import Sequence
from pathlib import Path

from ..offset_distribution import SHARES, OffsetDistribution
from ..overlay import POINT_COLOUR, SAMPLE_COLOUR
from .figure import FONT, PAGE_COLOUR, TEXT_COLOUR, Background, colour_text, new_figure, save_figure

_BANDS = ((0.01, 0.99, 0.3), (0.05, 0.95, 0.45), (0.25, 0.75, 0.8))  # from, to, opacity
_ASPECT = 0.9


def plot_distribution(
    layers: Sequence[OffsetDistribution], path: str | Path, background: Background = "light"
) -> None:
    """Offsets in x and y and modulations of each layer: bands of 98, 90 and 50 percent, and the median.

    Args:
        layers: What `offset_distribution` gives.
        path: The file to write; its suffix names the format, as .png or .svg.
        background: "light" or "dark".

    Raises:
        ValueError: When the format or the background is unknown.
        OSError: When the file cannot be written.
        ImportError: When matplotlib is not installed.
    """
    figure = new_figure(1, 3, _ASPECT, background)
    titles = ("offset in x, pixels of the layer's input", "offset in y", "modulation")
    columns = [[layer.offsets[0] for layer in layers], [layer.offsets[1] for layer in layers]]
    columns.append([layer.modulations for layer in layers])
    panels = figure.subplots(1, 3, sharey=True)
    for axes, title, quantiles in zip(panels, titles, columns, strict=True):
        axes.use_sticky_edges = False  # a bar at the border would look cut off
        for row, values in enumerate(quantiles):
            _draw_bands(axes, row, dict(zip(SHARES, values.tolist(), strict=True)), background)
        axes.set_title(title, **FONT)
        axes.set_facecolor(PAGE_COLOUR[background])
        axes.tick_params(colors=TEXT_COLOUR[background], labelsize=8)
        for spine in axes.spines.values():
            spine.set_color(TEXT_COLOUR[background])
    panels[0].set_yticks(range(len(layers)), [layer.layer for layer in layers])
    panels[0].invert_yaxis()
    colour_text(figure, background)
    save_figure(figure, path)


def _draw_bands(axes, row: int, quantiles: dict[float, float], background: Background) -> None:
    for low, high, opacity in _BANDS:
        width = quantiles[high] - quantiles[low]
        axes.barh(row, width, left=quantiles[low], height=0.7, color=POINT_COLOUR, alpha=opacity)
    axes.plot([quantiles[0.5]] * 2, [row - 0.35, row + 0.35], color=SAMPLE_COLOUR, linewidth=2.5)
