"""Checkpoint files: read without running anything that is in them."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from ...files import written_whole

# Where training programs keep the state dict in what they save: mmengine and timm, detectron2.
_WRAPPERS = ("state_dict", "model")
# Where mmdetection 3 and the versions before it keep the text of their configuration.
_CONFIG_KEYS = ("cfg", "config")
_NUMBERS = r"\s*=\s*[\[(]([\d.,\s]+)[\])]"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds of a network; None is what it does not say.

    Attributes:
        state: Tensors or numpy arrays by their names in the file.
        style: ``pytorch`` or ``caffe``, from mmdetection's configuration in the file.
        input_order: ``rgb`` or ``bgr``, from there as well.
        pixel_mean: What was taken off the pixels, in 0 to 255 and in ``input_order``.
        pixel_std: What they were divided by then.
    """

    state: Mapping[str, Any]
    style: str | None = None
    input_order: str | None = None
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a ``.safetensors`` file, a ``.npz`` of numpy arrays, or what ``torch.save`` wrote.

    Pickles are read with ``weights_only=True``, arrays with ``allow_pickle=False``: no code of a file runs.

    Raises:
        ValueError: When the file is none of these, is damaged or holds more than tensors, numbers and texts.
        OSError: When it cannot be read.
    """
    path = Path(path)
    with reading(path):
        content = _read(path)
    state = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    return Checkpoint(state, **_configuration(content.get("meta")))


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """A context in which tensors are read from a file, by whatever reads them.

    Raises:
        ValueError: When the file is damaged or holds more than tensors, numbers and texts.
        OSError: When it cannot be read.
    """
    try:
        yield
    except Exception as error:  # on damaged data the readers raise whatever they run into
        # safetensors' error for a file that is not there has no filename
        if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.filename):
            raise
        raise ValueError(_unreadable(path, error)) from error


def first_sentence(error: Exception) -> str:
    """What a reader says of a file; torch's next sentences advise to load it without this safety."""
    return (str(error) or type(error).__name__).strip().splitlines()[0].partition(". ")[0].rstrip(".")


def write_torch(content: Mapping[str, Any], path: str | Path) -> None:
    """``torch.save`` through a temporary file: ``path`` appears whole or not at all."""
    with written_whole(path) as temporary:
        torch.save(dict(content), temporary)


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on foreign pickles
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds an object of type {type(content).__name__} instead of a state dict")
    return content


def _unreadable(path: str | Path, error: Exception) -> str:
    return (
        f"{path} cannot be read as tensors alone ({first_sentence(error)}); expected .safetensors, .npz or a "
        "state dict of torch.save: of a pickle with more in it, whose origin you trust, save the tensors as "
        "one of these."
    )


def _configuration(meta: Any) -> dict[str, Any]:
    """What mmdetection's configuration says, where it says one thing only."""
    meta = meta if isinstance(meta, Mapping) else {}
    text = next((meta[key] for key in _CONFIG_KEYS if isinstance(meta.get(key), str)), "")
    to_rgb = _only(r"\b(?:bgr_)?to_rgb\s*=\s*(True|False)\b", text)
    mean, std = (_only(rf"\b{name}{_NUMBERS}", text) for name in ("mean", "std"))
    return {
        "style": _only(r"\bstyle\s*=\s*['\"](pytorch|caffe)['\"]", text),
        "input_order": to_rgb and ("rgb" if to_rgb == "True" else "bgr"),
        "pixel_mean": _numbers(mean) if mean and std else None,
        "pixel_std": _numbers(std) if mean and std else None,
    }


def _only(pattern: str, text: str) -> str | None:
    found = set(re.findall(pattern, text))
    return found.pop() if len(found) == 1 else None


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(",") if number.strip())
