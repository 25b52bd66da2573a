"""Optimizer and learning-rate schedule of a recipe, with the offset branches on their own rate."""

from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from dcn_backbones.layers import ModulatedDeformConv2d, offset_lr_scales
from train.settings import TrainingSettings


def parameter_groups(model: nn.Module, recipe: TrainingSettings) -> list[dict]:
    """Split trainable parameters by weight decay (none on vectors and biases) and by offset branch.

    timm's `param_group_fn` replaces its own weight-decay grouping, so both are done here. Groups of offset
    parameters carry `lr_scale`, which timm's schedulers apply, and have the decay `offset_weight_decay` where
    the recipe sets one. The scale is the recipe's for convolutions (DCNv2 paper, section 3.2: 0.1), the
    layer's own for RoI pooling. The weights of modulated layers have the scale `modulated_lr_scale` and a
    decay divided by it, so that they shrink by the same part a step as the others.
    """
    scales = offset_lr_scales(model)
    scales |= {name: recipe.offset_lr_scale for name in scales if "conv_offset" in name}
    modulated = {id(layer.weight) for layer in model.modules() if isinstance(layer, ModulatedDeformConv2d)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith(".bias")
            decay = _weight_decay(recipe, name in scales) if decays else 0.0
            scale = scales.get(name, 1.0)
            if id(parameter) in modulated:
                scale, decay = recipe.modulated_lr_scale, decay / recipe.modulated_lr_scale
            groups.setdefault((decay, scale), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in groups.items()
    ]


def _weight_decay(recipe: TrainingSettings, is_offset: bool) -> float:
    if is_offset and recipe.offset_weight_decay is not None:
        return recipe.offset_weight_decay
    return recipe.weight_decay


def create_optimizer(model: nn.Module, recipe: TrainingSettings) -> Optimizer:
    """timm's optimizer `recipe.opt` over `parameter_groups`."""
    return create_optimizer_v2(
        model,
        opt=recipe.opt,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        param_group_fn=lambda model: parameter_groups(model, recipe),
        **recipe.opt_kwargs,
    )


def load_optimizer_state(optimizer: Optimizer, saved: dict, recipe: TrainingSettings) -> None:
    """Load a state dict with the counters in its groups, but keep the settings of the recipe."""
    own_groups = optimizer.state_dict()["param_groups"]
    groups = [
        saved_group | _settings(own, recipe)
        for saved_group, own in zip(saved["param_groups"], own_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def carry_over(
    old: Optimizer, old_model: nn.Module, new: Optimizer, new_model: nn.Module, recipe: TrainingSettings
) -> None:
    """Give `new` the state that `old` has of the parameters of the same name; the others start afresh."""
    saved = old.state_dict()
    index_of = {name: index for index, name in enumerate(_parameter_names(old_model, old))}
    names = _parameter_names(new_model, new)
    groups = [dict(group) for group in new.state_dict()["param_groups"]]
    for group in groups:
        own_indices = {index_of.get(names[index]) for index in group["params"]}
        for saved_group in saved[
            "param_groups"
        ]:  # counters of the steps, where the optimizer keeps them here
            if own_indices & set(saved_group["params"]):
                group |= saved_group | _settings(group, recipe)
    state = {
        index: saved["state"][index_of[name]]
        for index, name in enumerate(names)
        if index_of.get(name) in saved["state"]
    }
    new.load_state_dict({"state": state, "param_groups": groups})


def _settings(group: dict, recipe: TrainingSettings) -> dict:
    """What the recipe, and not the training so far, decides of a group of a state dict."""
    keys = {"params", "lr", "initial_lr", "lr_scale", "weight_decay", "momentum", *recipe.opt_kwargs}
    return {key: value for key, value in group.items() if key in keys}


def _parameter_names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of the optimizer's parameters, in the order in which its state dict counts them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def create_scheduler(optimizer: Optimizer, recipe: TrainingSettings, steps_per_epoch: int) -> Scheduler:
    """timm's schedule `recipe.sched`, updated after every optimizer step."""
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=recipe.sched,
        num_epochs=recipe.epochs,
        min_lr=recipe.min_lr,
        warmup_epochs=recipe.warmup_epochs,
        warmup_lr=recipe.warmup_lr,
        decay_milestones=recipe.decay_milestones,
        decay_epochs=recipe.decay_epochs,
        decay_rate=recipe.decay_rate,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return scheduler
