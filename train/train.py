"""Train a classifier from a recipe, in one process or many; the same command goes on where it was stopped.

python train/train.py --config train/recipes/NAME.yaml data_dir=PATH [key=value ...]
torchrun --nproc-per-node 8 train/train.py --config train/recipes/NAME.yaml data_dir=PATH [key=value ...]

Exit status: 0 done, 1 an error in one sentence, 75 interrupted by SIGTERM or SIGINT with the last step saved.
"""

import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dcn_backbones.command import run_command
from train.checks import check_recipe
from train.classification import ClassificationLearner
from train.data import create_train_loader, create_val_loader
from train.data.evaluation import EvalLoader
from train.data.loader import TrainLoader
from train.evaluate import evaluate
from train.launch import launch
from train.learner import amp_dtype
from train.losses import Criterion
from train.networks import build_model, start_model
from train.offsets import offset_statistics
from train.recipe import Recipe
from train.trainer import Trainer, run_training

OBSERVED_IMAGES = 32  # validation images whose offsets are logged after every epoch


class ClassificationTrainer(Trainer):
    """A run that trains a classifier."""

    recipe: Recipe
    learner: ClassificationLearner

    def create_loaders(self) -> tuple[TrainLoader, EvalLoader]:
        place = self.world.rank, self.world.size
        return create_train_loader(self.recipe, *place), create_val_loader(self.recipe, *place)

    def create_learner(self, starts: bool) -> ClassificationLearner:
        recipe = self.recipe
        model = build_model(recipe, deformable=self.progress.epoch >= recipe.deform_from_epoch)
        if recipe.init_from and starts:
            start_model(model, recipe.init_from, recipe.seed)
        criterion = Criterion(recipe, self.world.device)
        return ClassificationLearner(model, criterion, recipe, self.world, self.steps_per_epoch)

    def prepare_epoch(self, epoch: int) -> None:
        if epoch == self.recipe.deform_from_epoch > 0 and self.progress.images == 0:
            self.learner = self.learner.deformed()

    def measure(self, network: nn.Module) -> dict[str, float]:
        precision = amp_dtype(self.recipe), self.recipe.channels_last
        return evaluate(network, self.val_loader, self.world, *precision, signals=self.signals)

    def measure_offsets(self) -> dict[str, float]:
        return offset_statistics(self.learner.model, self.observed_images, amp_dtype(self.recipe))

    @cached_property
    def observed_images(self) -> torch.Tensor:
        """The first process's first images for validation, (B, 3, H, W): the same after every epoch."""
        return next(iter(self.val_loader))[0][:OBSERVED_IMAGES].to(self.world.device)

    def shown(self, measured: dict[str, float]) -> dict[str, str]:
        return {"loss": f"{measured['loss']:.3f}", "top-1": f"{measured['top1']:.1f} %"}

    def description(self) -> dict[str, Any]:
        return {"model": self.recipe.model}


def run(recipe: Recipe, output: Path, resume: str = "auto", wandb: bool = False) -> dict[str, Any]:
    """Train as the recipe says, write everything under `output`, return the final evaluation.

    Raises what `run_training` does, and ValueError for a recipe that cannot be trained.
    """
    check_recipe(recipe)
    return run_training(ClassificationTrainer, recipe, output, resume, wandb)


def main() -> None:
    launch(__doc__, run, "classification")


if __name__ == "__main__":
    run_command(main)
