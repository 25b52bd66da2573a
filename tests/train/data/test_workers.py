"""The worker processes of a loader."""

import os

import torch
from torch.utils.data import Dataset

from train.data.workers import create_worker_loader


class ProcessGroups(Dataset):
    """Each item is the process group of the worker that loads it."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return os.getpgrp()


def test_a_signal_to_the_trainers_process_group_does_not_reach_workers(monkeypatch):
    monkeypatch.setattr("train.data.workers.collate", list)
    loader = create_worker_loader(ProcessGroups(), [[0], [1]], 2, torch.device("cpu"))
    groups = [batch[0] for batch in loader]
    assert len(groups) == 2 and os.getpgrp() not in groups
