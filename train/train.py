"""Train a classifier from a recipe, in one process.

python train/train.py --config train/recipes/NAME.yaml --output runs/NAME data_dir=PATH [key=value ...]
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
from timm.loss import LabelSmoothingCrossEntropy
from timm.scheduler.scheduler import Scheduler
from timm.utils import random_seed
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dcn_backbones  # noqa: F401  (registers the models)
from train import checkpoint
from train.command import run_command
from train.data import create_eval_loader, create_train_loader, eval_data_config, open_dataset
from train.evaluate import evaluate
from train.offsets import offset_statistics
from train.optim import create_optimizer, create_scheduler
from train.recipe import Recipe, load_recipe, save_recipe
from train.results import TrainingLog, prefixed, write_text

OBSERVED_IMAGES = 32  # validation images whose offsets are logged after every epoch


def build_model(recipe: Recipe) -> nn.Module:
    """The recipe's model, initialised from `init_from` if it names a file."""
    model = timm.create_model(recipe.model, num_classes=recipe.num_classes, **recipe.model_kwargs)
    if recipe.init_from:
        checkpoint.load_weights(model, recipe.init_from)
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return model.to(recipe.device, memory_format=memory_format)


def create_val_loader(recipe: Recipe) -> Iterable:
    """The recipe's validation images at its training size."""
    dataset = open_dataset(recipe.data_dir, recipe.val_split)
    batch_size = 2 * recipe.batch_size  # without gradients twice as many fit
    return create_eval_loader(
        dataset, eval_data_config(recipe), batch_size, recipe.workers, torch.device(recipe.device)
    )


def train_one_epoch(
    model: nn.Module, loader: Iterable, optimizer: Optimizer, scheduler: Scheduler, recipe: Recipe, epoch: int
) -> dict[str, float]:
    """One pass over `loader`, epochs counted from 0; returns the mean loss, the speed and the last rate."""
    model.train()
    criterion = LabelSmoothingCrossEntropy(recipe.label_smoothing)
    device = torch.device(recipe.device)
    total_loss, images, start = 0.0, 0, time.perf_counter()
    progress = tqdm(loader, desc=f"epoch {epoch + 1}", disable=None, leave=False)
    for step, (batch, labels) in enumerate(progress, start=epoch * len(loader) + 1):
        if recipe.channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.amp):
            logits = model(batch)  # (B, num_classes)
        loss = criterion(logits.float(), labels)
        if not loss.isfinite():
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}, expected a finite number")
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip_grad > 0:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad)
        optimizer.step()
        scheduler.step_update(step)
        total_loss += float(loss.detach()) * len(labels)
        images += len(labels)
        progress.set_postfix(loss=f"{total_loss / images:.3f}")
    return {
        "lr": max(group["lr"] for group in optimizer.param_groups),
        "train_loss": total_loss / images,
        "train_images_per_second": images / (time.perf_counter() - start),
    }


def run(recipe: Recipe, output: Path, resume: bool = False) -> dict[str, float]:
    """Train as the recipe says, write everything under `output`, return the final evaluation.

    Raises FileExistsError when `output` holds a run already and `resume` is not asked for.
    """
    if checkpoint.list_checkpoints(output) and not resume:
        raise FileExistsError(
            f"{output} holds checkpoints of a run, expected --resume or another output folder"
        )
    output.mkdir(parents=True, exist_ok=True)
    save_recipe(recipe, output / "recipe.yaml")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    random_seed(recipe.seed)
    model = build_model(recipe)
    train_loader, val_loader = create_train_loader(recipe), create_val_loader(recipe)
    optimizer = create_optimizer(model, recipe)
    scheduler = create_scheduler(optimizer, recipe, len(train_loader))
    observed_images = next(iter(val_loader))[0][:OBSERVED_IMAGES]

    def measure() -> dict[str, float]:
        result = evaluate(model, val_loader, torch.device(recipe.device), recipe.amp, recipe.channels_last)
        return result | offset_statistics(model, observed_images, recipe.amp)

    first_epoch = checkpoint.load_last_checkpoint(output, model, optimizer)
    log = TrainingLog(output / "log.jsonl", first_epoch)
    if recipe.init_from and first_epoch == 0:
        log.append({"epoch": 0, **prefixed("val_", measure())})
    scheduler.step_update(first_epoch * len(train_loader))
    for epoch in range(first_epoch, recipe.epochs):
        random_seed(recipe.seed + epoch)
        trained = train_one_epoch(model, train_loader, optimizer, scheduler, recipe, epoch)
        log.append({"epoch": epoch + 1, **trained, **prefixed("val_", measure())})
        checkpoint.save_checkpoint(output, epoch + 1, model, optimizer)

    result = measure()
    checkpoint.save_weights(model, output / checkpoint.WEIGHTS)
    write_text(output / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="recipe file")
    parser.add_argument("--output", type=Path, help="folder of the run, runs/RECIPE by default")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the output folder's last checkpoint"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe settings to change")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.config, arguments.overrides)
    result = run(recipe, arguments.output or Path("runs") / arguments.config.stem, arguments.resume)
    print(f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % on {result['images']} images")


if __name__ == "__main__":
    run_command(main)
