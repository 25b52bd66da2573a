"""The README card of published weights, written from the recipes and measurements of their runs."""

from pathlib import Path
from typing import Any

from timm.optim import get_optimizer_info

from train.history import Phase, TrainingHistory
from train.recipe import Recipe

_CARD = """\
---
library_name: timm
pipeline_tag: image-classification
license: other
license_name: training-data-terms
{datasets}tags:
- image-classification
- timm
- dcn_backbones
- deformable-convolution
---
# {name}

`{model}` with {num_classes} classes: **{top1:.2f} % top-1, {top5:.2f} % top-5** on the {images:,} validation
images of {data} ({values}, computed in float32, {img_size} px, every image once).{size_note}

{what}

## Use

```python
import timm, dcn_backbones  # importing the package registers the model
model = timm.create_model("{source}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
```

## Results

| data | images | size | top-1 % | top-5 % | loss |
|---|---|---|---|---|---|
| {data}, `{val_split}` | {images:,} | {img_size} px | {top1:.2f} | {top5:.2f} | {loss} |
{sections}
## How it was made

{phases}

{starts}- Loss: {loss_function}
- Optimizer: {opt}{momentum}, batch {batch_size} in each process{accumulated}
- Weight decay: {weight_decay}, none on vectors and biases
- Learning rate: {sched} schedule{offset_rate}
- Augmentation: {augmentation}

Every setting and the log of every epoch that was kept are in `training.json`.

## Preprocessing

{img_size}x{img_size} px, {interpolation}, centre crop {crop_pct:.0%}, mean {mean}, standard deviation {std}.

## Limits

- It answers with one of its {num_classes} classes whatever a picture shows, with uncalibrated probabilities.
- The accuracy is that of one run on photographs like those it was trained on; nothing was measured on others,
  and nothing about bias.
- Its last phase saw images of {training_size} px: detail that is lost at that size cannot matter to it.

## Terms

Data: {terms}. The code is Apache-2.0; the weights carry the terms of the data that they were
trained on.

## Citation

```bibtex
{citation}
```
"""

_PHASE_HEADER = """\
| phase | model | epochs | size | learning rate | training images/s | top-1 % | top-5 % |
|---|---|---|---|---|---|---|---|"""

_CONVERSION = """\
 Plain weights are converted exactly before the first deformable step:
offsets start at zero, and the replaced 3x3 weights are doubled where a mask of one half scales samples."""

_CITATIONS = {
    "dcnv1": """\
@inproceedings{dai2017deformable,
  title = {Deformable Convolutional Networks},
  author = {Dai, Jifeng and Qi, Haozhi and Xiong, Yuwen and Li, Yi and
            Zhang, Guodong and Hu, Han and Wei, Yichen},
  booktitle = {ICCV},
  year = {2017}
}""",
    "dcnv2": """\
@inproceedings{zhu2019deformable,
  title = {Deformable ConvNets v2: More Deformable, Better Results},
  author = {Zhu, Xizhou and Hu, Han and Lin, Stephen and Dai, Jifeng},
  booktitle = {CVPR},
  year = {2019}
}""",
    "": """\
@inproceedings{he2016deep,
  title = {Deep Residual Learning for Image Recognition},
  author = {He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian},
  booktitle = {CVPR},
  year = {2016}
}""",
}

_KINDS = {
    "dcnv1": """\
A ResNet whose later 3x3 convolutions are deformable (DCNv1): each sample of a kernel is moved by an offset
that the network predicts from the image.""",
    "dcnv2": """\
A ResNet whose later 3x3 convolutions are modulated deformable (DCNv2): each sample of a kernel is moved by
an offset and weighted by a mask, both predicted from the image.""",
    "": "A network without deformable layers, trained as the starting point of deformable ones.",
}


