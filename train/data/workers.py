"""The worker processes of a loader."""

import os
import sys
from typing import Any

import torch
from torch.utils.data import DataLoader

from train.data.images import collate

# Workers share the images of a cache and the list of files without copies. Linux's default from Python 3.14
# on, a server that forks them, would be ended by the first signal to the process group.
START_METHOD = "fork" if sys.platform == "linux" else None


def create_worker_loader(images: Any, workers: int, device: torch.device, **options: Any) -> DataLoader:
    """torch's loader of `collate`d batches; `options` say how the images are batched.

    The seed of its workers comes from a generator of its own, so that it disturbs no other random numbers.
    """
    return DataLoader(
        images,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=leave_process_group,
        multiprocessing_context=START_METHOD if workers > 0 else None,
        **{"collate_fn": collate, "generator": torch.Generator(), **options},
    )


def leave_process_group(worker: int) -> None:
    """Keep signals that are sent to a whole process group, as Ctrl-C is, from ending a loader's worker.

    The training process has to finish its step, for which it needs them; it stops them itself.
    """
    os.setpgid(0, 0)
