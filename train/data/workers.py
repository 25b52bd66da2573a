"""Worker processes over images by index."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader

from train.data.images import collate


def create_worker_loader(images: Any, batches: Iterable, workers: int, device: torch.device) -> DataLoader:
    """torch's loader, which draws its workers' seed from a generator of its own and so disturbs none."""
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        generator=torch.Generator(),
    )
