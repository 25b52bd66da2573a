"""Measure a trained detector again: COCO's average precision of boxes and masks, and PASCAL VOC's.

python train/validate_detector.py --run runs/NAME
python train/validate_detector.py --run runs/NAME data_dir=PATH --results-file results.json
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dcn_backbones.command import CommandParser, run_command
from dcn_backbones.detection import load_detector
from train.detection.annotations import check_categories
from train.detection.data import DetectionSource, create_val_loader
from train.detection.detectors import AVERAGED, fit_to_recipe
from train.detection.evaluation import evaluate_detector
from train.detection.recipe import DetectionRecipe
from train.detection.splits import open_validation
from train.distribution import World
from train.learner import amp_dtype
from train.networks import place_model
from train.recipe import RECIPE, load_recipe
from train.results import check_results_file, write_results


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run, with its recipe")
    parser.add_argument("--averaged", action="store_true", help="the run's averaged detector")
    parser.add_argument("--results-file", type=Path, help="where to write the results, .json or .csv")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe settings to change")
    return parser.parse_intermixed_args()


def validate(recipe: DetectionRecipe, folder: Path) -> dict[str, float]:
    """What `evaluate_detector` measures of the detector in a folder, on the recipe's validation images.

    Raises ValueError when their categories are not the detector's.
    """
    detector, categories = load_detector(folder)
    annotations = open_validation(recipe)
    check_categories(annotations.file, annotations.categories, categories, str(folder))
    world = World(device=torch.device(recipe.device))
    detector = place_model(fit_to_recipe(detector, recipe), recipe, world.device)
    loader = create_val_loader(recipe, DetectionSource(annotations, masks=False))
    return evaluate_detector(detector, loader, annotations, world, amp_dtype(recipe), recipe.max_damaged)


def main() -> None:
    arguments = parse_arguments()
    if arguments.results_file:
        check_results_file(arguments.results_file)
    recipe = load_recipe(arguments.run / RECIPE, arguments.overrides, "detection")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    folder = arguments.run / AVERAGED if arguments.averaged else arguments.run
    result = {"detector": str(folder), **validate(recipe, folder)}
    if arguments.results_file:
        write_results(arguments.results_file, [result])
    for name, value in result.items():
        print(f"{name:<18} {value:.2f}" if isinstance(value, float) else f"{name:<18} {value}")


if __name__ == "__main__":
    run_command(main)
