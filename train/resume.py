"""How far a run is, and how it goes on: from the last checkpoint of its folder, or not at all."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.checkpoint import list_checkpoints, load_state, remove_unfinished
from train.recipe import RECIPE, read_yaml
from train.settings import TrainingSettings

MODES = ("auto", "never", "must")


@dataclass
class Progress:
    """A position in a run, counted in images so that it holds for another number of processes.

    Attributes:
        epoch: Epochs that are trained and evaluated.
        images: Images of the next epoch that are trained on, in all processes.
        trained: Whether that epoch lacks nothing but its evaluation.
        totals: Sums over these images: what the learner measures, images, and the seconds they took.
    """

    epoch: int = 0
    images: int = 0
    trained: bool = False
    totals: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the checkpoint; names sort by progress."""
        return f"checkpoint-{self.epoch:04d}-{self.images:09d}"

    def add(self, values: list[float]) -> None:
        """Add the sums of the last steps to `totals`."""
        totals = self.totals or [0.0] * len(values)
        self.totals = [total + value for total, value in zip(totals, values, strict=True)]

    def measured(self, measures: dict[str, float]) -> dict[str, float]:
        """Means over the epoch so far, each times the factor of its name; and images per second."""
        *sums, images, seconds = self.totals
        means = {
            name: factor * total / images
            for (name, factor), total in zip(measures.items(), sums, strict=True)
        }
        return {**means, "images_per_second": images / max(seconds, 1e-9)}


def find_checkpoint(output: Path, mode: str, recipe: TrainingSettings) -> Path | None:
    """The checkpoint to go on from, or None for a start.

    Raises FileExistsError when `output` is not free for this run, and FileNotFoundError when `mode` is
    `must` and there is nothing to go on from.
    """
    _check_same_run(output, recipe)
    checkpoints = list_checkpoints(output)
    if mode == "never" and checkpoints:
        raise FileExistsError(
            f"{output} holds checkpoints of a run, expected --resume auto or another output folder"
        )
    if mode == "must" and not checkpoints:
        raise FileNotFoundError(f"{output} holds no checkpoint, expected one as --resume is must")
    remove_unfinished(output)
    return checkpoints[-1] if checkpoints else None


def _check_same_run(output: Path, recipe: TrainingSettings) -> None:
    file = output / RECIPE
    if not file.is_file():
        return
    known = read_yaml(file)
    for key in recipe.identity:
        found, expected = known.get(key), getattr(recipe, key)
        if key in known and found != expected:
            raise FileExistsError(
                f"{output} holds a run with {key} {found!r}, expected {expected!r} or another output folder"
            )


def read_progress(checkpoint: Path) -> tuple[Progress, dict[str, Any]]:
    """The position of a checkpoint, and its whole state."""
    state = load_state(checkpoint)
    return Progress(**state["progress"]), state


def resume_notices(state: dict[str, Any], recipe: TrainingSettings, processes: int) -> list[str]:
    """A sentence for each difference between a checkpoint's run and this one: what differs, what follows."""
    progress = Progress(**state["progress"])
    notices = []
    changes = [
        f"{key} {state['recipe'].get(key)!r} is now {value!r}"
        for key, value in dataclasses.asdict(recipe).items()
        if state["recipe"].get(key) != value
    ]
    if changes:
        follows = f"the new values count from image {progress.images} of epoch {progress.epoch + 1} on"
        if state["recipe"]["opt"] != recipe.opt:
            follows += ", and the optimizer starts without the state of the other one"
        notices.append(f"resuming with a changed recipe: {', '.join(changes)}; {follows}")
    if state["processes"] != processes:
        notices.append(
            f"resuming with {processes} processes a run of {state['processes']}: random numbers start anew "
            "from the seed, images keep their augmentation"
        )
    before, now = state["step_images"], step_images(recipe, processes)
    if before != now:
        repeated = progress.images % now
        notices.append(
            f"a step had {before} images and has {now}: the schedule is that of the new steps, and epoch "
            f"{progress.epoch + 1} goes on at image {progress.images - repeated}, which repeats {repeated}"
        )
    return notices


def step_images(recipe: TrainingSettings, processes: int) -> int:
    """Images of one optimizer step, in all processes."""
    return recipe.batch_size * recipe.accumulate * processes
