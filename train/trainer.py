"""The loop of a run, in one process or many: epochs, checkpoints, evaluation, and where it goes on."""

import dataclasses
import logging
import math
import time
from abc import ABC, abstractmethod
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from train.checkpoint import AVERAGED_WEIGHTS, WEIGHTS, list_checkpoints, save_checkpoint, save_weights
from train.distribution import World, connect
from train.learner import Learner, slow_autocast
from train.random_state import random_state, restore_random_state, seed_epoch
from train.recipe import RECIPE, save_recipe
from train.report import Report
from train.results import prefixed
from train.resume import Progress, find_checkpoint, read_progress, resume_notices, step_images
from train.settings import TrainingSettings
from train.signals import Interrupted, StopSignals

_logger = logging.getLogger(__name__)

REPORTED_STEPS = 10  # between two looks at the loss, for which a GPU has to be waited for
GO_ON, SAVE, STOP = range(3)


class Trainer(ABC):
    """One run: its data, its network and how far it is. What is trained, a subclass says.

    Args:
        recipe: Settings that have been checked.
        output: Folder of the run.
        world: The processes.
        signals: Requests to stop.
        resume: `auto` goes on from the last checkpoint in `output` if there is one; `never`, `must`.
        wandb: Whether to log to Weights & Biases too.
    """

    def __init__(
        self,
        recipe: TrainingSettings,
        output: Path,
        world: World,
        signals: StopSignals,
        resume: str,
        wandb: bool,
    ) -> None:
        self.recipe, self.output, self.world, self.signals = recipe, output, world, signals
        checkpoint = world.on_first(lambda: find_checkpoint(output, resume, recipe))
        self.train_loader, self.val_loader = self.create_loaders()
        self.steps_per_epoch = len(self.train_loader) // recipe.accumulate
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"an epoch has {len(self.train_loader)} batches, expected {recipe.accumulate} for a step"
            )
        self.step_images = step_images(recipe, world.size)
        self.progress, self.random_state = Progress(), None
        self.learner = self._start_learner(checkpoint)
        world.on_first(self.prepare_output)
        self.report = Report(
            output, self.progress.epoch, self.steps_done, dataclasses.asdict(recipe), wandb, world.is_first
        )

    @property
    def steps_done(self) -> int:
        return self.progress.epoch * self.steps_per_epoch + self.progress.images // self.step_images

    def prepare_output(self) -> None:
        """Make the folder of the run, in the first process."""
        self.output.mkdir(parents=True, exist_ok=True)
        save_recipe(self.recipe, self.output / RECIPE)

    def _start_learner(self, checkpoint: Path | None) -> Learner:
        state = None
        if checkpoint is not None:
            self.progress, state = read_progress(checkpoint)
        seed_epoch(self.recipe.seed, 0, rank=0)  # the first weights are the same in all processes
        learner = self.create_learner(starts=checkpoint is None)
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
            self.report.epoch(0, 0, prefixed("val_", self.evaluate() | self.offset_statistics()))
        for epoch in range(self.progress.epoch, recipe.epochs):
            if not self.progress.trained:
                self.prepare_epoch(epoch)
                self._train_epoch(epoch)
            is_validated = (epoch + 1) % recipe.val_interval == 0 or epoch + 1 == recipe.epochs
            measured = (self.evaluate() if is_validated else {}) | self.offset_statistics()
            trained = {"lr": self.learner.rate, **prefixed("train_", self._measured())}
            self.report.epoch(epoch + 1, self.steps_done, trained | prefixed("val_", measured))
            self.progress = Progress(epoch + 1)
        result = measured or self.evaluate() | self.offset_statistics()
        self.world.on_first(lambda: self._write_results(result))
        return result

    def evaluate(self) -> dict[str, float]:
        """The measured quality of the network and of its average, the same in all processes."""
        measured = {}
        for prefix, network in self.learner.evaluated().items():
            measured |= prefixed(prefix, self.measure(network))
        return measured

    def offset_statistics(self) -> dict[str, float]:
        """The size of the network's offsets, in the first process."""
        return self.measure_offsets() if self.world.is_first else {}

    def _measured(self) -> dict[str, float]:
        return self.progress.measured(self.learner.measures)

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
        sums = len(self.learner.measures) + 1
        pending = torch.zeros(sums, dtype=torch.float64, device=self.world.device)
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
        images = values[-2]
        speed = images / max(seconds, 1e-9)
        bar.set_postfix(self.shown(self._measured()) | {"images/s": f"{speed:.1f}"}, refresh=False)
        curves = {"loss": values[0] / images, "lr": self.learner.rate, "images_per_second": speed}
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

    def _write_results(self, result: dict[str, Any]) -> None:
        self.save_network()
        description = {**self.description(), "epochs": self.recipe.epochs, "processes": self.world.size}
        self.report.finish(description | result)

    def save_network(self) -> None:
        """Write the final weights, and their average."""
        save_weights(self.learner.model, self.output / WEIGHTS)
        if self.learner.average is not None:
            save_weights(self.learner.average.module, self.output / AVERAGED_WEIGHTS)

    def prepare_epoch(self, epoch: int) -> None:  # noqa: B027
        """What comes before the steps of an epoch, counted from 0, that is begun or gone on with."""

    @abstractmethod
    def create_loaders(self) -> tuple[Any, Any]:
        """This process's batches for training, with `set_epoch` and a length, and for evaluation."""

    @abstractmethod
    def create_learner(self, starts: bool) -> Learner:
        """The learner as it is at `progress`; one that `starts` has the weights that the recipe says."""

    @abstractmethod
    def measure(self, network: nn.Module) -> dict[str, float]:
        """The quality of a network on the validation images, the same in all processes."""

    @abstractmethod
    def measure_offsets(self) -> dict[str, float]:
        """The size of the network's offsets, for images that are the same after every epoch."""

    @abstractmethod
    def shown(self, measured: dict[str, float]) -> dict[str, str]:
        """What the progress bar shows of the means over the epoch so far."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What was trained, in `results.json`."""


def run_training(
    trainer_class: type[Trainer], recipe: TrainingSettings, output: Path, resume: str, wandb: bool
) -> dict[str, Any]:
    """Train as a checked recipe says, write everything under `output`, return the final evaluation.

    Raises ValueError for data that cannot be trained on, FileExistsError when `output` belongs to another
    run, OSError when a checkpoint cannot be written, and Interrupted after a signal.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    with connect(recipe.device) as world, StopSignals() as signals:
        if world.is_first and (notice := slow_autocast(recipe)):
            _logger.warning(notice)
        trainer = trainer_class(recipe, output, world, signals, resume, wandb)
        try:
            return trainer.train()
        except Interrupted:
            saved = list_checkpoints(output)
            state = f"saved as {saved[-1]}" if saved else "before there was anything to save"
            raise Interrupted(f"interrupted by a signal, {state}: the same command goes on") from None
        finally:
            trainer.report.close()
