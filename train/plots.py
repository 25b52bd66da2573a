"""The curves of a run as one picture."""

from collections.abc import Sequence
from pathlib import Path
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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
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
