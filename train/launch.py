"""The command line of a training script."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from dcn_backbones.command import CommandParser
from train.recipe import load_recipe
from train.resume import MODES
from train.signals import INTERRUPTED, Interrupted


def parse_arguments(documentation: str) -> argparse.Namespace:
    """The arguments that all training scripts have."""
    parser = CommandParser(documentation)
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


def launch(documentation: str, run: Callable, task: str) -> None:
    """Read the recipe, of this task, and run it; a run that a signal stopped exits with INTERRUPTED."""
    arguments = parse_arguments(documentation)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    recipe = load_recipe(arguments.config, arguments.overrides, task)
    if arguments.init_from:
        recipe.init_from = arguments.init_from
    try:
        output = arguments.output or Path("runs") / arguments.config.stem
        run(recipe, output, arguments.resume, arguments.wandb)
    except Interrupted as interruption:
        if os.environ.get("RANK", "0") == "0":
            print(interruption, file=sys.stderr)
        sys.exit(INTERRUPTED)
