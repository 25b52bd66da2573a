"""Into a model: everything that it needs and nothing that it does not know, or nothing at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models.resnet import ResNet
from torch import Tensor, nn

from ...layers import DeformConv2d
from .files import read_checkpoint
from .importing import Imported, import_state

_LISTED = 20  # keys of each kind in a message


def load_imported(model: nn.Module, imported: Imported) -> list[str]:
    """Load an imported state into a model, whole or not at all.

    Deformable layers that are plain convolutions in the state start as such (see
    `layers.DeformConv2d.complete_state`).

    Args:
        model: The model; unless everything fits, it stays as it is.
        imported: What `import_state` made.

    Returns:
        The names of the deformable layers that were plain convolutions.

    Raises:
        ValueError: When keys are missing or unknown or tensors have other shapes; they are listed.
    """
    state, completed = _complete(model, imported.state)
    expected = model.state_dict()
    _refuse(
        model,
        [key for key in expected if key not in state],
        [imported.their_keys[key] for key in state if key not in expected],
        [
            f"{imported.their_keys.get(key, key)} {_shape(value)} instead of {_shape(expected[key])}"
            for key, value in state.items()
            if key in expected and value.shape != expected[key].shape
        ],
    )
    model.load_state_dict(state)
    return completed


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """timm's hook between a weight file and ``load_state_dict``: other projects' states become ours.

    timm adapts the classifier and the input channels itself after this, and no longer tells then what was
    missing or unknown; so everything else is checked here.

    Args:
        state_dict: State of a network of the same architecture, in any of `LAYOUTS`; see `import_state`.
        model: The network to be loaded.

    Raises:
        ValueError: When the state cannot be converted as it is, or keys are missing or unknown.
    """
    imported = import_state(state_dict)
    if isinstance(model, ResNet):
        state, _ = _complete(model, imported.state)
        needed = {key for key in model.state_dict() if not key.startswith("fc.")}
        unknown = [key for key in state if key not in needed and not key.startswith("fc.")]
        missing = [key for key in needed if key not in state]
        _refuse(model, sorted(missing), [imported.their_keys[key] for key in unknown], [])
    return imported.state


def load_own_weights(module: nn.Module, path: str | Path) -> None:
    """Load a file of a module's own weights, with all of their names and shapes.

    Raises:
        ValueError: When the file is damaged, or the weights are another module's.
        OSError: When it cannot be read.
    """
    load_own_state(module, read_checkpoint(path).state, path)


def load_own_state(module: nn.Module, state: Mapping[str, Tensor], name: str | Path) -> None:
    """Load a module's own state; ``name`` is where it comes from.

    Raises:
        ValueError: When it is another module's.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:  # a headline, then a line for each kind of difference
        reason = str(error).splitlines()[:2][-1].strip().rstrip(".")
        raise ValueError(
            f"{name} holds the weights of another network, expected those of this {type(module).__name__}: "
            f"{reason}."
        ) from error


def _complete(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    completed = dict(state)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, DeformConv2d)}
    return completed, [name for name, layer in layers.items() if layer.complete_state(completed, f"{name}.")]


def _refuse(model: nn.Module, missing: list[str], unknown: list[str], shapes: list[str]) -> None:
    kinds = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    found = [f"{kind}: {_listing(keys)}" for kind, keys in kinds.items() if keys]
    if found:
        raise ValueError(
            f"the checkpoint does not fit this {type(model).__name__}, and nothing was loaded; "
            f"{'; '.join(found)}."
        )


def _listing(keys: list[str]) -> str:
    more = len(keys) - _LISTED
    return ", ".join(keys[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