def model_card(name: str, history: TrainingHistory, source: str | None = None, sections: str = "") -> str:
    """Markdown card of the weights `name` (`MODEL.TAG`).

    `source` is what `timm.create_model` loads them by, `name` if None; `sections` are further ones in
    Markdown, for between the results and how they came about.
    """
    recipe, result = history.recipe, history.result
    generation = _generation(recipe)
    rows = [_phase_row(number, phase) for number, phase in enumerate(history.phases, start=1)]
    return _CARD.format(
        name=name,
        source=source or name,
        sections=f"\n{sections}" if sections else "",
        datasets=f"datasets:\n- {recipe.data_hub_id}\n" if recipe.data_hub_id else "",
        model=recipe.model,
        what=_KINDS[generation],
        num_classes=recipe.num_classes,
        top1=result["top1"],
        top5=result["top5"],
        loss=f"{result['loss']:.3f}" if "loss" in result else "",
        images=result["images"],
        values=f"these {history.dtype} values",
        data=Path(recipe.data_dir).name,
        val_split=recipe.val_split,
        img_size=history.img_size,
        training_size=recipe.img_size,
        size_note=_size_note(history.img_size, recipe),
        phases="\n".join([_PHASE_HEADER, *rows]),
        starts=_starts(history.phases),
        loss_function=_loss(recipe),
        opt=recipe.opt,
        momentum=_momentum(recipe),
        sched=recipe.sched,
        augmentation=_augmentation(recipe),
        weight_decay=recipe.weight_decay,
        batch_size=recipe.batch_size,
        accumulated=f", {recipe.accumulate} of them a step" if recipe.accumulate > 1 else "",
        offset_rate=_offset_rate(recipe) if generation else "",
        interpolation=recipe.interpolation,
        crop_pct=recipe.eval_crop_pct,
        mean=recipe.mean,
        std=recipe.std,
        terms=recipe.data_terms or "not stated by the recipe",
        citation=_CITATIONS[generation],
    )


def _generation(recipe: Recipe) -> str:
    """`dcnv1` or `dcnv2`, and nothing for a plain network."""
    return recipe.model.split("_")[0] if recipe.model.startswith("dcnv") else ""


def _starts(phases: list[Phase]) -> str:
    if len(phases) == 1:
        return ""
    generations = [_generation(phase.recipe) for phase in phases]
    begun_plain = not all(generations) or any(phase.recipe.deform_from_epoch > 0 for phase in phases)
    conversion = _CONVERSION if generations[-1] and begun_plain else ""
    return f"Each phase starts from the one before.{conversion}\n\n"


def _momentum(recipe: Recipe) -> str:
    """The momentum where timm hands it to the optimizer, nothing where it does not."""
    name = recipe.opt.lower().split("_")[-1]  # as timm reads a name that may begin with "lookahead_"
    return f", momentum {recipe.momentum}" if get_optimizer_info(name).has_momentum else ""


def _offset_rate(recipe: Recipe) -> str:
    text = f"; {recipe.offset_lr_scale}x in the branches that predict the offsets"
    modulated = recipe.modulated_lr_scale if _generation(recipe) == "dcnv2" else 1.0
    return text if modulated == 1.0 else f"{text}, {modulated}x in the modulated weights"


def _loss(recipe: Recipe) -> str:
    name = "binary cross-entropy" if recipe.loss == "bce" else "cross-entropy"
    parts = [f"{name} with label smoothing {recipe.label_smoothing}"]
    if recipe.teacher:
        parts.append(f"distillation from {recipe.teacher} (weight {recipe.teacher_weight})")
    return ", ".join(parts)


def _augmentation(recipe: Recipe) -> str:
    smallest, largest = recipe.train_scale
    parts = [f"crops of {smallest:.0%} to {largest:.0%} of the area, resized"]
    parts += ["horizontal flips"] if recipe.hflip else []
    names = ("auto_augment", "color_jitter", "random_erasing", "mixup", "cutmix")
    parts += [f"{name.replace('_', ' ')} {getattr(recipe, name)}" for name in names if getattr(recipe, name)]
    return ", ".join(parts)


def _size_note(size: int, recipe: Recipe) -> str:
    if size == recipe.img_size:
        return ""
    note = f"\nTraining ended at {recipe.img_size} px"
    if size != recipe.eval_img_size:  # a size that the recipe does not name was asked for at the export
        note += "; the size for use was chosen on these validation images"
    return f"{note}."


def _phase_row(number: int, phase: Phase) -> str:
    recipe, last = phase.recipe, phase.log[-1]
    speed = sum(record["train_images_per_second"] for record in phase.log) / len(phase.log)
    return (
        f"| {number} | {recipe.model} | {last['epoch']} | {recipe.img_size} px "
        f"| {_rates(recipe, last)} | {speed:.0f} "
        f"| {last['val_top1']:.2f} | {last['val_top5']:.2f} |"
    )


def _rates(recipe: Recipe, last: dict[str, Any]) -> str:
    """The first rate and, where the log has it, the last: not every schedule ends at `min_lr`."""
    return f"{recipe.lr:g} to {last['lr']:.2g}" if "lr" in last else f"{recipe.lr:g}"
