"""Compare kinds of networks over runs paired by seed: means, differences and their spread.

python train/compare.py train/results/caltech101 --baseline resnet18 --curves curves.png
python train/compare.py train/results/caltech101_{lr0.2,offset_rate} --vary offset_lr_scale
python train/compare.py train/results/caltech101_half --pairs

Every folder below holds a run's `recipe.yaml`, `log.jsonl` and `results.json`, and `perturbed.json` where
`validate.py --run RUN --perturb ... --results-file` has written it. Prints tables in Markdown.
"""

import itertools
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dcn_backbones.command import CommandParser, run_command
from train.data.perturb import UNCHANGED
from train.plots import save_compared_curves
from train.recipe import RECIPE, read_yaml
from train.results import LOG, read_log


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder, and what it is compared by."""

    folder: Path
    kind: str  # of network: the model's name, and what else tells kinds apart
    share: float  # of the training images
    seed: int


@dataclass(frozen=True)
class Measurement:
    """Top-1, in percent, of one run on one kind of test images."""

    run: FinishedRun
    images: str  # a perturbation
    top1: float


def find_runs(folders: Sequence[Path], vary: str = "") -> list[FinishedRun]:
    """All finished runs below some folders.

    A run's kind is its model. Where runs of one model differ in the recipe's key `vary`, its value there too.
    Raises ValueError where there are none, two of one kind, share and seed, or recipes without that key.
    """
    files = [file for folder in folders for file in sorted(folder.rglob("results.json"))]
    recipes = {file.parent: read_yaml(file.parent / RECIPE) for file in files}
    if not recipes:
        raise ValueError(f"{_listed(folders)} holds no results.json, expected folders of finished runs")
    for folder, recipe in recipes.items():
        if vary and vary not in recipe:
            raise ValueError(f"the recipe of {folder} has no key {vary!r}, expected one that all have")
    runs = [
        FinishedRun(folder, _kind(recipe, vary, recipes.values()), recipe["train_share"], recipe["seed"])
        for folder, recipe in recipes.items()
    ]
    for (kind, share, seed), number in Counter((run.kind, run.share, run.seed) for run in runs).items():
        if number > 1:
            raise ValueError(
                f"{_listed(folders)} holds {number} runs of kind {kind!r}, share {share} and seed {seed}, "
                "expected one, or --vary with what they differ in"
            )
    return runs


def _kind(recipe: dict[str, Any], vary: str, recipes: Iterable[dict[str, Any]]) -> str:
    model, value = recipe["model"], recipe.get(vary)
    differs = any(other.get(vary) != value for other in recipes if other["model"] == model)
    return f"{model} {vary}={value}" if differs else model


def _listed(folders: Sequence[Path]) -> str:
    return " with ".join(map(str, folders))


def read_measurements(runs: Sequence[FinishedRun]) -> list[Measurement]:
    """What the runs have reached on the test images and, where that was measured, on perturbed ones."""
    return [measurement for run in runs for measurement in _read_run(run)]


def _read_run(run: FinishedRun) -> Iterator[Measurement]:
    yield Measurement(run, UNCHANGED, json.loads((run.folder / "results.json").read_text())["top1"])
    perturbed = run.folder / "perturbed.json"
    for record in json.loads(perturbed.read_text()) if perturbed.is_file() else []:
        if record["perturbation"] != UNCHANGED:
            yield Measurement(run, record["perturbation"], record["top1"])


def paired_differences(
    measured: Sequence[Measurement], kind: str, baseline: str, share: float, images: str
) -> dict[int, float]:
    """Top-1 of `kind` minus that of `baseline`, by seed, where both have been run."""
    of_kind, of_baseline = (by_seed(measured, name, share, images) for name in (kind, baseline))
    return {seed: of_kind[seed] - of_baseline[seed] for seed in sorted(of_kind.keys() & of_baseline.keys())}


def by_seed(measured: Sequence[Measurement], kind: str, share: float, images: str) -> dict[int, float]:
    """Top-1 by seed."""
    return {
        entry.run.seed: entry.top1
        for entry in measured
        if (entry.run.kind, entry.run.share, entry.images) == (kind, share, images)
    }


def describe(values: Sequence[float], sign: str = "") -> str:
    """Mean, standard deviation of one value (n - 1) and number, "78.20 ± 0.31 (3)"; a dash for none."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.2f}{spread} ({len(values)})"


