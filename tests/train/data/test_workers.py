"""The worker processes of a loader."""

import multiprocessing
import os

import pytest
import torch
from torch.utils.data import Dataset

from train.data.workers import create_worker_loader


class Workers(Dataset):
    """Each item is the process group, and the parent, of the worker that loads it."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[int, int]:
        return os.getpgrp(), os.getppid()


@pytest.fixture
def started_by_a_server():
    """The default of Python 3.14 on Linux."""
    default = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(default, force=True)


@pytest.mark.usefixtures("started_by_a_server")
def test_a_signal_to_the_trainers_process_group_does_not_reach_workers(monkeypatch):
    monkeypatch.setattr("train.data.workers.collate", list)
    loader = create_worker_loader(Workers(), 2, torch.device("cpu"), batch_sampler=[[0], [1]])
    groups, parents = zip(*(batch[0] for batch in loader), strict=True)
    assert os.getpgrp() not in groups
    assert set(parents) == {os.getpid()}  # no server between, which a signal would end
