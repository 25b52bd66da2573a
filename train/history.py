"""How weights were made: recipes, logs and the final measurement, as one JSON file beside them."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.recipe import RECIPE, Recipe, load_recipe, make_recipe
from train.results import LOG, read_log, write_text

TRAINING = "training.json"


@dataclass
class Phase:
    """One run on the way.

    Attributes:
        recipe: Its settings.
        log: Its records, one for each epoch from 1 on; fewer where they were not kept, the last one at least.
    """

    recipe: Recipe
    log: list[dict[str, Any]]


@dataclass
class TrainingHistory:
    """Everything that the card of published weights is written from.

    Attributes:
        phases: The runs, oldest first: each started from the one before.
        dtype: Type of the published values, "float16" or "float32".
        img_size: Height and width of the published preprocessing, in pixels.
        result: `images`, `top1` and `top5` (percent) and `loss` of the published values on the last run's
            validation images, computed in float32.
    """

    phases: list[Phase]
    dtype: str
    img_size: int
    result: dict[str, float]

    @property
    def recipe(self) -> Recipe:
        """The last run's settings."""
        return self.phases[-1].recipe

    def save(self, path: Path) -> None:
        """Write the history as JSON, without the folders of the machine that trained."""
        phases = [{"recipe": _public(phase.recipe), "log": phase.log} for phase in self.phases]
        content = {"dtype": self.dtype, "img_size": self.img_size, "result": self.result, "phases": phases}
        write_text(path, json.dumps(content, indent=1) + "\n")


def load_history(path: Path) -> TrainingHistory:
    """Read what `TrainingHistory.save` has written; raises ValueError where it is something else."""
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        phases = [Phase(make_recipe(phase["recipe"]), phase["log"]) for phase in content["phases"]]
        return TrainingHistory(phases, content["dtype"], content["img_size"], content["result"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} lacks {error}, expected what export_weights.py writes") from error


def run_phases(run: Path) -> list[Phase]:
    """The runs behind a run's folder, oldest first: `init_from` is followed from run to run."""
    recipe = load_recipe(run / RECIPE)
    # epoch 0 is the evaluation before the first step
    log = [record for record in read_log(run / LOG) if record["epoch"] > 0]
    start = Path(recipe.init_from)
    parent = start if start.is_dir() else start.parent
    is_run = bool(recipe.init_from) and (parent / RECIPE).is_file()
    return [*(run_phases(parent) if is_run else []), Phase(recipe, log)]


def _public(recipe: Recipe) -> dict[str, Any]:
    settings = dataclasses.asdict(recipe)
    if not recipe.data_dir.startswith(("hfds/", "hfids/")):
        settings["data_dir"] = Path(recipe.data_dir).name
    settings["init_from"] = "/".join(Path(recipe.init_from).parts[-2:])
    return settings
