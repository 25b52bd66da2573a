"""Result files, the log of a training run, and the table of several evaluated models."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcn_backbones.files import written_whole

LOG = "log.jsonl"  # in a run's folder: one record for each epoch


def write_text(path: Path, text: str) -> None:
    """Write a text file through a temporary one beside it."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def prefixed(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    """The same values under prefixed names."""
    return {f"{prefix}{name}": value for name, value in values.items()}


class TrainingLog:
    """One JSON record a line; continues a file up to the record of `last_epoch`, with None begins it anew."""

    def __init__(self, path: Path, last_epoch: int | None) -> None:
        self.path = path
        known = read_log(path) if path.is_file() and last_epoch is not None else []
        self.records = [record for record in known if record["epoch"] <= last_epoch]

    def append(self, record: dict[str, Any]) -> None:
        """Add the record and write the file anew."""
        self.records.append(record)
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in self.records))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a training log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_results_file(path: Path) -> None:
    """Raise ValueError unless the file name ends in .json or .csv."""
    if path.suffix not in (".json", ".csv"):
        raise ValueError(f"results file {str(path)!r} ends in {path.suffix!r}, expected .json or .csv")


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Write one record for each model as a JSON list or CSV rows, by the file's suffix."""
    check_results_file(path)
    if path.suffix == ".json":
        text = json.dumps(list(results), indent=2) + "\n"
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=list(results[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(results)
        text = buffer.getvalue()
    write_text(path, text)


def format_table(results: Sequence[dict[str, Any]]) -> str:
    """A header, then one line for each model and kind of images."""
    names = [_row_name(result) for result in results]
    width = max(len("model"), *map(len, names))
    lines = [f"{'model':<{width}}  top-1 %  top-5 %    loss  images/s  params (M)"]
    for name, result in zip(names, results, strict=True):
        accuracy = f"{result['top1']:7.2f}  {result['top5']:7.2f}  {result['loss']:6.3f}"
        cost = f"{result['images_per_second']:8.1f}  {result['parameters_millions']:10.2f}"
        lines.append(f"{name:<{width}}  {accuracy}  {cost}")
    return "\n".join(lines)


def _row_name(result: dict[str, Any]) -> str:
    changed = result.get("perturbation", "none") != "none"
    return f"{result['model']}, {result['perturbation']}" if changed else result["model"]


def headline(result: dict[str, Any]) -> str:
    """The one figure of a finished run: top-1 of a classifier, AP of a detector, both in percent."""
    return f"top-1 {result['top1']:.2f} %" if "top1" in result else f"AP {result['AP']:.2f} %"


def format_history(records: Sequence[dict[str, Any]], rows: int = 12) -> str:
    """A header, then lines of a training log: all, or `rows` of them evenly spread up to the last."""
    columns = {
        "epoch": ("epoch", "5.0f"),
        "lr": ("rate", "8.2g"),
        "train_loss": ("loss", "7.3f"),
        "train_top1": ("train top-1", "11.2f"),
        "val_loss": ("val loss", "8.3f"),
        "val_top1": ("val top-1", "9.2f"),
        "val_ema_top1": ("EMA top-1", "9.2f"),
        "val_AP": ("AP", "6.2f"),
        "val_AP50": ("AP50", "6.2f"),
        "val_AP75": ("AP75", "6.2f"),
        "val_mask_AP": ("mask AP", "7.2f"),
        "val_ema_AP": ("EMA AP", "6.2f"),
        "val_offset_mean": ("|offset|", "8.3f"),
        "train_images_per_second": ("images/s", "8.1f"),
    }
    columns = {key: value for key, value in columns.items() if any(key in record for record in records)}
    widths = {key: int(form.split(".")[0]) for key, (_, form) in columns.items()}
    lines = ["  ".join(f"{title:>{widths[key]}}" for key, (title, _) in columns.items())]
    step = max(1, -(-len(records) // rows))
    for record in records[::-1][::step][::-1]:
        cells = (
            f"{record[key]:{columns[key][1]}}" if key in record else " " * widths[key] for key in columns
        )
        lines.append("  ".join(cells))
    return "\n".join(lines)
