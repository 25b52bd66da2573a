"""Training speed of a recipe in images/s, on images in memory: in one process or those that torchrun starts.

python -m benchmarks.processes --config train/recipes/NAME.yaml
torchrun --nproc-per-node 2 -m benchmarks.processes --config train/recipes/NAME.yaml

The quotient of the two, divided by the number of processes, is the efficiency of distribution.
"""

import argparse
import statistics
import time

import torch

from dcn_backbones.command import run_command
from train.classification import ClassificationLearner
from train.distribution import World, connect
from train.losses import Criterion
from train.networks import build_model
from train.recipe import Recipe, load_recipe
from train.resume import step_images


def measure(recipe: Recipe, world: World, steps: int) -> list[float]:
    """Images/s over all processes of each step but the first, which allocates."""
    learner = ClassificationLearner(
        build_model(recipe), Criterion(recipe, world.device), recipe, world, steps
    )
    learner.train()
    images = torch.randn(recipe.batch_size, 3, recipe.img_size, recipe.img_size, device=world.device)
    labels = torch.randint(recipe.num_classes, (recipe.batch_size,), device=world.device)
    speeds = []
    for number in range(steps + 1):
        start = time.perf_counter()
        learner.step([(images, labels)] * recipe.accumulate, number).tolist()  # waits for the device
        speeds.append(step_images(recipe, world.size) / (time.perf_counter() - start))
    return speeds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="recipe file")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe settings to change")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.config, arguments.overrides)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    with connect(recipe.device) as world:
        speeds = measure(recipe, world, arguments.steps)
        if world.is_first:
            print(
                f"{world.size} processes, {torch.get_num_threads()} threads each: median "
                f"{statistics.median(speeds):.1f} images/s ({min(speeds):.1f} to {max(speeds):.1f})"
            )


if __name__ == "__main__":
    run_command(main)
