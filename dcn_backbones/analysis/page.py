"""A page that puts the views of several models side by side, in files that need nothing from elsewhere."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..files import written_whole
from .node import ClassLogit
from .plot import VIEWS
from .support import SpatialSupport

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #16181d; --quiet: #55585f; --line: #d9dade; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181d; --text: #e8e8ea; --quiet: #a9acb3; --line: #3a3d44; }
}
body { background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 1200px; padding: 2rem 1rem; }
table { border-collapse: collapse; table-layout: fixed; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.4rem; font-weight: normal;
  overflow-wrap: anywhere; }
thead th { font-weight: 600; border-bottom: 1px solid var(--line); }
th:first-child { width: 9rem; }
tbody th { color: var(--quiet); }
img { width: 100%; max-width: 420px; display: block; border-radius: 4px; image-rendering: auto; }
img.wide { max-width: none; }
small, .quiet { color: var(--quiet); }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: 4px; padding: 0.6rem; }
"""

EXPLANATIONS = {
    "sampling locations": "Where the unit samples, through its last layers; larger dots weigh more.",
    "effective sampling locations": "How much the response changes when a location moves: brighter is more.",
    "effective receptive field": "How much each pixel changes the response: brighter is more.",
    "error-bounded saliency region": "The part of the picture that alone gives nearly the same response.",
}


@dataclass(frozen=True)
class Report:
    """A section of the page.

    Attributes:
        title: Its heading.
        text: A table in columns of characters.
        picture: Name of a picture beside the page with ``{background}`` in it, or nothing.
    """

    title: str
    text: str
    picture: str = ""


def write_page(
    path: Path,
    photograph: str,
    nodes: Sequence[Sequence[SpatialSupport]],
    reports: Iterable["Report"],
) -> None:
    """Write the page; the pictures of `picture_name` and `figure_name` lie beside it.

    Args:
        path: The file to write.
        photograph: What the photograph is called.
        nodes: For each node its views in each model.
        reports: Further sections.

    Raises:
        OSError: When the file cannot be written.
    """
    title = f"Where networks look in {photograph}"
    sections = [_node_section(index, supports) for index, supports in enumerate(nodes, 1)]
    sections += [_report_section(report) for report in reports]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{''.join(sections)}</body></html>\n"
    )
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def picture_name(node: int, column: int, view: str, suffix: str) -> str:
    """File of one view: ``node`` counts from 1, ``column`` is the model's, from 1."""
    return f"node{node}_model{column}_{view.replace(' ', '-')}.{suffix}"


def figure_name(node: int, background: str, suffix: str) -> str:
    """File of all views of one node."""
    return f"node{node}_{background}.{suffix}"


def _node_section(index: int, supports: Sequence[SpatialSupport]) -> str:
    titles = "".join(
        f"<th>{escape(support.model)}<br><small>{_describe(support)}</small></th>" for support in supports
    )
    rows = "".join(_row(index, view, supports) for view in VIEWS)
    links = ", ".join(
        f'<a href="{figure_name(index, background, suffix)}">{background} {suffix.upper()}</a>'
        for background in ("light", "dark")
        for suffix in ("png", "svg")
    )
    return (
        f"<h2>Node {index}</h2><table><thead><tr><th></th>{titles}</tr></thead><tbody>{rows}</tbody></table>"
        f'<p class="quiet">As one figure: {links}</p>'
    )


def _report_section(report: Report) -> str:
    picture = ""
    if report.picture:
        light, dark = (
            escape(report.picture.format(background=background)) for background in ("light", "dark")
        )
        dark_source = f'<source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        picture = (
            f'<picture>{dark_source}<img class="wide" src="{light}" alt="{escape(report.title)}"></picture>'
        )
    return f"<h2>{escape(report.title)}</h2><pre>{escape(report.text)}</pre>{picture}"


def _row(index: int, view: str, supports: Sequence[SpatialSupport]) -> str:
    cells = (
        f'<td><a href="{picture_name(index, column, view, "svg")}">'
        f'<img src="{picture_name(index, column, view, "png")}" alt="{escape(view)}"></a>'
        f"<small>{_figures(view, support)}</small></td>"
        for column, support in enumerate(supports, 1)
    )
    return f"<tr><th>{view}<br><small>{EXPLANATIONS[view]}</small></th>{''.join(cells)}</tr>"


def _describe(support: SpatialSupport) -> str:
    node = support.node
    if isinstance(node, ClassLogit):
        return f"logit of class {node.index}"
    return f"unit ({node.x}, {node.y}) of {escape(node.layer)}"


def _figures(view: str, support: SpatialSupport) -> str:
    """What can be said of a view in numbers."""
    if view == "sampling locations":
        sampling = support.sampling
        return (
            f"{len(sampling.positions)} samples of {', '.join(sampling.layers)}"
            if sampling
            else "not of a logit"
        )
    if view == "effective sampling locations":
        return f"{len(support.effective.positions)} locations of {support.effective.layer}"
    if view == "error-bounded saliency region":
        region = support.saliency
        return (
            f"{region.share:.0%} of the picture, response {region.error:.1%} off (bound {region.bound:.0%})"
        )
    return f"largest gradient {float(support.receptive_field.max()):.2g}"
