"""Whole models, deformable and plain, in one run: images a second of inference and of training."""

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
    deformable, regular = _model(name, training, device), _model(plain, training, device)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)

    def run(model: nn.Module, images: torch.Tensor) -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            (_train if training else _infer)(model, images)
        if device != "cpu":
            torch.cuda.synchronize()

    def on_torchvision() -> None:
        with use_backend("torchvision"):
            run(deformable, images)

    times = interleaved(
        {
            "deformable": lambda: run(deformable, images),
            "plain": lambda: run(regular, images),
            "torchvision": on_torchvision,
        },
        repeats,
    )
    ours = times["deformable"]["median"]
    return {
        "name": f"{name}, {size} px, {'training' if training else 'inference'}",
        "images_per_second": {key: 1e3 * batch / value["median"] for key, value in times.items()},
        "plain": times["plain"]["median"] / ours,
        "torchvision": times["torchvision"]["median"] / ours,
    }


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
