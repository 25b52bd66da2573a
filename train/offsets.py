"""How far the deformable layers of a network move their samples: measured, and kept in bounds."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dcn_backbones.analysis import offset_health
from dcn_backbones.layers import DeformConv2d

# Training that goes well moves few samples off the image; offsets that explode take all of them there,
# whatever the size of the feature map.
WARNING_SHARE = 0.25


@dataclass(frozen=True)
class Constraint:
    """A forward hook of an offset branch: clamps the offsets, and adds up their mean squares for the loss.

    A step may run a network more than once, as feature mimicking does: every pass with gradients pays.
    """

    clamp: float
    penalty: float

    def __call__(self, branch: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        offsets, logits = output[:, : branch.offset_channels], output[:, branch.offset_channels :]
        if self.clamp > 0:
            offsets = offsets.clamp(-self.clamp, self.clamp)
        if self.penalty > 0 and branch.training and torch.is_grad_enabled():
            due = self.penalty * offsets.float().square().mean()
            branch.penalty = getattr(branch, "penalty", 0.0) + due
        return torch.cat([offsets, logits], dim=1)


def constrain_offsets(model: nn.Module, clamp: float, penalty: float) -> None:
    """Clamp every offset of a model to `clamp` pixels, and prepare `offset_penalty`; 0 is for neither."""
    if clamp <= 0 and penalty <= 0:
        return
    for layer in _deformable_layers(model):
        layer.conv_offset.offset_channels = _offset_channels(layer)
        layer.conv_offset.register_forward_hook(Constraint(clamp, penalty))


def offset_penalty(model: nn.Module) -> Tensor | float:
    """What the forward passes in training since the last call have to pay, over all layers; 0 without any."""
    branches = [layer.conv_offset for layer in _deformable_layers(model)]
    return sum(branch.__dict__.pop("penalty", 0.0) for branch in branches)


def offset_statistics(
    model: nn.Module, images: Tensor, amp_dtype: torch.dtype | None = None
) -> dict[str, float]:
    """The size of the offsets for images (B, 3, H, W), each the largest over the layers; empty without any.

    Returns `offset_mean`, `offset_p99` and `offset_outside` of `OffsetHealth`. Offsets that explode (training
    gone wrong) show here before they show in the loss.
    """
    layers = offset_health(model, images, amp_dtype)
    values = {
        "offset_mean": [layer.offset_mean for layer in layers],
        "offset_p99": [layer.offset_p99 for layer in layers],
        "offset_outside": [layer.outside for layer in layers],
    }
    return {name: max(of_layers) for name, of_layers in values.items() if of_layers}


def offset_warning(statistics: dict[str, float]) -> str:
    """One sentence if the offsets are on their way to explode, nothing otherwise."""
    share = statistics.get("offset_outside", 0.0)
    if share <= WARNING_SHARE:
        return ""
    return (
        f"offsets have moved {share:.0%} of a layer's samples off the image (mean "
        f"{statistics['offset_mean']:.1f} pixels), expected at most {WARNING_SHARE:.0%}: a smaller "
        "offset_lr_scale, offset_clamp, offset_penalty or clip_grad keeps them from exploding"
    )


def _deformable_layers(model: nn.Module) -> list[DeformConv2d]:
    return [module for module in model.modules() if isinstance(module, DeformConv2d)]


def _offset_channels(layer: DeformConv2d) -> int:
    return 2 * layer.offset_groups * layer.kernel_size[0] * layer.kernel_size[1]
