"""Train a classifier from a recipe, in one process or many; the same command goes on where it was stopped.

python train/train.py --config train/recipes/NAME.yaml data_dir=PATH [key=value ...]
torchrun --nproc-per-node 8 train/train.py --config train/recipes/NAME.yaml data_dir=PATH [key=value ...]

Exit status: 0 done, 1 an error in one sentence, 75 interrupted by SIGTERM or SIGINT with the last step saved.
"""

import argparse
import dataclasses
import logging
import math
import os
import sys
import time
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dcn_backbones.command import CommandParser, run_command
from train.checkpoint import AVERAGED_WEIGHTS, WEIGHTS, list_checkpoints, save_checkpoint, save_weights
from train.checks import check_recipe
from train.data import create_train_loader, create_val_loader
from train.distribution import World, connect
from train.evaluate import evaluate
from train.learner import Learner, amp_dtype
from train.losses import Criterion
from train.networks import build_model, start_model
from train.offsets import offset_statistics
from train.random_state import random_state, restore_random_state, seed_epoch
from train.recipe import RECIPE, Recipe, load_recipe, save_recipe
from train.report import Report
from train.results import prefixed
from train.resume import MODES, Progress, find_checkpoint, read_progress, resume_notices, step_images
from train.signals import INTERRUPTED, Interrupted, StopSignals

_logger = logging.getLogger(__name__)

OBSERVED_IMAGES = 32  # validation images whose offsets are logged after every epoch
REPORTED_STEPS = 10  # between two looks at the loss, for which a GPU has to be waited for
GO_ON, SAVE, STOP = range(3)


