"""Checkpoints of a run: a folder that appears whole or not at all."""

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from timm.models import load_checkpoint
from torch import nn
from torch.optim import Optimizer

WEIGHTS = "model.safetensors"
STATE = "training_state.pt"


def save_checkpoint(output: Path, epoch: int, model: nn.Module, optimizer: Optimizer) -> None:
    """Write `output/checkpoint-EPOCH` (weights, optimizer) after `epoch` epochs and delete the older ones."""
    older = list_checkpoints(output)
    temporary = output / f".checkpoint-{epoch:04d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_weights(model, temporary / WEIGHTS)
    torch.save({"epoch": epoch, "optimizer": optimizer.state_dict()}, temporary / STATE)
    os.replace(temporary, output / f"checkpoint-{epoch:04d}")
    for folder in older:
        shutil.rmtree(folder)


def load_last_checkpoint(output: Path, model: nn.Module, optimizer: Optimizer) -> int:
    """Load the last checkpoint under `output`, if any; returns the number of epochs it has behind it."""
    checkpoints = list_checkpoints(output)
    if not checkpoints:
        return 0
    model.load_state_dict(load_file(checkpoints[-1] / WEIGHTS))
    state = torch.load(checkpoints[-1] / STATE, map_location="cpu", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"]


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file of this model's weights, or of the plain network's; raises FileNotFoundError."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"weight file {str(path)!r} does not exist")
    load_checkpoint(model, str(path))


def list_checkpoints(output: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    return sorted(output.glob("checkpoint-*"))


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the model's state dict as safetensors through a temporary file."""
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({key: value.cpu().contiguous() for key, value in model.state_dict().items()}, temporary)
    os.replace(temporary, path)
