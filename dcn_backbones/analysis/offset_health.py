"""The health of deformable layers: how far their samples move, how many leave the image, how many are off."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields
from functools import partial

import torch
from torch import Tensor, nn

from ..layers import DeformConv2d, ModulatedDeformConv2d
from .running import evaluating, run

DEAD_MODULATION = 0.05  # a sample with less than a twentieth of its weight adds next to nothing


@dataclass(frozen=True)
class OffsetHealth:
    """Offsets and modulation of one layer over the images of a batch.

    Attributes:
        layer: Name of the layer in its model.
        offset_mean: Mean of ``|offset|``, in pixels of the layer's input.
        offset_p99: 99th percentile of ``|offset|``, in pixels of the layer's input.
        outside: Share of the samples that lie outside the layer's input and would lie inside unmoved.
        modulation_mean: Mean of the modulation, 0 to 1; 0.5 at the start. None for DCNv1.
        modulation_std: Standard deviation of the modulation. None for DCNv1.
        dead: Share of the samples whose modulation is below ``DEAD_MODULATION``. None for DCNv1.
    """

    layer: str
    offset_mean: float
    offset_p99: float
    outside: float
    modulation_mean: float | None = None
    modulation_std: float | None = None
    dead: float | None = None


@torch.inference_mode()
def offset_health(
    model: nn.Module, images: Tensor, amp_dtype: torch.dtype | None = None
) -> list[OffsetHealth]:
    """The health of every deformable layer, in the order in which they run.

    Args:
        model: Any module with deformable layers of this package; without any the list is empty. Of a detector
            the backbone runs. It runs in evaluation mode and is left as it was.
        images: ``(B, 3, H, W)``, normalised, on the model's device.
        amp_dtype: Type of autocast, None for none.
    """
    found: list[OffsetHealth] = []

    def record(name: str, layer: DeformConv2d, branch: nn.Module, inputs: tuple, output: Tensor) -> None:
        found.append(_measure(name, layer, output.float(), inputs[0].shape[-2:]))

    autocast = torch.autocast(images.device.type, amp_dtype, enabled=amp_dtype is not None)
    with evaluating(model), autocast, ExitStack() as hooks:
        for name, layer in model.named_modules():
            if isinstance(layer, DeformConv2d):
                note = partial(record, name, layer)
                hooks.callback(layer.conv_offset.register_forward_hook(note).remove)
        run(model, images)
    return found


def format_health(layers: Sequence[OffsetHealth]) -> str:
    """A table: a header, then one line for each layer, shares in percent."""
    width = max(len(name) for name in ("layer", *(health.layer for health in layers)))
    titles = ("|offset|", "99th pct", "outside %", "modulation", "its std", "dead %")
    lines = ["  ".join([f"{'layer':<{width}}", *(f"{title:>10}" for title in titles)])]
    percent = {"outside", "dead"}
    for health in layers:
        cells = [
            f"{'-':>10}" if value is None else f"{100 * value if field.name in percent else value:10.2f}"
            for field, value in zip(fields(health)[1:], astuple(health)[1:], strict=True)
        ]
        lines.append("  ".join([f"{health.layer:<{width}}", *cells]))
    return "\n".join(lines)


def _measure(name: str, layer: DeformConv2d, output: Tensor, size: torch.Size) -> OffsetHealth:
    """Of the offset branch's output for an input of `size` (H, W)."""
    split = 2 * layer.offset_groups * layer.kernel_size[0] * layer.kernel_size[1]
    offsets, modulation = output[:, :split], output[:, split:].sigmoid()
    moved = (
        float(offsets.abs().mean()),
        _quantile(offsets.abs(), 0.99),
        _share_moved_outside(layer, offsets, size),
    )
    if not isinstance(layer, ModulatedDeformConv2d):
        return OffsetHealth(name, *moved)
    dead = float((modulation < DEAD_MODULATION).float().mean())
    return OffsetHealth(name, *moved, float(modulation.mean()), float(modulation.std()), dead)


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