class Trainer:
    """One run: its data, its network and how far it is.

    Args:
        recipe: Settings that `check_recipe` has passed.
        output: Folder of the run.
        world: The processes.
        signals: Requests to stop.
        resume: `auto` goes on from the last checkpoint in `output` if there is one; `never`, `must`.
        wandb: Whether to log to Weights & Biases too.
    """

    def __init__(
        self, recipe: Recipe, output: Path, world: World, signals: StopSignals, resume: str, wandb: bool
    ) -> None:
        self.recipe, self.output, self.world, self.signals = recipe, output, world, signals
        checkpoint = world.on_first(lambda: find_checkpoint(output, resume, recipe))
        self.train_loader = create_train_loader(recipe, world.rank, world.size)
        self.val_loader = create_val_loader(recipe, world.rank, world.size)
        self.steps_per_epoch = len(self.train_loader) // recipe.accumulate
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"an epoch has {len(self.train_loader)} batches, expected {recipe.accumulate} for a step"
            )
        self.step_images = step_images(recipe, world.size)
        self.progress, self.random_state = Progress(), None
        self.learner = self._create_learner(checkpoint)
        world.on_first(self._prepare_output)
        self.report = Report(
            output, self.progress.epoch, self.steps_done, dataclasses.asdict(recipe), wandb, world.is_first
        )

    @property
    def steps_done(self) -> int:
        return self.progress.epoch * self.steps_per_epoch + self.progress.images // self.step_images

    def _prepare_output(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        save_recipe(self.recipe, self.output / RECIPE)

    def _create_learner(self, checkpoint: Path | None) -> Learner:
        recipe, state = self.recipe, None
        if checkpoint is not None:
            self.progress, state = read_progress(checkpoint)
        seed_epoch(recipe.seed, 0, rank=0)  # the first weights are the same in all processes
        model = build_model(recipe, deformable=self.progress.epoch >= recipe.deform_from_epoch)
        if recipe.init_from and checkpoint is None:
            start_model(model, recipe.init_from)
        criterion = Criterion(recipe, self.world.device)
        learner = Learner(model, criterion, recipe, self.world, self.steps_per_epoch)
        if checkpoint is not None:
            self._announce(state)
            learner.load(checkpoint, state)
            learner.scheduler.step_update(max(0, self.steps_done - 1))  # the rate of the last step
            same_steps = (state["processes"], state["step_images"]) == (self.world.size, self.step_images)
            if same_steps and not self.progress.trained:
                self.random_state = state["random"][self.world.rank]
        return learner

    def _announce(self, state: dict[str, Any]) -> None:
        if self.world.is_first:
            for notice in resume_notices(state, self.recipe, self.world.size):
                _logger.warning(notice)

    def train(self) -> dict[str, Any]:
        """All epochs that are left, then the final weights and results; returns the last evaluation."""
        recipe, measured = self.recipe, {}
        if recipe.init_from and self.steps_done == 0:
            self.report.epoch(0, 0, prefixed("val_", self._evaluate() | self._offset_statistics()))
        for epoch in range(self.progress.epoch, recipe.epochs):
            if not self.progress.trained:
                if epoch == recipe.deform_from_epoch > 0 and self.progress.images == 0:
                    self.learner = self.learner.deformed()
                self._train_epoch(epoch)
            is_validated = (epoch + 1) % recipe.val_interval == 0 or epoch + 1 == recipe.epochs
            measured = (self._evaluate() if is_validated else {}) | self._offset_statistics()
            trained = {"lr": self.learner.rate, **self.progress.measured()}
            self.report.epoch(epoch + 1, self.steps_done, trained | prefixed("val_", measured))
            self.progress = Progress(epoch + 1)
        result = measured or self._evaluate() | self._offset_statistics()
        self.world.on_first(lambda: self._write_results(result))
        return result

    def _train_epoch(self, epoch: int) -> None:
        first_step = self.progress.images // self.step_images
        self.progress.images = first_step * self.step_images
        self.learner.train()
        self.train_loader.set_epoch(epoch, first_step * self.recipe.accumulate)
        seed_epoch(self.recipe.seed, epoch, self.world.rank)
        if self.random_state is not None:
            restore_random_state(self.random_state)
            self.random_state = None
        with self.report.bar(epoch, self.recipe.epochs, first_step, self.steps_per_epoch) as bar:
            self._train_steps(epoch, range(first_step, self.steps_per_epoch), bar)

    def _train_steps(self, epoch: int, steps: range, bar: Any) -> None:
        batches = iter(self.train_loader)
        pending = torch.zeros(3, dtype=torch.float64, device=self.world.device)
        last_look = self.last_save = time.monotonic()
        for position in steps:
            number = epoch * self.steps_per_epoch + position
            pending += self.learner.step(islice(batches, self.recipe.accumulate), number)
            self.progress.images += self.step_images
            self.progress.trained = position == self.steps_per_epoch - 1
            decision = self._decide(number + 1)
            if decision or (position + 1) % REPORTED_STEPS == 0:
                now = time.monotonic()
                self._look(self.world.sum(pending), now - last_look, number + 1, bar)
                last_look = now
                pending.zero_()
            bar.update()
            if decision:
                self._save()
            if decision == STOP:
                raise Interrupted

    def _decide(self, steps_done: int) -> int:
        """What follows this step, the same in all processes."""
        steps, seconds = self.recipe.checkpoint_every_steps, 60 * self.recipe.checkpoint_every_minutes
        is_due = self.progress.trained or (steps > 0 and steps_done % steps == 0)
        is_due |= 0 < seconds <= time.monotonic() - self.last_save
        return self.world.largest(STOP if self.signals.received else SAVE if is_due else GO_ON)

    def _look(self, sums: torch.Tensor, seconds: float, step: int, bar: Any) -> None:
        """Add what the last steps have measured to the epoch's totals, and show it."""
        values = [*sums.tolist(), seconds]
        if not math.isfinite(values[0]):
            raise FloatingPointError(
                f"the loss is {values[0]} at step {step} or shortly before, expected a finite number"
            )
        self.progress.add(values)
        measured, speed = self.progress.measured(), values[2] / max(seconds, 1e-9)
        shown = {
            "loss": f"{measured['train_loss']:.3f}",
            "top-1": f"{measured['train_top1']:.1f} %",
            "images/s": f"{speed:.0f}",
        }
        bar.set_postfix(shown, refresh=False)
        curves = {"loss": values[0] / values[2], "lr": self.learner.rate, "images_per_second": speed}
        self.report.step(step, curves)

    def _save(self) -> None:
        """Write a checkpoint; raises OSError in all processes when that fails."""
        random_states = self.world.gather(random_state())
        state = {
            **self.learner.state(),
            "progress": dataclasses.asdict(self.progress),
            "random": random_states,
            "recipe": dataclasses.asdict(self.recipe),
            "processes": self.world.size,
            "step_images": self.step_images,
        }
        folder = self.output / self.progress.name
        self.world.on_first(lambda: save_checkpoint(folder, self.learner.weights(), state))
        self.last_save = time.monotonic()

    def _evaluate(self) -> dict[str, float]:
        """Validation of the network and of its average."""
        recipe, measured = self.recipe, {}
        for prefix, network in self.learner.evaluated().items():
            result = evaluate(
                network,
                self.val_loader,
                self.world,
                amp_dtype(recipe),
                recipe.channels_last,
                signals=self.signals,
            )
            measured |= prefixed(prefix, result)
        return measured

    def _offset_statistics(self) -> dict[str, float]:
        """The size of the network's offsets, in the first process."""
        if not self.world.is_first:
            return {}
        return offset_statistics(self.learner.model, self.observed_images, amp_dtype(self.recipe))

    @cached_property
    def observed_images(self) -> torch.Tensor:
        """The first process's first images for validation, (B, 3, H, W): the same after every epoch."""
        return next(iter(self.val_loader))[0][:OBSERVED_IMAGES].to(self.world.device)

    def _write_results(self, result: dict[str, Any]) -> None:
        save_weights(self.learner.model, self.output / WEIGHTS)
        if self.learner.average is not None:
            save_weights(self.learner.average.module, self.output / AVERAGED_WEIGHTS)
        description = {"model": self.recipe.model, "epochs": self.recipe.epochs, "processes": self.world.size}
        self.report.finish(description | result)


def run(recipe: Recipe, output: Path, resume: str = "auto", wandb: bool = False) -> dict[str, Any]:
    """Train as the recipe says, write everything under `output`, return the final evaluation.

    Raises ValueError for a recipe that cannot be trained, FileExistsError when `output` belongs to another
    run, OSError when a checkpoint cannot be written, and Interrupted after a signal.
    """
    check_recipe(recipe)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    with connect(recipe.device) as world, StopSignals() as signals:
        trainer = Trainer(recipe, output, world, signals, resume, wandb)
        try:
            return trainer.train()
        except Interrupted:
            saved = list_checkpoints(output)
            state = f"saved as {saved[-1]}" if saved else "before there was anything to save"
            raise Interrupted(f"interrupted by a signal, {state}: the same command goes on") from None
        finally:
            trainer.report.close()


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="recipe file")
    parser.add_argument("--output", type=Path, help="folder of the run, runs/RECIPE by default")
    parser.add_argument(
        "--resume",
        choices=MODES,
        default="auto",
        help="whether to go on from the output folder's last checkpoint",
    )
    parser.add_argument("--init-from", help="starting weights: a file, a folder, or a timm name with its tag")
    parser.add_argument("--wandb", action="store_true", help="log to Weights & Biases too")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe settings to change")
    return parser.parse_intermixed_args()  # settings before and after options


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    recipe = load_recipe(arguments.config, arguments.overrides)
    if arguments.init_from:
        recipe.init_from = arguments.init_from
    try:
        run(
            recipe,
            arguments.output or Path("runs") / arguments.config.stem,
            arguments.resume,
            arguments.wandb,
        )
    except Interrupted as interruption:
        if os.environ.get("RANK", "0") == "0":
            print(interruption, file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run_command(main)
