"""Training speed of a detection recipe on its own data: images/s by the clock and by the processor's time.

python -m benchmarks.detection --config train/recipes/detection/NAME.yaml data_dir=PATH init_from=

On a processor that is shared with other work the second figure tells what the first would be without it.
"""

import statistics
import time
from argparse import Namespace
from collections.abc import Iterator

import torch

from dcn_backbones.command import CommandParser, run_command
from train.detection.data import DetectionSource, create_train_loader
from train.detection.detectors import make_detector
from train.detection.learner import DetectionLearner
from train.detection.recipe import DetectionRecipe
from train.detection.splits import open_splits
from train.distribution import World
from train.recipe import load_recipe


def speeds(recipe: DetectionRecipe, steps: int) -> Iterator[tuple[float, float]]:
    """Images/s of each step but the first, which allocates; by the clock and by this process's CPU time."""
    training, _ = open_splits(recipe)
    loader = create_train_loader(recipe, DetectionSource(training, recipe.detector == "mask_rcnn"))
    world = World(device=torch.device(recipe.device))
    learner = DetectionLearner(
        make_detector(recipe, len(training.categories) + 1), recipe, world, len(loader)
    )
    learner.train()
    batches = iter(loader)
    for number in range(steps + 1):
        accumulated = [next(batches) for _ in range(recipe.accumulate)]
        start, cpu_start = time.perf_counter(), time.process_time()
        images = learner.step(accumulated, number)[-1].item()  # waits for the device
        if number > 0:
            yield images / (time.perf_counter() - start), images / (time.process_time() - cpu_start)


def parse_arguments() -> Namespace:
    parser = CommandParser(__doc__, "python -m benchmarks.detection")
    parser.add_argument("--config", required=True, help="recipe file")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe settings to change")
    return parser.parse_intermixed_args()


def main() -> None:
    arguments = parse_arguments()
    recipe = load_recipe(arguments.config, arguments.overrides, "detection")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    by_clock, by_cpu = (
        statistics.median(values) for values in zip(*speeds(recipe, arguments.steps), strict=True)
    )
    print(f"{arguments.config}: {by_clock:.2f} images/s, {by_cpu:.2f} images per second of CPU time")


if __name__ == "__main__":
    run_command(main)
