"""`torch.export`: a model as one graph of PyTorch's operators and ours, without its Python code."""

import json

import torch
from timm.data import resolve_model_data_config
from torch import nn
from torch.export import Dim, ExportedProgram

ImageSize = int | tuple[int, int]


def exported_program(
    model: nn.Module, image_size: ImageSize | None = None, dynamic: bool = True
) -> ExportedProgram:
    """A model as `torch.export` captures it.

    The graph holds `dcn_backbones::deform_conv2d`: whoever loads a saved program imports `dcn_backbones`
    first. Which backend runs is decided when the program runs, unless one is forced during the export.

    Args:
        model: A timm model in evaluation mode, a classifier or a `features_only` backbone.
        image_size: Pixels, one number or ``(height, width)``; by default what the model evaluates at.
        dynamic: Any batch of images of any size. Otherwise one image of exactly this size.

    Raises:
        ValueError: When the model is in training mode, or the size is too small to be captured as any size.
    """
    if model.training:
        raise ValueError("the model is in training mode; expected model.eval() before an export.")
    height, width = _pair(image_size or _evaluation_size(model))
    _check_size(height, width, dynamic)
    weight = next(parameter for parameter in model.parameters() if parameter.ndim == 4)  # the stem's
    images = weight.new_zeros(2 if dynamic else 1, weight.shape[1], height, width)
    dimensions = (dynamic_dimensions(Dim.DYNAMIC, Dim.DYNAMIC, Dim.DYNAMIC),) if dynamic else None
    with torch.no_grad():
        return torch.export.export(model, (images,), dynamic_shapes=dimensions)


def dynamic_dimensions(batch: object, height: object, width: object) -> dict[int, object]:
    """What stands for the dynamic dimensions of `(N, C, H, W)`, by their index."""
    return {0: batch, 2: height, 3: width}


def preprocessing_json(model: nn.Module) -> str:
    """Size, crop, interpolation, mean and standard deviation of a model's input, as timm names them."""
    return json.dumps(resolve_model_data_config(model, use_test_size=True))


def _evaluation_size(model: nn.Module) -> tuple[int, int]:
    return tuple(resolve_model_data_config(model, use_test_size=True)["input_size"][1:])


def _pair(size: ImageSize) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _check_size(height: int, width: int, dynamic: bool) -> None:
    # A map of one pixel is captured as always one pixel; ResNets divide by 32.
    smallest = 33 if dynamic else 1
    if min(height, width) < smallest:
        raise ValueError(f"images of {height}x{width} px are too small; expected at least {smallest} px.")
