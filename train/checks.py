"""What can be wrong with a recipe beyond its keys and types, found before anything is trained."""

import torch
from timm.optim import list_optimizers

from dcn_backbones.models import DeformResNet
from train.networks import build_model
from train.recipe import Recipe
from train.settings import TrainingSettings

SCHEDULES = ("cosine", "tanh", "step", "multistep", "poly", "constant", "wsd", "rsqrt")
CHOICES = {
    "loss": ("cross_entropy", "bce"),
    "amp_dtype": ("bfloat16", "float16"),
    "device": ("cpu", "cuda"),
    "sched": SCHEDULES,
}
SMALLEST = {
    "batch_size": 1,
    "accumulate": 1,
    "epochs": 1,
    "val_interval": 1,
    "num_classes": 1,
    "img_size": 1,
    "deform_from_epoch": 0,
    "modulated_lr_scale": 1,
    "max_size": 1,
    "mimic_regions": 1,
    "max_bad_boxes": 0,
}
SHARES = ("ema_decay", "teacher_weight", "label_smoothing", "train_share", "holdout", "hflip")


def check_recipe(recipe: Recipe) -> None:
    """Raise ValueError, in one sentence, for a value that no run can have or a model that cannot be built."""
    check_settings(recipe)
    _check_model(recipe)


def check_settings(recipe: TrainingSettings) -> None:
    """Raise ValueError for a value that no run of any task can have."""
    settings = vars(recipe)
    for key, known in CHOICES.items():
        if key in settings and settings[key] not in known:
            raise ValueError(f"{key} is {settings[key]!r}, expected one of {', '.join(known)}")
    for key, smallest in SMALLEST.items():
        if key in settings and settings[key] < smallest:
            raise ValueError(f"{key} is {settings[key]}, expected at least {smallest}")
    if recipe.opt.lower() not in list_optimizers():
        raise ValueError(f"opt is {recipe.opt!r}, expected one of {', '.join(list_optimizers())}")
    for key in SHARES:
        if key in settings and not 0 <= settings[key] <= 1:
            raise ValueError(f"{key} is {settings[key]}, expected 0 to 1")
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda' and torch finds no GPU, expected device=cpu here")


def _check_model(recipe: Recipe) -> None:
    model = build_model(recipe)
    if recipe.deform_from_epoch > 0 and not isinstance(model, DeformResNet):
        raise ValueError(
            f"deform_from_epoch is {recipe.deform_from_epoch} and {recipe.model!r} has no deformable layers, "
            "expected a model of dcn_backbones"
        )
