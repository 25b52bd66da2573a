"""Worker processes over images by index."""

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader

from train.data.images import collate


def leave_process_group(worker: int) -> None:
    """Keep signals that are sent to a whole process group, as Ctrl-C is, from ending a loader's worker.

    The training process has to finish its step, for which it needs them; it stops them itself.
    """
    os.setpgid(0, 0)


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
        worker_init_fn=leave_process_group,
    )
