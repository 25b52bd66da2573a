"""Whole models, deformable and plain, in one run: images a second of inference and of training."""

from collections.abc import Callable

import timm
import torch
from torch import nn

import dcn_backbones  # noqa: F401
from dcn_backbones.ops import use_backend

from .timing import interleaved

# deformable model, plain model, image size, batch, training
SETTINGS = [
    ("dcnv2_resnet50", "resnet50", 224, 8, False),
    ("dcnv2_resnet50", "resnet50", 224, 8, True),
    ("dcnv2_resnet18", "resnet18", 128, 16, False),
    ("dcnv2_resnet18", "resnet18", 128, 16, True),
]


def measure(
    name: str,
    plain: str,
    size: int,
    batch: int,
    training: bool,
    repeats: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict:
    """Images a second against the plain model, and against the same model on torchvision's operator.

    Channels-last; half types through autocast. Offsets are moved off the grid first: about one pixel,
    as after training.
    """
    models = {"deformable": _model(name, training, device), "plain": _model(plain, training, device)}
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)

    def run(model: nn.Module) -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            (_train if training else _infer)(model, images)
        if device != "cpu":
            torch.cuda.synchronize()

    functions = {key: lambda m=model: run(m) for key, model in models.items()}
    times = interleaved(functions | {"torchvision": _on_torchvision(functions["deformable"])}, repeats)
    medians = {key: value["median"] for key, value in times.items()}
    return {
        "name": f"{name}, {size} px, {'training' if training else 'inference'}",
        "images_per_second": {key: 1e3 * batch / median for key, median in medians.items()},
        "plain": medians["plain"] / medians["deformable"],
        "torchvision": medians["torchvision"] / medians["deformable"],
        "peak_bytes": {key: _peak(functions[key], model) for key, model in models.items()},
    }


def _on_torchvision(function: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        with use_backend("torchvision"):
            function()

    return call


def _peak(run: Callable[[], None], model: nn.Module) -> int | None:
    """Bytes at the peak beside all models' parameters; None where memory is not counted."""
    if not next(model.parameters()).is_cuda:
        return None
    model.zero_grad()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def _model(name: str, training: bool, device: str) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=1000).to(device, memory_format=torch.channels_last)
    for key, parameter in model.named_parameters():
        if key.endswith("conv_offset.bias"):
            nn.init.normal_(parameter)
    return model.train(training)


def _infer(model: nn.Module, images: torch.Tensor) -> None:
    with torch.inference_mode():
        model(images)


def _train(model: nn.Module, images: torch.Tensor) -> None:
    model.zero_grad()
    model(images).logsumexp(1).sum().backward()
