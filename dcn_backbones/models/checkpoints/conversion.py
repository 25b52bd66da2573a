"""From file to file: what the command does."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models import save_for_hf
from torch import nn

from .architecture import infer_arguments, infer_model
from .exporting import EXPORTS, export_state
from .files import Checkpoint, read_checkpoint, write_torch
from .importing import Imported, import_state
from .loading import load_imported

# Of a default configuration, what is about the architecture; the rest is about other weights.
_ARCHITECTURE_FIELDS = ("architecture", "input_size", "first_conv", "classifier")
_TOLD = ("style", "input_order", "pixel_mean", "pixel_std")


@dataclass(frozen=True)
class Converted:
    """A model that holds a file's weights, in evaluation mode.

    Attributes:
        model: The model.
        name: Its registered name.
        imported: What was taken from the file.
        completed: Deformable layers that are plain convolutions in the file.
    """

    model: nn.Module
    name: str
    imported: Imported
    completed: tuple[str, ...]


def read_network(
    path: str | Path, layout: str | None = None, model_name: str | None = None, **told: Any
) -> Converted:
    """The model of a checkpoint file in any of `LAYOUTS`.

    Args:
        path: A file that `read_checkpoint` reads.
        layout: Its layout; recognised by the names when it is None.
        model_name: One of this project's models; recognised by names and shapes when it is None.
        **told: What the file does not say, as arguments of `import_state`.

    Raises:
        ValueError: When the file says otherwise than ``told``, or its network cannot be converted whole.
    """
    checkpoint = read_checkpoint(path)
    imported = import_state(checkpoint.state, layout, **_settled(checkpoint, told))
    name = model_name or infer_model(imported.state)
    if not timm.is_model(name) or not name.startswith("dcn"):
        raise ValueError(f"unknown model {name!r}; expected one of {', '.join(timm.list_models('dcn*'))}.")
    model = timm.create_model(name, **infer_arguments(imported.state)).eval()
    completed = load_imported(model, imported)
    return Converted(model, name, imported, tuple(completed))


def write_network(
    model: nn.Module, path: str | Path, layout: str = "timm", imported: Imported | None = None
) -> str:
    """Write a model's weights for timm, mmdetection or detectron2, whole or not at all.

    Args:
        model: The model.
        path: What is written, and must not exist: a folder that timm opens as ``local-dir:``, or else a file.
        layout: ``timm`` or one of `EXPORTS`.
        imported: Where the weights came from, if from a file; its pixels' normalisation goes with them.

    Returns:
        The settings that the weights need where they go; for timm the name to create the model by.

    Raises:
        ValueError: When ``path`` exists, or the other project cannot build the network.
        OSError: When it cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path} exists; expected a new {'folder' if layout == 'timm' else 'file'}.")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder; expected one to write {path.name} in.")
    _describe(model, imported)
    if layout == "timm":
        _write_folder(model, path)
        return f"local-dir:{path}"
    exported = export_state(model, layout)
    write_torch(exported.content, path)
    return exported.settings_for(str(path))


WRITABLE: Sequence[str] = ("timm", *EXPORTS)


def _settled(checkpoint: Checkpoint, told: Mapping[str, Any]) -> dict[str, Any]:
    """What was told and what the file says, which must not contradict each other."""
    settled = {name: value for name, value in told.items() if value is not None}
    for name in _TOLD:
        found = getattr(checkpoint, name)
        if found is not None and settled.setdefault(name, found) != found:
            raise ValueError(
                f"{name}={settled[name]!r} was given, but the configuration in the checkpoint says {found!r}."
            )
    return settled


def _describe(model: nn.Module, imported: Imported | None) -> None:
    """Leave out of the model's configuration what is about its default weights, and put in what is known."""
    if imported is None:
        return
    cfg = {name: model.pretrained_cfg[name] for name in _ARCHITECTURE_FIELDS}
    if imported.pixel_mean is not None:
        cfg["mean"] = tuple(value / 255 for value in imported.pixel_mean)
        cfg["std"] = tuple(value / 255 for value in imported.pixel_std)
    cfg["license"] = "other"
    cfg["description"] = f"Converted from names of {imported.layout}; the terms are those of the source."
    model.pretrained_cfg = cfg


def _write_folder(model: nn.Module, path: Path) -> None:
    temporary = Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}."))
    try:
        save_for_hf(model, temporary, safe_serialization=True)
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors writes files that only their owner can read
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
