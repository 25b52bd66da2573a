"""What the deformable layers of a network do with one image: where each of their units samples it.

Positions are ``(x, y)`` in pixels of the network's input: ``(0, 0)`` is the centre of the top left pixel.

Every strided layer on a timm ResNet's way (the stem's convolutions and pooling, the first blocks of the
stages) has an odd kernel and half of it as padding, so that its output unit ``j`` is centred on input unit
``stride * j``. Unit ``j`` of a feature map thus lies on pixel ``S * j``, ``S`` the product of the strides.
Each of them halves the size and rounds up, so that ``S`` is the smallest power of two that makes the feature
map as large as the image (given an image larger than ``S / 2``).
"""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..layers import DeformConv2d
from .running import check_images, evaluating, run


@dataclass(frozen=True)
class LayerSampling:
    """Where every unit of one layer samples one image.

    Attributes:
        name: The layer's name in its model.
        stride: Distance between neighbouring units, in pixels.
        positions: ``(H, W, G*K, 2)`` in float64, the ``(x, y)`` of each output unit's samples, in pixels.
        regular: ``(H, W, G*K, 2)`` in float64, the same with offsets of zero, as in a plain convolution.
        weights: ``(H, W, G*K)``, the mask; ones in a layer without modulation.
        image_size: Width and height of the network's input, in pixels.
        kernel_size: ``(kh, kw)``, ``K = kh*kw``.
        input_stride: Distance between neighbouring pixels of the layer's input, in pixels of the network's.
    """

    name: str
    stride: int
    positions: Tensor
    regular: Tensor
    weights: Tensor
    image_size: tuple[int, int]
    kernel_size: tuple[int, int]
    input_stride: int

    @property
    def grid(self) -> Tensor:
        """Number of units along x and along y, ``(2,)``."""
        return torch.tensor([self.positions.shape[1], self.positions.shape[0]])


def record_sampling(model: nn.Module, image: Tensor, plain: bool = False) -> list[LayerSampling]:
    """Run a model once and note where its layers sample, in the order of the computation.

    Args:
        model: Any network with deformable layers of this package, on any device; of a detector the backbone
            runs. It runs in evaluation mode and is left as it was.
        image: Input of the network, ``(1, C, H, W)``, on the model's device.
        plain: Whether plain convolutions of more than one sample are noted too, as samples on a grid.

    Raises:
        ValueError: When the model has no such layers, or ``image`` has another shape.
    """
    layers = sampling_layers(model, plain)
    check_images(image, one=True)
    record: list[LayerSampling] = []
    image_size = (image.shape[3], image.shape[2])
    with evaluating(model), torch.no_grad(), ExitStack() as hooks:
        for name, layer in layers.items():
            note = partial(_note, record, name, layer, image_size)
            branch = layer.conv_offset if isinstance(layer, DeformConv2d) else layer
            hooks.callback(branch.register_forward_hook(note).remove)
        run(model, image)
    return record


def sampling_layers(model: nn.Module, plain: bool) -> dict[str, DeformConv2d | nn.Conv2d]:
    """The layers by name: the deformable ones and, if ``plain``, convolutions of more than one sample.

    Raises:
        ValueError: When there are none.
    """
    branches = {id(m.conv_offset) for m in model.modules() if isinstance(m, DeformConv2d)}
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, DeformConv2d) or (plain and id(module) not in branches and _is_spatial(module))
    }
    if not found:
        kind = "convolutions of more than one sample" if plain else "deformable layers"
        raise ValueError(f"{type(model).__name__} has no {kind}; expected a model such as dcnv2_resnet18.")
    return found


def offset_groups(layer: DeformConv2d | nn.Conv2d) -> int:
    return layer.offset_groups if isinstance(layer, DeformConv2d) else 1


def sample_offsets(layer: DeformConv2d | nn.Conv2d, raw: Tensor) -> Tensor:
    """Of ``2*G*K`` or more channels, ``(C, H, W)``, the first as ``(H, W, G*K, 2)``: y and x."""
    samples = offset_groups(layer) * layer.kernel_size[0] * layer.kernel_size[1]
    return raw[: 2 * samples].view(samples, 2, *raw.shape[1:]).permute(2, 3, 0, 1)


def regular_positions(layer: DeformConv2d | nn.Conv2d, height: int, width: int) -> Tensor:
    """Samples of a plain convolution, ``(H, W, G*K, 2)``: y and x in units of the layer's input."""
    units = torch.cartesian_prod(torch.arange(height), torch.arange(width)).view(height, width, 1, 2)
    steps = torch.cartesian_prod(*(torch.arange(size) for size in layer.kernel_size))  # (K, 2)
    stride, padding, dilation = map(torch.tensor, (layer.stride, layer.padding, layer.dilation))
    return units * stride - padding + (steps * dilation).repeat(offset_groups(layer), 1)


def pixels_per_unit(features: Tensor, image_size: tuple[int, int]) -> int:
    """``S`` of a feature map ``(..., H, W)``, as this file's first lines derive it."""
    stride = 1
    while stride * features.shape[-1] < image_size[0] or stride * features.shape[-2] < image_size[1]:
        stride *= 2
    return stride


def point_on_image(point: tuple[float, float], image_size: tuple[int, int]) -> Tensor:
    """A point as ``(2,)`` in float64.

    Raises:
        ValueError: When it is outside the network's input.
    """
    position = torch.tensor([float(point[0]), float(point[1])], dtype=torch.float64)
    if not on_image(position, image_size):
        raise ValueError(
            f"point ({point[0]:g}, {point[1]:g}) is outside the network's input; "
            f"expected x from 0 to {image_size[0] - 1} and y from 0 to {image_size[1] - 1}."
        )
    return position


def on_image(positions: Tensor, image_size: tuple[int, int]) -> Tensor:
    limits = positions.new_tensor(image_size) - 0.5
    return ((positions >= -0.5) & (positions <= limits)).all(-1)


def _is_spatial(module: nn.Module) -> bool:
    """Whether it is a convolution whose samples are known to be on a grid of more than one point."""
    return (
        isinstance(module, nn.Conv2d)
        and max(module.kernel_size) > 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _note(
    record: list[LayerSampling],
    name: str,
    layer: DeformConv2d | nn.Conv2d,
    image_size: tuple[int, int],
    branch: nn.Conv2d,
    inputs: tuple[Tensor],
    raw: Tensor,
) -> None:
    """Forward hook of ``conv_offset``, whose output ``raw``, ``(1, 2*G*K or 3*G*K, H, W)``, goes on record.

    A plain convolution has no such branch: the hook is its own, and there are no offsets.
    """
    raw = raw[0].detach().cpu().double()
    regular = regular_positions(layer, *raw.shape[1:]).double()
    offset, weights = torch.zeros_like(regular), torch.ones_like(regular[..., 0])
    if branch is not layer:
        offset = sample_offsets(layer, raw)
        logits = raw[2 * regular.shape[2] :].permute(1, 2, 0)
        weights = logits.sigmoid() if logits.numel() else weights
    pixels = pixels_per_unit(inputs[0], image_size)
    record.append(
        LayerSampling(
            name=name,
            stride=pixels_per_unit(raw, image_size),
            positions=(regular + offset).flip(-1) * pixels,
            regular=regular.flip(-1) * pixels,
            weights=weights,
            image_size=image_size,
            kernel_size=tuple(layer.kernel_size),
            input_stride=pixels,
        )
    )
