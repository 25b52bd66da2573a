"""Top-1, top-5 and loss of a classifier over a loader: the one measurement behind training and validation."""

import time
from collections.abc import Iterable

import torch
from torch import nn
from tqdm import tqdm


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable,
    device: torch.device,
    amp: bool = False,
    channels_last: bool = False,
    description: str = "validation",
) -> dict[str, float]:
    """Return `images`, `top1` and `top5` (percent), `loss` (mean cross-entropy) and `images_per_second`.

    Images (B, 3, H, W) and labels (B,) come from `loader`. `amp` is bfloat16 autocast. Raises ValueError
    when a label is none of the model's classes or the loader is empty.
    """
    model.eval()
    images, top1, top5, loss = 0, 0, 0, 0.0
    start = time.perf_counter()
    for batch, labels in tqdm(loader, desc=description, disable=None, leave=False):
        if channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            logits = model(batch)  # (B, num_classes)
        logits = logits.float()
        _check_labels(labels, logits.shape[1])
        ranks = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]  # (B, 5)
        top1 += int(ranks[:, 0].sum())
        top5 += int(ranks.sum())
        loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        images += len(labels)
    if images == 0:
        raise ValueError("the loader has no images, expected at least one")
    seconds = time.perf_counter() - start
    return {
        "images": images,
        "top1": 100 * top1 / images,
        "top5": 100 * top5 / images,
        "loss": loss / images,
        "images_per_second": images / seconds,
    }


def _check_labels(labels: torch.Tensor, num_classes: int) -> None:
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise ValueError(
            f"the dataset has labels from {lowest} to {highest} (-1: no label), "
            f"expected 0 to {num_classes - 1} as the model has {num_classes} classes"
        )
