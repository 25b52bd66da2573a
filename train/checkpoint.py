"""Checkpoints of a run: a folder that appears whole or not at all."""

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from dcn_backbones.files import written_whole
from dcn_backbones.models.checkpoints import first_sentence, load_own_state, reading

WEIGHTS = "model.safetensors"
AVERAGED_WEIGHTS = "model_ema.safetensors"
STATE = "training_state.pt"


def save_checkpoint(
    folder: Path, weights: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Write a new checkpoint folder and delete the older ones beside it.

    `weights` are state dicts by file name; `state` is what `torch.load(weights_only=True)` reads. Everything
    is on the disk before the folder has its name: whatever happens, the last checkpoint is whole. Raises
    OSError, and leaves the older ones alone, when writing fails.
    """
    older = [path for path in list_checkpoints(folder.parent) if path != folder]
    temporary = folder.with_name(f".{folder.name}.tmp")
    remove_unfinished(folder.parent)
    try:
        temporary.mkdir(parents=True)
        for name, tensors in weights.items():
            _write(temporary / name, _weights_bytes(tensors))
        _write(temporary / STATE, _state_bytes(state))
        _synchronize(temporary)
        os.replace(temporary, folder)
        _synchronize(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        previous = f"the one before, {older[-1]}, is whole" if older else "there is none before it"
        raise OSError(f"checkpoint {folder} cannot be written ({error}); {previous}") from error
    for path in older:
        shutil.rmtree(path)


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The `state` of `save_checkpoint`, on the CPU; raises ValueError for a damaged one."""
    path = checkpoint / STATE
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # on damaged data torch.load raises whatever it runs into
        raise ValueError(
            f"{path} is damaged ({first_sentence(error)}), expected what a run has written: no run can go on "
            f"from it, but a new one can start from the weights beside it: init_from={checkpoint / WEIGHTS}"
        ) from error


def list_checkpoints(output: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    return sorted(output.glob("checkpoint-*"))


def remove_unfinished(output: Path) -> None:
    """Delete what killed processes have left of checkpoints that they were writing."""
    for path in output.glob(".checkpoint-*.tmp"):
        shutil.rmtree(path)


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the model's state dict as safetensors through a temporary file."""
    with written_whole(path) as temporary:
        _write(temporary, _weights_bytes(model.state_dict()))


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file of this model's weights, or of the plain network's; raises what `read_weights` does.

    Raises ValueError for the weights of another network too.
    """
    load_own_state(model, read_weights(path), path)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a weight file, or the averaged one of a file that has both.

    Raises FileNotFoundError for none, ValueError for a damaged one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"weight file {str(path)!r} does not exist, expected a state dict in it")
    with reading(path):
        return load_state_dict(str(path))


def _weights_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({key: value.cpu().contiguous() for key, value in tensors.items()})


def _state_bytes(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    # Python's file, not safetensors' or torch's own: every failure is then an OSError.
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _synchronize(folder: Path) -> None:
    """Put the names in a folder on the disk; fsync of the files does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
