"""How far the deformable layers of a network move their samples."""

from functools import partial

import torch
from torch import nn

from dcn_backbones.layers import DeformConv2d


@torch.inference_mode()
def offset_statistics(model: nn.Module, images: torch.Tensor, amp: bool = False) -> dict[str, float]:
    """Mean and 99th percentile of |offset|, in pixels of each layer's own input, for images (B, 3, H, W).

    Returns `offset_mean` and `offset_p99`, each the largest over the deformable layers; empty without any.
    Offsets that explode (training gone wrong) show here before they show in the loss.
    """
    means, percentiles = [], []

    def record(offset_channels: int, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        offsets = output[:, :offset_channels].float().abs()
        means.append(float(offsets.mean()))
        percentiles.append(_quantile(offsets, 0.99))

    layers = [module for module in model.modules() if isinstance(module, DeformConv2d)]
    handles = []
    for layer in layers:
        handles.append(layer.conv_offset.register_forward_hook(partial(record, _offset_channels(layer))))
    try:
        model.eval()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {"offset_mean": max(means), "offset_p99": max(percentiles)} if layers else {}


def _offset_channels(layer: DeformConv2d) -> int:
    return 2 * layer.offset_groups * layer.kernel_size[0] * layer.kernel_size[1]


def _quantile(values: torch.Tensor, fraction: float) -> float:
    # torch.quantile refuses more than 16 million values
    return float(values.flatten().kthvalue(max(1, round(fraction * values.numel()))).values)