def comparison_table(measured: Sequence[Measurement], baseline: str) -> str:
    """A Markdown table: one line for each share of training images and kind of test images.

    Of every kind of network the mean of its top-1, and of all but the baseline the mean of its differences by
    seed.
    """
    kinds = _kinds(measured, baseline)
    lines = [["trained on", "tested on", *kinds, *(f"{kind} - {baseline}" for kind in kinds[1:])]]
    for share, images in _tests(measured):
        means = [describe(list(by_seed(measured, kind, share, images).values())) for kind in kinds]
        differences = [
            describe(list(paired_differences(measured, kind, baseline, share, images).values()), "+")
            for kind in kinds[1:]
        ]
        lines.append([*_named(share, images), *means, *differences])
    return _markdown(lines)


def pairs_table(measured: Sequence[Measurement], baseline: str) -> str:
    """A Markdown table of the pairs of kinds that two seeds or more have in common.

    Each has its differences by seed, and how likely a mean as far from zero is if the kinds were alike: p of
    a paired t-test, which takes differences for normally distributed.
    """
    lines = [["trained on", "tested on", "difference", "by seed", "mean", "p"]]
    for share, images in _tests(measured):
        for kind, other in itertools.combinations(_kinds(measured, baseline), 2):
            differences = paired_differences(measured, other, kind, share, images)
            if len(differences) > 1:
                lines.append([*_named(share, images), f"{other} - {kind}", *_t_test(differences)])
    return _markdown(lines)


def _t_test(differences: dict[int, float]) -> list[str]:
    from scipy.stats import ttest_1samp  # here since nothing else of training needs it

    of_seeds = ", ".join(f"{seed}: {value:+.2f}" for seed, value in differences.items())
    values = list(differences.values())
    return [of_seeds, describe(values, "+"), f"{ttest_1samp(values, 0).pvalue:.3f}"]


def _kinds(measured: Sequence[Measurement], baseline: str) -> list[str]:
    return [baseline, *sorted({entry.run.kind for entry in measured} - {baseline})]


def _tests(measured: Sequence[Measurement]) -> list[tuple[float, str]]:
    """Shares of the training images, most first, with the kinds of test images, in the order they came in."""
    found = dict.fromkeys((entry.run.share, entry.images) for entry in measured)
    return sorted(found, key=lambda test: -test[0])


def _named(share: float, images: str) -> list[str]:
    return [f"{share:.0%}", "unchanged" if images == UNCHANGED else images]


def _markdown(lines: list[list[str]]) -> str:
    rows = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def read_logs(runs: Sequence[FinishedRun], baseline: str) -> dict[str, dict[str, list[list[dict]]]]:
    """The logs of all runs: by the share of training images, most first, then by kind, baseline first."""
    logs: dict[float, dict[str, list[list[dict]]]] = {}
    for run in sorted(runs, key=lambda run: (-run.share, run.kind != baseline, run.kind, run.seed)):
        logs.setdefault(run.share, {}).setdefault(run.kind, []).append(read_log(run.folder / LOG))
    return {f"{share:.0%} of the images": of_share for share, of_share in logs.items()}


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="folder", help="folder of folders of runs")
    parser.add_argument("--baseline", default="resnet18", help="model that the others are compared with")
    parser.add_argument(
        "--vary", default="", metavar="KEY", help="recipe key that tells runs of a model apart"
    )
    parser.add_argument(
        "--pairs", action="store_true", help="all pairs of kinds too, by seed, with p of a t-test"
    )
    parser.add_argument("--curves", type=Path, metavar="FILE.png", help="draw loss and top-1 over the epochs")
    arguments = parser.parse_args()
    runs = find_runs(arguments.folders, arguments.vary)
    if arguments.baseline not in {run.kind for run in runs}:
        raise ValueError(f"{_listed(arguments.folders)} holds no run of the baseline {arguments.baseline!r}")
    print("Top-1 in percent: mean ± standard deviation (number of seeds); differences are paired by seed.\n")
    measured = read_measurements(runs)
    print(comparison_table(measured, arguments.baseline))
    if arguments.pairs:
        print("\nAll pairs of kinds, by seed; p of a paired t-test, two-sided.\n")
        print(pairs_table(measured, arguments.baseline))
    if arguments.curves:
        save_compared_curves(read_logs(runs, arguments.baseline), arguments.curves)


if __name__ == "__main__":
    run_command(main)
