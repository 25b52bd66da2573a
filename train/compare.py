"""Compare kinds of networks over runs paired by seed: means, differences and their spread.

python train/compare.py train/results/caltech101 --baseline resnet18 --curves curves.png

Every folder below holds a run's `recipe.yaml` and `results.json`, and `perturbed.json` where
`validate.py --run RUN --perturb ... --results-file` has written it. Prints tables in Markdown.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dcn_backbones.command import CommandParser, run_command
from train.data.perturb import UNCHANGED
from train.plots import save_compared_curves
from train.recipe import RECIPE, read_yaml
from train.results import LOG, read_log


@dataclass(frozen=True)
class Measurement:
    """Top-1, in percent, of one run on one kind of test images."""

    model: str
    share: float  # of the training images
    seed: int
    images: str  # a perturbation
    top1: float


def read_runs(folder: Path) -> list[Measurement]:
    """All measurements below a folder; raises ValueError where there are none or two of one kind."""
    found = [entry for file in sorted(folder.rglob("results.json")) for entry in _read_run(file.parent)]
    if not found:
        raise ValueError(f"{folder} holds no results.json, expected folders of finished runs")
    keys = [(entry.model, entry.share, entry.seed, entry.images) for entry in found]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{folder} holds two runs of (model, share, seed, images) {key}, expected one")
    return found


def _read_run(folder: Path) -> Iterator[Measurement]:
    recipe = read_yaml(folder / RECIPE)
    run = recipe["model"], recipe["train_share"], recipe["seed"]
    yield Measurement(*run, UNCHANGED, json.loads((folder / "results.json").read_text())["top1"])
    perturbed = folder / "perturbed.json"
    for record in json.loads(perturbed.read_text()) if perturbed.is_file() else []:
        if record["perturbation"] != UNCHANGED:
            yield Measurement(*run, record["perturbation"], record["top1"])


def paired_differences(
    measured: Sequence[Measurement], model: str, baseline: str, share: float, images: str
) -> dict[int, float]:
    """Top-1 of `model` minus that of `baseline`, by seed, where both have been run."""
    of_model, of_baseline = (by_seed(measured, name, share, images) for name in (model, baseline))
    return {seed: of_model[seed] - of_baseline[seed] for seed in sorted(of_model.keys() & of_baseline.keys())}


def by_seed(measured: Sequence[Measurement], model: str, share: float, images: str) -> dict[int, float]:
    """Top-1 by seed."""
    return {
        entry.seed: entry.top1
        for entry in measured
        if (entry.model, entry.share, entry.images) == (model, share, images)
    }


def describe(values: Sequence[float], sign: str = "") -> str:
    """Mean, standard deviation of one value (n - 1) and number, "78.20 ± 0.31 (3)"; a dash for none."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.2f}{spread} ({len(values)})"


def comparison_table(measured: Sequence[Measurement], baseline: str) -> str:
    """A Markdown table: one line for each share of training images and kind of test images.

    Of every model the mean of its top-1, and of all but the baseline the mean of its differences by seed.
    """
    models = [baseline, *sorted({entry.model for entry in measured} - {baseline})]
    header = ["trained on", "tested on", *models, *(f"{model} - {baseline}" for model in models[1:])]
    lines = [header, ["---"] * len(header)]
    for share in sorted({entry.share for entry in measured}, reverse=True):
        for images in dict.fromkeys(entry.images for entry in measured if entry.share == share):
            means = [describe(list(by_seed(measured, model, share, images).values())) for model in models]
            differences = [
                describe(list(paired_differences(measured, model, baseline, share, images).values()), "+")
                for model in models[1:]
            ]
            lines.append(
                [f"{share:.0%}", "unchanged" if images == UNCHANGED else images, *means, *differences]
            )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def read_logs(folder: Path, baseline: str) -> dict[str, dict[str, list[list[dict]]]]:
    """The logs of all runs: by the share of training images, most first, then by model, baseline first."""
    logs: dict[float, dict[str, list[list[dict]]]] = {}
    for file in sorted(folder.rglob(LOG)):
        recipe = read_yaml(file.parent / RECIPE)
        by_model = logs.setdefault(recipe["train_share"], {})
        by_model.setdefault(recipe["model"], []).append(read_log(file))
    return {
        f"{share:.0%} of the images": dict(sorted(logs[share].items(), key=lambda item: item[0] != baseline))
        for share in sorted(logs, reverse=True)
    }


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("folder", type=Path, help="folder of folders of runs")
    parser.add_argument("--baseline", default="resnet18", help="model that the others are compared with")
    parser.add_argument("--curves", type=Path, metavar="FILE.png", help="draw loss and top-1 over the epochs")
    arguments = parser.parse_args()
    measured = read_runs(arguments.folder)
    if arguments.baseline not in {entry.model for entry in measured}:
        raise ValueError(f"{arguments.folder} holds no run of the baseline {arguments.baseline!r}")
    print("Top-1 in percent: mean ± standard deviation (number of seeds); differences are paired by seed.\n")
    print(comparison_table(measured, arguments.baseline))
    if arguments.curves:
        save_compared_curves(read_logs(arguments.folder, arguments.baseline), arguments.curves)


if __name__ == "__main__":
    run_command(main)
