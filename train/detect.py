"""Train a detector from a recipe, in one process or many; the same command goes on where it was stopped.

python train/detect.py --config train/recipes/detection/NAME.yaml data_dir=PATH [key=value ...]
torchrun --nproc-per-node 8 train/detect.py --config train/recipes/detection/NAME.yaml data_dir=PATH

Exit status: 0 done, 1 an error in one sentence, 75 interrupted by SIGTERM or SIGINT with the last step saved.
"""

import sys
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dcn_backbones.command import run_command
from dcn_backbones.detection import save_detector
from train.detection.annotations import Annotations
from train.detection.checks import check_recipe
from train.detection.data import DetectionSource, as_float, create_train_loader, create_val_loader
from train.detection.detectors import AVERAGED, make_detector, start_detector
from train.detection.evaluation import evaluate_detector
from train.detection.learner import DetectionLearner
from train.detection.recipe import DetectionRecipe
from train.detection.splits import check_run_categories, open_splits, save_categories
from train.launch import launch
from train.learner import amp_dtype
from train.offsets import offset_statistics
from train.trainer import Trainer, run_training

OBSERVED_IMAGES = 8  # validation images whose offsets are logged after every epoch


class DetectionTrainer(Trainer):
    """A run that trains a detector."""

    recipe: DetectionRecipe
    learner: DetectionLearner

    @cached_property
    def splits(self) -> tuple[Annotations, Annotations]:
        """The annotations to train on and to measure with."""
        splits = open_splits(self.recipe)
        check_run_categories(self.output, splits[0])
        return splits

    def prepare_output(self) -> None:
        super().prepare_output()
        save_categories(self.output, self.splits[0])

    def create_loaders(self) -> tuple[Any, Any]:
        recipe, (training, validation) = self.recipe, self.splits
        place = self.world.rank, self.world.size
        source = DetectionSource(training, masks=recipe.detector == "mask_rcnn")
        return (
            create_train_loader(recipe, source, *place),
            create_val_loader(recipe, DetectionSource(validation, masks=False), *place),
        )

    def create_learner(self, starts: bool) -> DetectionLearner:
        recipe, training = self.recipe, self.splits[0]
        detector = make_detector(recipe, len(training.categories) + 1)
        if recipe.init_from and starts:
            start_detector(detector, recipe.init_from, training.categories, training.file)
        return DetectionLearner(detector, recipe, self.world, self.steps_per_epoch)

    def measure(self, network: nn.Module) -> dict[str, float]:
        images = self.val_loader, self.splits[1]
        settings = amp_dtype(self.recipe), self.recipe.max_damaged
        return evaluate_detector(network, *images, self.world, *settings, self.signals)

    def measure_offsets(self) -> dict[str, float]:
        detector = self.learner.model.eval()
        images, _ = detector.transform(self.observed_images)
        return offset_statistics(detector.backbone, images.tensors, amp_dtype(self.recipe))

    @cached_property
    def observed_images(self) -> list[torch.Tensor]:
        """The first process's first images for validation, each (3, H, W): the same after every epoch."""
        batches = islice(self.val_loader, OBSERVED_IMAGES)
        return [as_float(image, self.world.device) for batch in batches for image in batch.images]

    def shown(self, measured: dict[str, float]) -> dict[str, str]:
        return {"loss": f"{measured['loss']:.3f}"}

    def description(self) -> dict[str, Any]:
        return {"detector": self.recipe.detector, "backbone": self.recipe.backbone}

    def save_network(self) -> None:
        categories = self.splits[0].categories
        save_detector(self.learner.model, self.output, categories)
        if self.learner.average is not None:
            save_detector(self.learner.average.module, self.output / AVERAGED, categories)


def run(recipe: DetectionRecipe, output: Path, resume: str = "auto", wandb: bool = False) -> dict[str, Any]:
    """Train as the recipe says, write everything under `output`, return the final evaluation.

    Raises what `run_training` does, and ValueError for a recipe that cannot be trained.
    """
    check_recipe(recipe)
    return run_training(DetectionTrainer, recipe, output, resume, wandb)


def main() -> None:
    launch(__doc__, run, "detection")


if __name__ == "__main__":
    run_command(main)
