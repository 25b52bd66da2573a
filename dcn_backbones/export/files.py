"""Exported models as files, whose suffix says what they are."""

import os
import tempfile
from pathlib import Path

import torch
from torch import nn

from .onnx import DEFAULT_OPSET, onnx_model
from .openvino import openvino_model
from .program import ImageSize, exported_program, preprocessing_json

FORMATS = {".onnx": "ONNX", ".xml": "OpenVINO", ".pt2": "torch.export"}


def export_file(
    model: nn.Module,
    path: str | Path,
    opset: int = DEFAULT_OPSET,
    image_size: ImageSize | None = None,
    dynamic: bool = True,
) -> None:
    """Write a model as ``.onnx``, OpenVINO's ``.xml`` with a ``.bin`` beside it, or torch.export's ``.pt2``.

    Whole files only: an interrupted export leaves what was there.

    Args:
        model: A timm model in evaluation mode, a classifier or a `features_only` backbone.
        path: File to write, in a folder that exists.
        opset: Version of ONNX's operators; it concerns ``.onnx`` only.
        image_size: Pixels, one number or ``(height, width)``; by default what the model evaluates at.
        dynamic: Any batch of images of any size. Otherwise one image of exactly this size.

    Raises:
        ValueError: When the suffix is another or an argument does not fit the model.
        OSError: When the folder does not exist or cannot be written.
        ImportError: When a package of the extra ``export`` is missing.
    """
    path = Path(path)
    check_path(path)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / path.name
        if path.suffix == ".onnx":
            written.write_bytes(onnx_model(model, opset, image_size, dynamic).SerializeToString())
        elif path.suffix == ".xml":
            _save_openvino(openvino_model(model, image_size, dynamic), written)
        else:
            program = exported_program(model, image_size, dynamic)
            torch.export.save(program, written, extra_files={"preprocessing": preprocessing_json(model)})
        for file in sorted(written.parent.iterdir()):  # OpenVINO's .bin before the .xml that reads it
            os.replace(file, path.with_name(file.name))


def check_path(path: Path) -> None:
    """Raise before anything is computed for a file that could not be written."""
    if path.suffix not in FORMATS:
        known = ", ".join(f"{suffix} ({name})" for suffix, name in FORMATS.items())
        raise ValueError(f"{path} does not end in a known suffix; expected one of {known}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder; expected one that exists.")


def _save_openvino(model, path: Path) -> None:
    import openvino

    openvino.save_model(model, path, compress_to_fp16=False)
