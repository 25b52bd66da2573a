"""Turn a finished run into a folder of published weights: float16 safetensors, configuration and card.

python train/export_weights.py --run runs/NAME --output dcn_backbones/weights/MODEL.TAG --data-dir PATH
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dcn_backbones  # noqa: F401  (registers the models)
from train.card import model_card, training_history
from train.checkpoint import AVERAGED_WEIGHTS, WEIGHTS
from train.command import run_command
from train.data import create_eval_loader, eval_data_config, open_dataset
from train.data.sources import ImageSource
from train.distribution import World
from train.evaluate import evaluate
from train.recipe import RECIPE, Recipe, load_recipe

ARCHITECTURE_FIELDS = ("architecture", "input_size", "first_conv", "classifier")


def float16_model(recipe: Recipe, weights: Path) -> nn.Module:
    """The trained model with float16 parameters and buffers; raises ValueError if a value overflows."""
    model = timm.create_model(recipe.model, num_classes=recipe.num_classes, **recipe.model_kwargs)
    model.load_state_dict(load_file(weights))
    model.half()
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} of {weights} does not fit float16, expected finite values up to 65504")
    return model


def class_labels(dataset: ImageSource, data_dir: str) -> dict[str, Any]:
    """`label_names` in class order, and `label_descriptions` if the data has a class_names.json."""
    class_to_idx = dataset.classes
    labels = {"label_names": sorted(class_to_idx, key=class_to_idx.get)}
    words = Path(data_dir) / "class_names.json"
    if words.is_file():
        descriptions = json.loads(words.read_text(encoding="utf-8"))
        labels["label_descriptions"] = {name: descriptions[name] for name in labels["label_names"]}
    return labels


def measure(
    model: nn.Module, dataset: ImageSource, data_config: dict[str, Any], recipe: Recipe
) -> dict[str, float]:
    """Accuracy of the float16 values computed in float32, as a user who loads them gets it."""
    loader = create_eval_loader(dataset, data_config, recipe.batch_size, recipe.workers, torch.device("cpu"))
    return evaluate(model.float(), loader, World(), channels_last=True)


def export(
    run: Path, output: Path, data_dir: str, img_size: int | None = None, averaged: bool = False
) -> dict[str, float]:
    """Write `output` from a run's folder and return the accuracy of what was written.

    `averaged` takes the moving average of the weights. `img_size` (pixels) replaces the recipe's size in the
    evaluation and the published preprocessing.
    """
    recipe = load_recipe(run / RECIPE)
    recipe.img_size = recipe.eval_img_size = img_size or recipe.eval_img_size or recipe.img_size
    dataset = open_dataset(data_dir, recipe.val_split)
    data_config = eval_data_config(recipe)
    model = float16_model(recipe, run / (AVERAGED_WEIGHTS if averaged else WEIGHTS))
    # The rest of the default configuration (labels, paper, origin) is about other weights.
    model.pretrained_cfg = {name: model.pretrained_cfg[name] for name in ARCHITECTURE_FIELDS}
    model_config = {
        **class_labels(dataset, data_dir),
        "pretrained_cfg": {
            "tag": output.name.partition(".")[2],
            "license": "other",
            "description": f"Terms of the training data: {recipe.data_terms or 'not stated'}.",
        },
    }
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        save_for_hf(model, folder, model_config, safe_serialization=True, data_config=data_config)
        result = measure(model, dataset, data_config, recipe)
        card = model_card(output.name, recipe, result, training_history(run))
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        for file in sorted(Path(folder).iterdir()):
            file.chmod(0o644)  # safetensors writes files that only their owner can read
            os.replace(file, output / file.name)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="output folder of train.py")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, named MODEL.TAG")
    parser.add_argument(
        "--data-dir", required=True, help="the data whose validation split measures the weights"
    )
    parser.add_argument(
        "--img-size", type=int, help="evaluation size in pixels, the training size by default"
    )
    parser.add_argument("--averaged", action="store_true", help="the moving average, of a run with ema_decay")
    arguments = parser.parse_args()
    result = export(
        arguments.run, arguments.output, arguments.data_dir, arguments.img_size, arguments.averaged
    )
    print(f"{arguments.output}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %")


if __name__ == "__main__":
    run_command(main)
