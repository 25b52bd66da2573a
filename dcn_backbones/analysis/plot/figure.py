"""What all pictures share: matplotlib where it is there, a light or a dark page, and a file that is whole."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Background = Literal["light", "dark"]

FONT = {"fontsize": 9}
PAGE_COLOUR = {"light": "#ffffff", "dark": "#16181d"}
TEXT_COLOUR = {"light": "#101010", "dark": "#e8e8ea"}
_PANEL_WIDTH, _TITLE_HEIGHT, _LEGEND_HEIGHT, _ROW_LABEL_WIDTH = 3.2, 0.25, 0.2, 0.3  # inches
_DOTS_PER_INCH = 150
_TITLE_CHARACTERS = 42  # as many as fit above a panel


def check_matplotlib() -> None:
    """Raise ImportError, with what to install, where matplotlib is not."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install 'dcn_backbones[plot]'.") from error


def new_figure(rows: int, columns: int, aspect: float, background: Background = "light") -> "Figure":
    """A figure for panels of an aspect, height by width, with a title each and a legend below.

    Raises:
        ValueError: When the background is neither light nor dark.
        ImportError: When matplotlib is not installed.
    """
    if background not in PAGE_COLOUR:
        raise ValueError(f"background is {background!r}; expected 'light' or 'dark'.")
    check_matplotlib()
    from matplotlib.figure import Figure

    height = rows * (_PANEL_WIDTH * aspect + _TITLE_HEIGHT) + -(-3 // columns) * _LEGEND_HEIGHT
    figure = Figure(
        figsize=(columns * _PANEL_WIDTH + _ROW_LABEL_WIDTH, height), dpi=_DOTS_PER_INCH, layout="constrained"
    )
    figure.set_facecolor(PAGE_COLOUR[background])
    return figure


def new_panel(size: tuple[int, int]) -> tuple["Figure", "Axes"]:
    """A figure of nothing but one image of a size, and its axes: for a page that has words of its own."""
    figure = new_figure(1, 1, size[1] / size[0])
    figure.set_size_inches(_PANEL_WIDTH, _PANEL_WIDTH * size[1] / size[0])
    figure.set_layout_engine("none")
    return figure, figure.add_axes((0, 0, 1, 1))


def set_title(axes: "Axes", title: str) -> None:
    """Write a title above a panel, on several lines when it is long, as the path of a model may be."""
    axes.set_title(textwrap.fill(title, _TITLE_CHARACTERS), **FONT)


def colour_text(figure: "Figure", background: Background) -> None:
    """Make everything written on a finished figure readable on its background."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_color(TEXT_COLOUR[background])


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a figure through a temporary file; the suffix names the format.

    Raises:
        ValueError: When the format is unknown.
        OSError: When the file cannot be written.
    """
    with written_whole(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix[1:] or "png")
