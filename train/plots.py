"""The curves of a run as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Of every panel: its title, and the keys of the log with their names.
PANELS = (
    ("loss", {"train_loss": "training", "val_loss": "validation", "val_ema_loss": "average"}),
    ("top-1 %", {"train_top1": "training", "val_top1": "validation", "val_ema_top1": "average"}),
    ("learning rate", {"lr": ""}),
    ("|offset|, pixels", {"val_offset_mean": "mean", "val_offset_p99": "99th percentile"}),
)


def save_curves(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss, accuracy, learning rate and offset size over the epochs of a log into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for key, label in names.items():
            points = [(record["epoch"], record[key]) for record in records if key in record]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=label)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend()
    figure.savefig(path, dpi=120)
