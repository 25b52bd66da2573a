"""torchvision's ``DeformConv2d``, whose offsets come from outside, and our layers, which predict them."""

import re
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from ...layers import DeformConv2d, ModulatedDeformConv2d
from .values import offset_groups

_GEOMETRY = ("kernel_size", "stride", "padding", "dilation")


@dataclass(frozen=True)
class TorchvisionNames:
    """Where a network keeps what belongs to one of its ``torchvision.ops.DeformConv2d``.

    Templates of module paths: ``{conv}`` is the convolution's path in our names (``layer2.0.conv2``),
    ``{block}`` its block (``layer2.0``), ``{name}`` its name in there (``conv2``, also if left out).

    Attributes:
        weight: The ``DeformConv2d``.
        offset: The convolution that predicts the offsets, or the offsets and then the mask logits.
        mask: The one that predicts the mask logits, where it is another.
        mask_scale: What multiplies the sigmoid of the mask logits.
    """

    weight: str = "{conv}"
    offset: str = "{conv}_offset"
    mask: str | None = None
    mask_scale: float = 1.0

    def our_key(self, key: str) -> str:
        """A key in our names; mask logits of their own get the place ``conv_mask`` beside ``conv_offset``."""
        places = {self.offset: ".conv_offset", self.mask: ".conv_mask", self.weight: ""}
        for template, place in places.items():
            match = template and re.fullmatch(_pattern(template), key)
            if match:
                parts = {"name": "conv2", **match.groupdict()}
                conv = parts.get("conv") or "{block}.{name}".format(**parts)
                return f"{conv}{place}.{parts['parameter']}"
        return key


def _pattern(template: str) -> str:
    parts = {"conv": r"layer\d\.\d+\.conv\d", "block": r"layer\d\.\d+", "name": r"conv\d"}
    pattern = re.escape(template)
    for part, expression in parts.items():
        pattern = pattern.replace(re.escape(f"{{{part}}}"), f"(?P<{part}>{expression})", 1)
    return rf"{pattern}\.(?P<parameter>weight|bias)"


def join_masks(state: dict[str, Tensor]) -> None:
    """Append the channels of every ``conv_mask`` to those of its ``conv_offset``, in place."""
    for key in [key for key in state if ".conv_mask." in key]:
        offset = key.replace(".conv_mask.", ".conv_offset.")
        if offset in state:
            state[offset] = torch.cat([state[offset], state.pop(key)])


@torch.no_grad()
def from_torchvision(
    conv: torchvision.ops.DeformConv2d,
    conv_offset: nn.Conv2d,
    conv_mask: nn.Conv2d | None = None,
    mask_scale: float = 1.0,
) -> DeformConv2d:
    """The layer that computes ``conv(x, conv_offset(x), mask_scale * conv_mask(x).sigmoid())``.

    Args:
        conv: torchvision's layer.
        conv_offset: Predicts the offsets, ``2*G*K`` channels, or with the mask logits behind them ``3*G*K``.
        conv_mask: Predicts the mask logits, ``G*K`` channels, where ``conv_offset`` does not.
        mask_scale: What multiplies the sigmoid.

    Raises:
        ValueError: When a branch is not a convolution of the same geometry, or its channels fit no ``G``.
    """
    branches = [conv_offset] + ([conv_mask] if conv_mask is not None else [])
    for branch in branches:
        _check_geometry(conv, branch)
    weight = torch.cat([branch.weight for branch in branches])
    groups, modulated = offset_groups(weight)
    layer_class = ModulatedDeformConv2d if modulated else DeformConv2d
    layer = layer_class(
        conv.in_channels,
        conv.out_channels,
        *(getattr(conv, name) for name in _GEOMETRY),
        conv.groups,
        groups,
        bias=conv.bias is not None,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    layer.weight.copy_(conv.weight * (mask_scale if modulated else 1))
    if conv.bias is not None:
        layer.bias.copy_(conv.bias)
    layer.conv_offset.weight.copy_(weight)
    layer.conv_offset.bias.copy_(torch.cat([_bias(branch) for branch in branches]))
    return layer.train(conv.training)


@torch.no_grad()
def to_torchvision(
    layer: DeformConv2d,
) -> tuple[torchvision.ops.DeformConv2d, nn.Conv2d, nn.Conv2d | None]:
    """torchvision's layer, the convolution for its offsets, and the one for its mask logits, if any.

    Together they compute what ``layer`` computes: ``conv(x, conv_offset(x), conv_mask(x).sigmoid())``.
    """
    factory = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    geometry = [getattr(layer, name) for name in _GEOMETRY]
    conv = torchvision.ops.DeformConv2d(
        layer.in_channels, layer.out_channels, *geometry, layer.groups, bias=layer.bias is not None
    ).to(**factory)
    conv.weight.copy_(layer.weight)
    if layer.bias is not None:
        conv.bias.copy_(layer.bias)
    points = layer.offset_groups * layer.kernel_size[0] * layer.kernel_size[1]
    branches = []
    for channels in (slice(2 * points), slice(2 * points, None)):
        weight, bias = layer.conv_offset.weight[channels], layer.conv_offset.bias[channels]
        if len(weight):
            branch = nn.Conv2d(layer.in_channels, len(weight), *geometry, **factory)
            branch.weight.copy_(weight)
            branch.bias.copy_(bias)
            branches.append(branch)
    return conv, branches[0], branches[1] if len(branches) == 2 else None


def _check_geometry(conv: torchvision.ops.DeformConv2d, branch: nn.Conv2d) -> None:
    for name in ("in_channels", *_GEOMETRY):
        if getattr(branch, name) != getattr(conv, name):
            raise ValueError(
                f"the offset branch has {name}={getattr(branch, name)}, but its layer {getattr(conv, name)}; "
                "expected a convolution of the same geometry."
            )


def _bias(branch: nn.Conv2d) -> Tensor:
    return branch.weight.new_zeros(branch.out_channels) if branch.bias is None else branch.bias
