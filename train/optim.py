"""Optimizer and learning-rate schedule of a recipe, with the offset branches on their own rate."""

from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from train.recipe import Recipe


def parameter_groups(model: nn.Module, weight_decay: float, offset_lr_scale: float) -> list[dict]:
    """Split trainable parameters by weight decay (none on vectors and biases) and by offset branch.

    timm's `param_group_fn` replaces its own weight-decay grouping, so both are done here. Groups of offset
    parameters carry `lr_scale`, which timm's schedulers apply (DCNv2 paper, section 3: 0.1).
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith(".bias")
            groups.setdefault((decays, "conv_offset" in name), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": offset_lr_scale if is_offset else 1.0,
        }
        for (decays, is_offset), parameters in groups.items()
    ]


def create_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """timm's optimizer `recipe.opt` over `parameter_groups`."""
    return create_optimizer_v2(
        model,
        opt=recipe.opt,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        param_group_fn=lambda model: parameter_groups(model, recipe.weight_decay, recipe.offset_lr_scale),
    )


def create_scheduler(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> Scheduler:
    """timm's schedule `recipe.sched`, updated after every optimizer step."""
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=recipe.sched,
        num_epochs=recipe.epochs,
        min_lr=recipe.min_lr,
        warmup_epochs=recipe.warmup_epochs,
        warmup_lr=recipe.warmup_lr,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return scheduler
