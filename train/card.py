"""The README card of published weights, written from the recipes and measurements of their runs."""

from pathlib import Path
from typing import Any

from train.recipe import RECIPE, Recipe, load_recipe
from train.results import read_log

_CARD = """\
---
library_name: timm
pipeline_tag: image-classification
license: other
license_name: training-data-terms
tags:
- image-classification
- timm
- deformable-convolution
---
# {name}

`{model}` with {num_classes} classes: **{top1:.2f} % top-1, {top5:.2f} % top-5** on the {images:,} validation
images of {data} (these float16 values, computed in float32, {img_size} px, every image once).{size_note}

```python
import timm, dcn_backbones

model = timm.create_model("{name}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
```

## How it was made

{phases}

Each phase starts from the one before. Plain weights are converted exactly before the first deformable step:
offsets start at zero, and the replaced 3x3 weights are doubled where a mask of one half scales samples.

- Loss: {loss}
- Optimizer: {opt}, momentum {momentum}, batch {batch_size} in each process{accumulated}
- Weight decay: {weight_decay}, none on vectors and biases
- Learning rate: {sched} schedule; {offset_lr_scale}x in the branches that predict the offsets
- Augmentation: {augmentation}

## Preprocessing

{img_size}x{img_size} px, {interpolation}, centre crop {crop_pct:.0%}, mean {mean}, standard deviation {std}.

## Terms

Data: {terms}. The code is Apache-2.0; the weights carry the terms of the data that they were
trained on.
"""

_PHASE_HEADER = """\
| phase | model | epochs | size | learning rate | training images/s | top-1 % | top-5 % |
|---|---|---|---|---|---|---|---|"""


def training_history(run: Path) -> list[tuple[Recipe, list[dict[str, Any]]]]:
    """The recipes and epoch logs behind a run, oldest first: `init_from` is followed from run to run."""
    recipe = load_recipe(run / RECIPE)
    # epoch 0 is the evaluation before the first step
    log = [record for record in read_log(run / "log.jsonl") if record["epoch"] > 0]
    start = Path(recipe.init_from)
    parent = start if start.is_dir() else start.parent
    is_run = bool(recipe.init_from) and (parent / RECIPE).is_file()
    return [*(training_history(parent) if is_run else []), (recipe, log)]


def model_card(
    name: str, recipe: Recipe, result: dict[str, float], history: list[tuple[Recipe, list[dict[str, Any]]]]
) -> str:
    """Markdown card of the weights `name` (`MODEL.TAG`) with the measured `result` of `evaluate`."""
    rows = [_phase_row(number, *phase) for number, phase in enumerate(history, start=1)]
    return _CARD.format(
        name=name,
        model=recipe.model,
        num_classes=recipe.num_classes,
        top1=result["top1"],
        top5=result["top5"],
        images=result["images"],
        data=Path(recipe.data_dir).name,
        img_size=recipe.img_size,
        size_note=_size_note(recipe.img_size, history[-1][0].img_size),
        phases="\n".join([_PHASE_HEADER, *rows]),
        loss=_loss(recipe),
        opt=recipe.opt,
        momentum=recipe.momentum,
        sched=recipe.sched,
        augmentation=_augmentation(recipe),
        weight_decay=recipe.weight_decay,
        batch_size=recipe.batch_size,
        accumulated=f", {recipe.accumulate} of them a step" if recipe.accumulate > 1 else "",
        offset_lr_scale=recipe.offset_lr_scale,
        interpolation=recipe.interpolation,
        crop_pct=recipe.eval_crop_pct,
        mean=recipe.mean,
        std=recipe.std,
        terms=recipe.data_terms or "not stated by the recipe",
    )


def _loss(recipe: Recipe) -> str:
    name = "binary cross-entropy" if recipe.loss == "bce" else "cross-entropy"
    parts = [f"{name} with label smoothing {recipe.label_smoothing}"]
    if recipe.teacher:
        parts.append(f"distillation from {recipe.teacher} (weight {recipe.teacher_weight})")
    return ", ".join(parts)


def _augmentation(recipe: Recipe) -> str:
    smallest, largest = recipe.train_scale
    parts = [f"crops of {smallest:.0%} to {largest:.0%} of the area, resized", "horizontal flips"]
    names = ("auto_augment", "color_jitter", "random_erasing", "mixup", "cutmix")
    parts += [f"{name.replace('_', ' ')} {getattr(recipe, name)}" for name in names if getattr(recipe, name)]
    return ", ".join(parts)


def _size_note(size: int, training_size: int) -> str:
    if size == training_size:
        return ""
    return f"\nTraining ended at {training_size} px; the size for use was chosen on these validation images."


def _phase_row(number: int, recipe: Recipe, log: list[dict[str, Any]]) -> str:
    speed = sum(record["train_images_per_second"] for record in log) / len(log)
    last = log[-1]
    return (
        f"| {number} | {recipe.model} | {len(log)} | {recipe.img_size} px "
        f"| {recipe.lr:g} to {recipe.min_lr:g} | {speed:.0f} "
        f"| {last['val_top1']:.2f} | {last['val_top5']:.2f} |"
    )
