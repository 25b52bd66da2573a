"""How far the deformable layers of a network move their samples: measured, and kept in bounds."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dcn_backbones.layers import DeformConv2d

# Training that goes well moves few samples off the image; offsets that explode take all of them there,
# whatever the size of the feature map.
WARNING_SHARE = 0.25


@dataclass(frozen=True)
class Constraint:
    """A forward hook of an offset branch: clamps the offsets, and keeps their mean square for the loss."""

    clamp: float
    penalty: float

    def __call__(self, branch: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        offsets, logits = output[:, : branch.offset_channels], output[:, branch.offset_channels :]
        if self.clamp > 0:
            offsets = offsets.clamp(-self.clamp, self.clamp)
        if self.penalty > 0 and branch.training:
            branch.penalty = self.penalty * offsets.float().square().mean()
        return torch.cat([offsets, logits], dim=1)


def constrain_offsets(model: nn.Module, clamp: float, penalty: float) -> None:
    """Clamp every offset of a model to `clamp` pixels, and prepare `offset_penalty`; 0 is for neither."""
    if clamp <= 0 and penalty <= 0:
        return
    for layer in _deformable_layers(model):
        layer.conv_offset.offset_channels = _offset_channels(layer)
        layer.conv_offset.register_forward_hook(Constraint(clamp, penalty))


def offset_penalty(model: nn.Module) -> Tensor | float:
    """The sum over the layers of what the last forward pass in training has to pay; 0 without a penalty."""
    branches = [layer.conv_offset for layer in _deformable_layers(model)]
    return sum(branch.__dict__.pop("penalty", 0.0) for branch in branches)


@torch.inference_mode()
def offset_statistics(
    model: nn.Module, images: Tensor, amp_dtype: torch.dtype | None = None
) -> dict[str, float]:
    """The size of the offsets for images (B, 3, H, W), each the largest over the layers; empty without any.

    Returns `offset_mean` and `offset_p99`, mean and 99th percentile of |offset| in pixels of a layer's own
    input, and `offset_outside`, the share of its samples that lie outside the image and would be inside had
    they not been moved. Offsets that explode (training gone wrong) show here before they show in the loss.
    """
    found: list[dict[str, float]] = []

    def record(layer: DeformConv2d, branch: nn.Module, inputs: tuple, output: Tensor) -> None:
        offsets = output[:, : _offset_channels(layer)].float()
        found.append(
            {
                "offset_mean": float(offsets.abs().mean()),
                "offset_p99": _quantile(offsets.abs(), 0.99),
                "offset_outside": _share_moved_outside(layer, offsets, inputs[0].shape[-2:]),
            }
        )

    layers = _deformable_layers(model)
    handles = [layer.conv_offset.register_forward_hook(partial(record, layer)) for layer in layers]
    try:
        model.eval()
        with torch.autocast(images.device.type, amp_dtype, enabled=amp_dtype is not None):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: max(entry[name] for entry in found) for name in found[0]} if found else {}


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


def _share_moved_outside(layer: DeformConv2d, offsets: Tensor, size: torch.Size) -> float:
    """Of all samples of offsets (N, 2*G*K, H_out, W_out) in an input of `size` (H, W)."""
    samples = offsets.unflatten(1, (layer.offset_groups, -1, 2))  # (N, G, K, 2, H_out, W_out)
    rows, columns = (_unmoved(layer, axis, offsets) for axis in (0, 1))
    before = _is_inside(rows, size[0]) & _is_inside(columns, size[1])
    after = _is_inside(rows + samples[:, :, :, 0], size[0]) & _is_inside(
        columns + samples[:, :, :, 1], size[1]
    )
    return float((before & ~after).float().mean())


def _unmoved(layer: DeformConv2d, axis: int, offsets: Tensor) -> Tensor:
    """Rows (axis 0) or columns (axis 1) of the samples without offsets: (K, H_out, W_out) by broadcasting."""
    outputs = torch.arange(offsets.shape[2 + axis], device=offsets.device)
    taps = torch.arange(layer.kernel_size[axis], device=offsets.device)
    starts = outputs * layer.stride[axis] - layer.padding[axis]
    positions = starts + (taps * layer.dilation[axis])[:, None]  # (taps of this axis, outputs)
    other = layer.kernel_size[1 - axis]
    if axis == 0:
        return positions.repeat_interleave(other, 0)[:, :, None]
    return positions.repeat(other, 1)[:, None, :]


def _is_inside(positions: Tensor, length: int) -> Tensor:
    return (positions > -1) & (positions < length)  # the operator's boundary rule


def _quantile(values: Tensor, fraction: float) -> float:
    # torch.quantile refuses more than 16 million values
    return float(values.flatten().kthvalue(max(1, round(fraction * values.numel()))).values)
