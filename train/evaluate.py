"""Top-1, top-5 and loss of a classifier over a loader: the one measurement behind training and validation."""

import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from train.distribution import World
from train.signals import Interrupted, StopSignals


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable,
    world: World,
    amp_dtype: torch.dtype | None = None,
    channels_last: bool = False,
    description: str = "validation",
    signals: StopSignals | None = None,
) -> dict[str, float]:
    """Return `images`, `top1` and `top5` (percent), `loss` (mean cross-entropy) and `images_per_second`.

    Images (B, 3, H, W) and labels (B,) come from `loader`, in each process its share. `amp_dtype` is the type
    of autocast, None without. Raises ValueError when a label is none of the model's classes or there are no
    images, and Interrupted in all processes when `signals` has received one in any.
    """
    model.eval()
    totals = torch.zeros(4, dtype=torch.float64, device=world.device)
    start = time.perf_counter()
    for images, labels in tqdm(
        loader, desc=description, disable=None if world.is_first else True, leave=False
    ):
        if signals is not None and signals.received:
            break
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        images = images.to(world.device, memory_format=memory_format)
        with torch.autocast(world.device.type, amp_dtype, enabled=amp_dtype is not None):
            logits = model(images).float()  # (B, num_classes)
        totals += _measure(logits, labels.to(world.device))
    if signals is not None and world.any(signals.received is not None):
        raise Interrupted
    images, top1, top5, loss = world.sum(totals).tolist()
    if images == 0:
        raise ValueError("the loader has no images, expected at least one")
    return {
        "images": int(images),
        "top1": 100 * top1 / images,
        "top5": 100 * top5 / images,
        "loss": loss / images,
        "images_per_second": images / (time.perf_counter() - start),
    }


def _measure(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums over logits (B, num_classes) and labels (B,): images, right at once, right within five, loss."""
    _check_labels(labels, logits.shape[1])
    right = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]  # (B, 5)
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
    return torch.stack(
        [right.new_tensor(len(labels), dtype=torch.float64), right[:, 0].sum(), right.sum(), loss]
    )


def _check_labels(labels: Tensor, num_classes: int) -> None:
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise ValueError(
            f"the dataset has labels from {lowest} to {highest} (-1: no label), "
            f"expected 0 to {num_classes - 1} as the model has {num_classes} classes"
        )
