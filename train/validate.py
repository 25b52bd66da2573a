"""Evaluate classifiers on labelled images: top-1, top-5, loss and speed.

python train/validate.py --data-dir PATH --model dcnv2_resnet18 --pretrained
python train/validate.py --run runs/NAME --perturb none rotated scaled --offsets
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dcn_backbones  # noqa: F401  (registers the models)
from dcn_backbones.analysis import format_health, offset_health
from dcn_backbones.command import CommandParser, run_command
from train.checkpoint import WEIGHTS, load_weights
from train.data import create_eval_loader, eval_data_config, open_dataset
from train.data.perturb import PERTURBATIONS, UNCHANGED, PerturbedImages
from train.data.sources import ImageSource
from train.data.subsets import Subset, held_out
from train.distribution import World
from train.evaluate import evaluate
from train.networks import build_model
from train.recipe import RECIPE, load_recipe
from train.results import check_results_file, format_table, write_results


def parse_arguments() -> argparse.Namespace:
    """The command line; options left out follow the model's own configuration."""
    parser = CommandParser(__doc__)
    models = parser.add_mutually_exclusive_group(required=True)
    models.add_argument("--model", help="a timm model name, hf-hub: and local-dir: included")
    models.add_argument(
        "--model-list", help="several names: separated by commas, or a text file with one a line"
    )
    models.add_argument("--run", type=Path, help="folder of a finished run; its recipe says how to evaluate")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--pretrained", action="store_true", help="the model's pretrained weights")
    weights.add_argument("--checkpoint", help="a weight file")
    parser.add_argument("--num-classes", type=int, help="size of the classifier")
    parser.add_argument(
        "--data-dir", help="folder of class folders, tar file, parquet folder, or hfds/NAME; a run's own"
    )
    parser.add_argument("--split", help="validation; of a run what it has evaluated itself")
    parser.add_argument(
        "--perturb",
        nargs="+",
        default=[UNCHANGED],
        choices=[UNCHANGED, *PERTURBATIONS],
        metavar="CHANGE",
        help=f"images to test on: any of {UNCHANGED}, {', '.join(PERTURBATIONS)}",
    )
    parser.add_argument("--img-size", type=int, help="height and width in pixels")
    parser.add_argument("--crop-pct", type=float, help="side of the centre crop over the resized side")
    parser.add_argument("--interpolation", help="bilinear or bicubic, for instance")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1, help="processes that load images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--channels-last", action="store_true", help="channels-last memory format")
    parser.add_argument(
        "--offsets", action="store_true", help="offsets and modulation of each layer too, for the first batch"
    )
    parser.add_argument("--results-file", type=Path, help="where to write the results, .json or .csv")
    arguments = parser.parse_args()
    if arguments.run and (arguments.pretrained or arguments.num_classes):
        parser.error("--pretrained and --num-classes are of --model and --model-list, a run has its own")
    if not arguments.run and not arguments.data_dir:
        parser.error("no --data-dir is given, expected one with --model and --model-list")
    return arguments


def open_images(arguments: argparse.Namespace) -> ImageSource | Subset:
    """The images asked for, or those that the run has evaluated: what it held out or its own split."""
    if not arguments.run:
        return open_dataset(arguments.data_dir, arguments.split or "validation")
    recipe = load_recipe(arguments.run / RECIPE)
    data_dir = arguments.data_dir or recipe.data_dir
    if recipe.holdout > 0 and not arguments.split:
        return held_out(open_dataset(data_dir, recipe.train_split), recipe.holdout, recipe.seed)
    return open_dataset(data_dir, arguments.split or recipe.val_split)


def model_names(model: str | None, model_list: str | None) -> list[str]:
    """The names of `--model`, or of `--model-list`: a file of lines (`#` comments) or a comma list."""
    if model:
        return [model]
    path = Path(model_list)
    names = path.read_text(encoding="utf-8").splitlines() if path.is_file() else model_list.split(",")
    names = [name.partition("#")[0].strip() for name in names]
    if not any(names):
        raise ValueError(f"model list {model_list!r} names no model, expected at least one")
    return [name for name in names if name]


def create_model(name: str, arguments: argparse.Namespace) -> nn.Module:
    """The model with its weights, on the device and in the memory format asked for."""
    if arguments.run:
        model = run_model(arguments.run)
    else:
        size = {} if arguments.num_classes is None else {"num_classes": arguments.num_classes}
        model = timm.create_model(name, pretrained=arguments.pretrained, **size)
    if arguments.checkpoint:
        load_weights(model, arguments.checkpoint)
    memory_format = torch.channels_last if arguments.channels_last else torch.contiguous_format
    return model.to(arguments.device, memory_format=memory_format)


def run_model(run: Path) -> nn.Module:
    """A finished run's network, configured for the images that the run has evaluated."""
    recipe = load_recipe(run / RECIPE)
    model = build_model(recipe)
    load_weights(model, run / WEIGHTS)
    model.pretrained_cfg = {**model.pretrained_cfg, "test_input_size": None, **eval_data_config(recipe)}
    return model


def validate(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Evaluate one model on each kind of images; returns what `_measure` does, a record for each."""
    model = create_model(name, arguments)
    return [_measure(name, model, perturbation, arguments) for perturbation in arguments.perturb]


def _measure(name: str, model: nn.Module, perturbation: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The model's name, size and preprocessing, and what `evaluate` measured."""
    data_config = resolve_data_config(vars(arguments), model=model, use_test_size=True)
    device = torch.device(arguments.device)
    images = open_images(arguments)
    if perturbation != UNCHANGED:
        images = PerturbedImages(images, perturbation)
    loader = create_eval_loader(images, data_config, arguments.batch_size, arguments.workers, device)
    amp_dtype = torch.bfloat16 if arguments.amp else None
    description = name if perturbation == UNCHANGED else f"{name}, {perturbation}"
    if arguments.offsets:
        first = next(iter(loader))[0].to(device)
        print(f"{description}, {len(first)} images\n{format_health(offset_health(model, first, amp_dtype))}")
    measured = evaluate(
        model, loader, World(device=device), amp_dtype, arguments.channels_last, description=description
    )
    return {
        "model": name,
        "perturbation": perturbation,
        **measured,
        "parameters_millions": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        "img_size": data_config["input_size"][-1],
        "crop_pct": data_config["crop_pct"],
        "interpolation": data_config["interpolation"],
    }


def main() -> None:
    arguments = parse_arguments()
    if arguments.results_file:
        check_results_file(arguments.results_file)
    results = []
    names = [str(arguments.run)] if arguments.run else model_names(arguments.model, arguments.model_list)
    for name in names:
        results += validate(name, arguments)
        if arguments.results_file:  # after every model, so that a later failure loses nothing
            write_results(arguments.results_file, results)
    print(format_table(results))


if __name__ == "__main__":
    run_command(main)
