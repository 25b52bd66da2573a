"""The network of a recipe: built, started from other weights, turned from plain to deformable."""

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, get_pretrained_cfg, load_pretrained
from torch import nn

import dcn_backbones  # noqa: F401  (registers the models)
from dcn_backbones.models.checkpoints import checkpoint_filter_fn
from train.checkpoint import WEIGHTS, read_weights
from train.data.seeding import seeded
from train.offsets import constrain_offsets
from train.recipe import Recipe
from train.settings import TrainingSettings


def build_model(recipe: Recipe, deformable: bool = True) -> nn.Module:
    """The recipe's network on the CPU, or the plain one that has the same parameters but the offsets'.

    Raises ValueError for a model or an argument that does not exist.
    """
    kwargs = recipe.model_kwargs if deformable else _plain_kwargs(recipe.model_kwargs)
    try:
        model = timm.create_model(recipe.model, num_classes=recipe.num_classes, **kwargs)
    except (RuntimeError, TypeError) as error:  # of timm: an unknown name, an unknown argument
        raise ValueError(f"model {recipe.model!r} with {kwargs} cannot be built: {error}") from error
    constrain_offsets(model, recipe.offset_clamp, recipe.offset_penalty)
    return model


def place_model(model: nn.Module, recipe: TrainingSettings, device: torch.device) -> nn.Module:
    """The same model on the device, in the recipe's memory format."""
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return model.to(device, memory_format=memory_format)


def start_model(model: nn.Module, init_from: str, seed: int = 0) -> None:
    """Load a weight file, the weights in a folder, or a timm name's with its tag (`resnet50.a1_in1k`).

    Weights of a plain network start a deformable one exactly, as `pretrained=True` does. A classifier of
    another size is left out, and drawn from `seed` alone: plain and deformable networks still start as the
    same function. Raises ValueError for a file that is damaged or another network's, and FileNotFoundError
    for anything else.
    """
    _draw_classifier(model, seed)
    path = Path(init_from)
    file = path / WEIGHTS if path.is_dir() else path
    if file.is_file():
        _load(model, checkpoint_filter_fn(read_weights(file), model))
    elif (cfg := _timm_cfg(init_from)) is not None:
        load_pretrained(model, cfg.to_dict(), model.num_classes, filter_fn=checkpoint_filter_fn)
    else:
        raise FileNotFoundError(
            f"init_from {init_from!r} does not exist, expected a weight file, a folder with {WEIGHTS} or a "
            "timm name with its tag"
        )


def deformed_model(plain: nn.Module, recipe: Recipe) -> nn.Module:
    """The deformable network that computes what the plain one of `build_model` computes, on the CPU."""
    model = build_model(recipe)
    model.load_state_dict(plain.state_dict())
    return model


def _timm_cfg(name: str) -> PretrainedCfg | None:
    try:
        return get_pretrained_cfg(name)
    except RuntimeError:  # of timm, for a tag that a known model lacks
        return None


def _plain_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key != "deform_stages"} | {"deform_last": 0}


def _draw_classifier(model: nn.Module, seed: int) -> None:
    """Initialise it anew: how many random numbers came before it depends on the rest of the network."""
    with seeded(seed):
        for module in model.get_classifier().modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()


def _load(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    own = model.state_dict()
    classifier = [f"{model.pretrained_cfg['classifier']}.{name}" for name in ("weight", "bias")]
    resized = [key for key in classifier if key in state and state[key].shape != own[key].shape]
    kept = {key: value for key, value in state.items() if key not in resized}
    try:
        result = model.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the weights are of another model: {str(error).splitlines()[1].strip()}") from error
    missing = [key for key in result.missing_keys if key not in resized]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"the weights are of another model: {missing[:3]} are missing, "
            f"{result.unexpected_keys[:3]} unknown"
        )
