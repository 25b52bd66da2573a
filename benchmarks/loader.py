"""Images a second of a recipe's loader beside those of its training, apart and together.

python -m benchmarks.loader train/recipes/NAME.yaml [--steps 40] [--output FILE] data_dir=PATH [key=value ...]

The loader has to be faster than training by a margin, 3x on a processor, where the two share cores. `waiting`
is the share by which training with the loader is slower than training on images that are there already: on a
GPU, the time in which it waits for images.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from dcn_backbones.command import run_command
from train.checks import check_recipe
from train.classification import ClassificationLearner
from train.data import create_train_loader
from train.distribution import World
from train.losses import Criterion
from train.networks import build_model
from train.recipe import Recipe, load_recipe

from . import report

Batch = tuple[Tensor, Tensor]
WARM_UP = 4


def measure(recipe: Recipe, steps: int) -> dict[str, float]:
    """Images a second of `steps` batches: `loader`, `training` and `together`, and what follows from them."""
    device = torch.device(recipe.device)
    loader = create_train_loader(recipe)
    batches = _epochs(loader)
    learner = ClassificationLearner(
        build_model(recipe), Criterion(recipe, device), recipe, World(device=device), len(loader)
    )
    learner.train()
    speeds = {"loader": _images_per_second(batches, steps, device)}
    present = [next(batches)] * (WARM_UP + steps)
    speeds["training"] = _images_per_second(_trained(learner, present), steps, device)
    speeds["together"] = _images_per_second(_trained(learner, batches), steps, device)
    waiting = max(0.0, 1 - speeds["together"] / speeds["training"])
    return speeds | {"loader_over_training": speeds["loader"] / speeds["training"], "waiting": waiting}


def _epochs(loader) -> Iterator[Batch]:
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def _trained(learner: ClassificationLearner, batches: Iterable[Batch]) -> Iterator[Batch]:
    for images, targets in batches:
        learner.step([(images, targets)], 0)
        yield images, targets


def _images_per_second(batches: Iterable[Batch], steps: int, device: torch.device) -> float:
    batches = iter(batches)
    for _ in range(WARM_UP):
        next(batches)
    _synchronize(device)
    start = time.perf_counter()
    images = sum(len(targets) for _, targets in islice(batches, steps))
    _synchronize(device)
    return images / (time.perf_counter() - start)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="recipe file")
    parser.add_argument("--steps", type=int, default=40, help="batches of each measurement")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe settings to change")
    arguments = parser.parse_intermixed_args()
    recipe = load_recipe(arguments.config, arguments.overrides)
    check_recipe(recipe)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    figures = measure(recipe, arguments.steps)
    for name in ("loader", "training", "together"):
        print(f"{name:10s} {figures[name]:8.0f} images/s")
    print(f"loader over training {figures['loader_over_training']:.1f}x, waiting {figures['waiting']:.0%}")
    if arguments.output:
        report.write(arguments.output, vars(arguments), {"images_per_second": figures})


if __name__ == "__main__":
    run_command(main)
