"""Effective sampling locations: how much each place that a layer samples matters to a node.

Source: Zhu et al., "Deformable ConvNets v2", 2019, section 2.1: the gradient of the node with respect to the
sampling locations. Precisely, here:

- A *location* is where one sample of one unit of a layer lies. The gradient with respect to it is that of the
  node's response, with respect to the sample's offset: two numbers, for x and for y. All other offsets keep
  depending on the features that they are predicted from. A plain convolution has the same gradient: it is a
  deformable one whose offsets are zero.
- The *strength* of a location is the length of that gradient. Where locations coincide, as those of
  neighbouring units of a plain convolution do, their strengths are added. (Adding the gradients themselves
  would let them cancel, and would make a network whose samples all but coincide look unlike one whose samples
  do.)
- Bilinear interpolation has a kink at whole positions, where plain convolutions sample; the derivative is the
  one to the right and down, as in every implementation of the operator.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ..layers import DeformConv2d
from ..ops import deform_conv2d
from .node import Node
from .record import pixels_per_unit, regular_positions, sample_offsets, sampling_layers
from .running import check_images, evaluating

_SAME_PLACE = 1e-3  # pixels: locations closer than this coincide


@dataclass(frozen=True)
class EffectiveLocations:
    """Where one layer samples the image for a node, and how much that matters.

    Attributes:
        layer: The layer's name in its model.
        positions: ``(M, 2)`` in float64, ``(x, y)`` of the distinct locations with an influence, in pixels of
            the network's input, as in `record`.
        strengths: ``(M,)`` in float64, positive: change of the node's response for each pixel that the
            location moves.
    """

    layer: str
    positions: Tensor
    strengths: Tensor


@dataclass(frozen=True)
class _Moved:
    """A layer's input size and offsets, ``(1, 2*G*K or more, H, W)``, in one run of the network."""

    name: str
    layer: DeformConv2d | nn.Conv2d
    input: Tensor
    offsets: Tensor


def effective_sampling_locations(
    model: nn.Module,
    image: Tensor,
    node: Node,
    layers: Sequence[str] | None = None,
    levels: int = 3,
) -> list[EffectiveLocations]:
    """Where layers sample an image for a node, each location with its strength.

    Args:
        model: Any network of convolutions, deformable or plain; it is left as it was.
        image: ``(1, C, H, W)``, on the model's device.
        node: What is looked at; of its response, the mean of the vector.
        layers: Names of the layers, deformable convolutions or plain ones of more than one sample.
        levels: When there are no names, the number of layers: the last ones that reach the node.

    Returns:
        One entry for each layer that reaches the node, the last one first.

    Raises:
        ValueError: When a layer is not there, the node is not in the model or no layer reaches it, or
            ``image`` has another shape.
    """
    check_images(image, one=True)
    moved, gradients = _offset_gradients(model, image, node, _chosen(model, layers))
    image_size = (image.shape[3], image.shape[2])
    found = [
        _locations(entry, gradient, image_size)
        for entry, gradient in zip(moved, gradients, strict=True)
        if gradient is not None and gradient.any()
    ][::-1]
    if not found:
        raise ValueError(f"no sampling location has an influence on {node}; expected a node behind a layer.")
    return found if layers is not None else found[:levels]


def merge_locations(found: Sequence[EffectiveLocations]) -> EffectiveLocations:
    """The locations of several layers together, their strengths added where they coincide."""
    positions = torch.cat([entry.positions for entry in found])
    strengths = torch.cat([entry.strengths for entry in found])
    names = ", ".join(entry.layer for entry in found)
    return _coinciding(EffectiveLocations(names, positions, strengths))


def _chosen(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    known = sampling_layers(model, plain=True)
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"layer {unknown[0]!r} samples nothing; expected some of {', '.join(known)}.")
    return known if names is None else {name: known[name] for name in names}


def _offset_gradients(
    model: nn.Module, image: Tensor, node: Node, layers: dict[str, nn.Module]
) -> tuple[list[_Moved], tuple[Tensor | None, ...]]:
    """The layers in the order in which they ran, and the node's gradient with respect to their offsets."""
    moved: list[_Moved] = []
    with evaluating(model), torch.enable_grad(), ExitStack() as hooks:
        for name, layer in layers.items():
            branch, note = layer, _offsets_of_plain
            if isinstance(layer, DeformConv2d):
                branch, note = layer.conv_offset, _offsets_of_deformable
            hooks.callback(branch.register_forward_hook(partial(note, moved, name, layer)).remove)
        response = node.responses(model, image.detach().requires_grad_()).mean()
        offsets = [entry.offsets for entry in moved]
        return moved, torch.autograd.grad(response, offsets, allow_unused=True)


def _offsets_of_deformable(
    moved: list[_Moved], name: str, layer: DeformConv2d, branch: nn.Module, inputs: tuple[Tensor], raw: Tensor
) -> Tensor:
    """Forward hook of ``conv_offset``."""
    raw = raw if raw.requires_grad else raw.detach().requires_grad_()
    moved.append(_Moved(name, layer, inputs[0], raw))
    return raw


def _offsets_of_plain(
    moved: list[_Moved], name: str, layer: nn.Conv2d, same: nn.Module, inputs: tuple[Tensor], output: Tensor
) -> Tensor:
    """Forward hook of a plain convolution, which is a deformable one whose offsets are zero."""
    samples = layer.kernel_size[0] * layer.kernel_size[1]
    offsets = output.new_zeros(len(output), 2 * samples, *output.shape[2:]).requires_grad_()
    moved.append(_Moved(name, layer, inputs[0], offsets))
    geometry = (layer.stride, layer.padding, layer.dilation)
    return deform_conv2d(inputs[0], offsets, layer.weight, layer.bias, *geometry)


def _locations(moved: _Moved, gradient: Tensor, image_size: tuple[int, int]) -> EffectiveLocations:
    pixels = pixels_per_unit(moved.input, image_size)
    offsets, gradient = (
        sample_offsets(moved.layer, values[0].detach().cpu().double()) for values in (moved.offsets, gradient)
    )
    positions = (regular_positions(moved.layer, *offsets.shape[:2]) + offsets).flip(-1) * pixels
    strengths = gradient.norm(dim=-1) / pixels
    return _coinciding(EffectiveLocations(moved.name, positions.flatten(0, 2), strengths.flatten()))


def _coinciding(locations: EffectiveLocations) -> EffectiveLocations:
    """The same with those of no strength left out, and those of one place added up."""
    counts = locations.strengths > 0
    places = (locations.positions[counts] / _SAME_PLACE).round()
    distinct, which = places.unique(dim=0, return_inverse=True)
    strengths = distinct.new_zeros(len(distinct)).index_add_(0, which, locations.strengths[counts])
    return replace(locations, positions=distinct * _SAME_PLACE, strengths=strengths)
