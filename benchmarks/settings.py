"""The operator against the plain convolution where a program is not alone on its threads.

Data-loading workers, a spawned child, a forked child with one thread, `torch.set_num_threads(1)`, and
several Python threads that call at once; each in the way in which such programs run.
"""

import multiprocessing
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from . import peers
from .deform_conv2d import run_once
from .shapes import Shape
from .timing import interleaved

SHAPE = Shape(256, (14, 14))
BATCH = 8
WORKERS = 2
CALLERS = 4
_TIME_LIMIT = 300  # seconds, for a child that hangs


def ratios(backward: bool, repeats: int) -> dict[str, float]:
    """Our time over the better of conv2d's two formats, by setting; medians, channels-last float32."""
    return {
        "in DataLoader workers": _in_workers(backward, repeats),
        "after spawn": _in_child("spawn", None, backward, repeats),
        "in a forked child, one thread": _in_child("fork", 1, backward, repeats),
        "under set_num_threads(1)": _on_threads(1, backward, repeats),
        f"{CALLERS} Python threads at once": _from_several_threads(backward, repeats),
    }


def _calls(backward: bool) -> dict:
    """The functions that are compared, by name."""
    tensors = {
        layout: peers.make_tensors(SHAPE, BATCH, torch.float32, channels_last=layout == "channels-last")
        for layout in ("channels-last", "contiguous")
    }
    ours, plain = peers.deformable("extension", SHAPE), peers.plain(SHAPE)
    return {
        "ours": lambda: run_once(ours, tensors["channels-last"], backward),
        **{f"conv2d {name}": lambda t=t: run_once(plain, t, backward) for name, t in tensors.items()},
    }


def _over_plain(medians: dict[str, float]) -> float:
    return medians["ours"] / min(time for name, time in medians.items() if name != "ours")


def _measured(backward: bool, repeats: int) -> float:
    times = interleaved(_calls(backward), repeats)
    return _over_plain({name: summary["median"] for name, summary in times.items()})


def _on_threads(threads: int | None, backward: bool, repeats: int) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return _measured(backward, repeats)
    finally:
        torch.set_num_threads(before)


class _Measurements(torch.utils.data.Dataset):
    """Each item is a measurement in the worker that loads it."""

    def __init__(self, backward: bool, repeats: int) -> None:
        self.backward, self.repeats = backward, repeats

    def __len__(self) -> int:
        return WORKERS

    def __getitem__(self, index: int) -> float:
        return _measured(self.backward, self.repeats)


def _in_workers(backward: bool, repeats: int) -> float:
    """The mean over workers that measure at the same time."""
    dataset = _Measurements(backward, repeats)
    loader = torch.utils.data.DataLoader(dataset, None, num_workers=WORKERS, timeout=_TIME_LIMIT)
    return statistics.mean(loader)


def _in_child(start: str, threads: int | None, backward: bool, repeats: int) -> float:
    with multiprocessing.get_context(start).Pool(1) as pool:
        return pool.apply_async(_on_threads, (threads, backward, repeats)).get(timeout=_TIME_LIMIT)


def _from_several_threads(backward: bool, repeats: int) -> float:
    """All callers run one function at a time; what counts is when the last has returned."""
    with ThreadPoolExecutor(CALLERS) as pool:

        def all_at_once(function) -> float:
            start = time.perf_counter()
            for future in [pool.submit(function) for _ in range(CALLERS)]:
                future.result()
            return time.perf_counter() - start

        calls = _calls(backward)
        times = {name: [] for name in calls}
        for _ in range(1 + repeats):
            for name, function in calls.items():
                times[name].append(all_at_once(function))
    return _over_plain({name: statistics.median(values[1:]) for name, values in times.items()})
