"""What the deformable layers of a network do with one image: where each of their units samples it.

Positions are ``(x, y)`` in pixels of the network's input: ``(0, 0)`` is the centre of the top left pixel.

Every strided layer on a timm ResNet's way (the stem's convolutions and pooling, the first blocks of the
stages) has an odd kernel and half of it as padding, so that its output unit ``j`` is centred on input unit
``stride * j``. Unit ``j`` of a feature map thus lies on pixel ``S * j``, ``S`` the product of the strides.
Each of them halves the size and rounds up, so that ``S`` is the smallest power of two that makes the feature
map as large as the image (given an image larger than ``S / 2``).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..layers import DeformConv2d


@dataclass(frozen=True)
class LayerSampling:
    """Where every unit of one deformable layer samples one image.

    Attributes:
        name: The layer's name in its model.
        stride: Distance between neighbouring units, in pixels.
        positions: ``(H, W, G*K, 2)`` in float64, the ``(x, y)`` of each output unit's samples, in pixels.
        regular: ``(H, W, G*K, 2)`` in float64, the same with offsets of zero, as in a plain convolution.
        weights: ``(H, W, G*K)``, the mask; ones in a layer without modulation.
        image_size: Width and height of the network's input, in pixels.
    """

    name: str
    stride: int
    positions: Tensor
    regular: Tensor
    weights: Tensor
    image_size: tuple[int, int]

    @property
    def grid(self) -> Tensor:
        """Number of units along x and along y, ``(2,)``."""
        return torch.tensor([self.positions.shape[1], self.positions.shape[0]])


def record_sampling(model: nn.Module, image: Tensor) -> list[LayerSampling]:
    """Run a model once and note where its deformable layers sample, in the order of the computation.

    Args:
        model: A network of the zoo, on any device; it runs in evaluation mode and is left as it was.
        image: Input of the network, ``(1, C, H, W)``, on the model's device.

    Raises:
        ValueError: When the model has no deformable layers, or ``image`` has another shape.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, DeformConv2d)}
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no deformable layers; expected a model such as dcnv2_resnet18."
        )
    if image.ndim != 4 or len(image) != 1:
        raise ValueError(f"image has shape {tuple(image.shape)}; expected one image, (1, C, H, W).")
    record: list[LayerSampling] = []
    image_size = (image.shape[3], image.shape[2])
    with _evaluating(model), torch.no_grad(), ExitStack() as hooks:
        for name, layer in layers.items():
            note = partial(_note, record, name, layer, image_size)
            hooks.callback(layer.conv_offset.register_forward_hook(note).remove)
        model(image)
    return record


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _note(
    record: list[LayerSampling],
    name: str,
    layer: DeformConv2d,
    image_size: tuple[int, int],
    conv_offset: nn.Conv2d,
    inputs: tuple[Tensor],
    raw: Tensor,
) -> None:
    """Forward hook of ``conv_offset``: its output ``raw``, ``(1, 2*G*K or 3*G*K, H, W)``, goes on record."""
    raw = raw[0].detach().cpu().double()
    samples = layer.offset_groups * layer.kernel_size[0] * layer.kernel_size[1]
    height, width = raw.shape[1:]
    offset = raw[: 2 * samples].view(samples, 2, height, width).permute(2, 3, 0, 1)  # (H, W, G*K, 2), y and x
    logits = raw[2 * samples :].permute(1, 2, 0)
    regular = _regular_positions(layer, height, width).double()
    pixels = _pixels_per_unit(inputs[0], image_size)
    record.append(
        LayerSampling(
            name=name,
            stride=_pixels_per_unit(raw, image_size),
            positions=(regular + offset).flip(-1) * pixels,
            regular=regular.flip(-1) * pixels,
            weights=logits.sigmoid() if logits.numel() else torch.ones_like(offset[..., 0]),
            image_size=image_size,
        )
    )


def _regular_positions(layer: DeformConv2d, height: int, width: int) -> Tensor:
    """Samples of a plain convolution, ``(H, W, G*K, 2)``: y and x in units of the layer's input."""
    units = torch.cartesian_prod(torch.arange(height), torch.arange(width)).view(height, width, 1, 2)
    steps = torch.cartesian_prod(*(torch.arange(size) for size in layer.kernel_size))  # (K, 2)
    stride, padding, dilation = map(torch.tensor, (layer.stride, layer.padding, layer.dilation))
    return units * stride - padding + (steps * dilation).repeat(layer.offset_groups, 1)


def _pixels_per_unit(features: Tensor, image_size: tuple[int, int]) -> int:
    """``S`` of a feature map ``(..., H, W)``, as this file's first lines derive it."""
    stride = 1
    while stride * features.shape[-1] < image_size[0] or stride * features.shape[-2] < image_size[1]:
        stride *= 2
    return stride
