"""Turn a finished run into a folder of published weights: safetensors, configuration, history and card.

python train/export_weights.py --run runs/NAME --output dcn_backbones/weights/MODEL.TAG --data-dir PATH
python train/export_weights.py --run runs/NAME --output MODEL.TAG --data-dir PATH --dtype float32 --averaged
"""

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dcn_backbones  # noqa: F401  (registers the models)
from dcn_backbones.command import CommandParser, run_command
from dcn_backbones.models.checkpoints import load_own_weights
from train.card import model_card
from train.checkpoint import AVERAGED_WEIGHTS, WEIGHTS
from train.data import create_eval_loader, eval_data_config, open_dataset
from train.data.sources import ImageSource
from train.distribution import World
from train.evaluate import evaluate
from train.history import TRAINING, TrainingHistory, run_phases
from train.recipe import Recipe

ARCHITECTURE_FIELDS = ("architecture", "input_size", "first_conv", "classifier")
DTYPES = {"float16": torch.float16, "float32": torch.float32}


def trained_model(recipe: Recipe, weights: Path, dtype: str = "float16") -> nn.Module:
    """The trained model with parameters and buffers of `dtype`.

    Raises ValueError if the file is damaged or another network's, or a value overflows.
    """
    model = timm.create_model(recipe.model, num_classes=recipe.num_classes, **recipe.model_kwargs)
    load_own_weights(model, weights)
    model.to(DTYPES[dtype])
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            largest = torch.finfo(DTYPES[dtype]).max
            raise ValueError(
                f"{name} of {weights} does not fit {dtype}, expected finite values up to {largest:g}"
            )
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
    """Accuracy of the published values computed in float32, as a user who loads them gets it."""
    loader = create_eval_loader(dataset, data_config, recipe.batch_size, recipe.workers, torch.device("cpu"))
    return evaluate(model.float(), loader, World(), channels_last=True)


def export(
    run: Path,
    output: Path,
    data_dir: str,
    img_size: int | None = None,
    averaged: bool = False,
    dtype: str = "float16",
) -> dict[str, float]:
    """Write `output` from a run's folder and return the accuracy of what was written.

    `averaged` takes the moving average of the weights. `img_size` (pixels) replaces the recipe's size in the
    evaluation and the published preprocessing. `dtype` is the type of the published values.
    """
    phases = run_phases(run)
    trained = phases[-1].recipe
    size = img_size or trained.eval_img_size or trained.img_size
    recipe = dataclasses.replace(trained, img_size=size, eval_img_size=size)
    dataset = open_dataset(data_dir, recipe.val_split)
    data_config = eval_data_config(recipe)
    model = trained_model(recipe, run / (AVERAGED_WEIGHTS if averaged else WEIGHTS), dtype)
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
        accuracy = {name: value for name, value in result.items() if name != "images_per_second"}
        history = TrainingHistory(phases, dtype, size, accuracy)
        history.save(Path(folder) / TRAINING)
        (Path(folder) / "README.md").write_text(model_card(output.name, history), encoding="utf-8")
        for file in sorted(Path(folder).iterdir()):
            file.chmod(0o644)  # safetensors writes files that only their owner can read
            os.replace(file, output / file.name)
    return result


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="output folder of train.py")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, named MODEL.TAG")
    parser.add_argument(
        "--data-dir", required=True, help="the data whose validation split measures the weights"
    )
    parser.add_argument(
        "--img-size", type=int, help="evaluation size in pixels, the training size by default"
    )
    parser.add_argument("--averaged", action="store_true", help="the moving average, of a run with ema_decay")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float16", help="of the values (default: %(default)s)"
    )
    arguments = parser.parse_args()
    result = export(
        arguments.run,
        arguments.output,
        arguments.data_dir,
        arguments.img_size,
        arguments.averaged,
        arguments.dtype,
    )
    print(f"{arguments.output}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %")


if __name__ == "__main__":
    run_command(main)
