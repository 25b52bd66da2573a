"""The curves of a run, and of several kinds of runs, as one picture."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

# Of every panel: its title, and the keys of the log with their names.
PANELS = (
    ("loss", {"train_loss": "training", "val_loss": "validation", "val_ema_loss": "average"}),
    ("top-1 %", {"train_top1": "training", "val_top1": "validation", "val_ema_top1": "average"}),
    (
        "AP, percent",
        {"val_AP": "boxes", "val_AP50": "boxes at IoU 0.5", "val_mask_AP": "masks", "val_ema_AP": "average"},
    ),
    ("learning rate", {"lr": ""}),
    ("|offset|, pixels", {"val_offset_mean": "mean", "val_offset_p99": "99th percentile"}),
)


def save_curves(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw what a log has of the panels over its epochs into a PNG file: four at most."""
    figure = _figure(10, 6.5)
    keys = set().union(*records)
    panels = [(title, names) for title, names in PANELS if keys & names.keys()]
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, panels, strict=False):
        for key, label in names.items():
            points = [(record["epoch"], record[key]) for record in records if key in record]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=label)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend()
    figure.savefig(path, dpi=120)


def save_compared_curves(
    curves: Mapping[str, Mapping[str, Sequence[Sequence[dict[str, Any]]]]], path: Path
) -> None:
    """Draw the training loss and top-1 of kinds of networks beside each other into a PNG file.

    Args:
        curves: Of every row of panels, by its title: of every kind, by its name, the logs of its seeds. A
            thin line is one seed, a thick one their mean at the epochs that all of them have.
        path: The PNG file.
    """
    colors = {kind: f"C{i}" for i, kind in enumerate(dict.fromkeys(chain(*curves.values())))}
    figure = _figure(10, 3.2 * len(curves))
    grid = figure.subplots(len(curves), 2, squeeze=False)
    for (row, kinds), (left, right) in zip(curves.items(), grid, strict=True):
        for axes, key, title in (
            (left, "train_loss", f"training loss, {row}"),
            (right, "val_top1", f"top-1 % on test images, {row}"),
        ):
            for kind, logs in kinds.items():
                _draw_seeds(axes, kind, colors[kind], [_points(log, key) for log in logs])
            axes.set(title=title, xlabel="epoch")
            axes.grid(alpha=0.3)
        left.legend()
    figure.savefig(path, dpi=90)


def _points(log: Sequence[dict[str, Any]], key: str) -> dict[int, float]:
    return {record["epoch"]: record[key] for record in log if key in record}


def _draw_seeds(axes: Any, kind: str, color: str, seeds: Sequence[dict[int, float]]) -> None:
    for points in seeds:
        axes.plot(*zip(*points.items(), strict=True), color=color, alpha=0.3, linewidth=0.8)
    common = sorted(set.intersection(*map(set, seeds)))
    means = [fmean(points[epoch] for points in seeds) for epoch in common]
    axes.plot(common, means, color=color, marker=".", label=f"{kind} (n={len(seeds)})")


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
