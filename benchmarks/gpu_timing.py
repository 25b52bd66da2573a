"""Interleaved timing of work that a GPU does after the call has returned."""

import time
from collections.abc import Callable

import torch

from . import timing

_FLUSHED = 2**28  # bytes, several times the second-level cache
_CYCLES_PER_SECOND = 2e9  # no GPU's clock is faster by much: a wait may be too long, never too short


def interleaved(
    functions: dict[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, dict[str, float]]:
    """Milliseconds of each function, as `timing.interleaved` gives them; on the CPU by it."""
    if device == "cpu":
        return timing.interleaved(functions, repeats)
    waits = {name: _cycles_to_enqueue(function) for name, function in functions.items()}
    flushed = torch.empty(_FLUSHED, dtype=torch.uint8, device=device)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(_time(function, waits[name], flushed))
    return {name: timing.summary(values) for name, values in times.items()}


def _cycles_to_enqueue(function: Callable[[], object]) -> int:
    """How long the GPU has to be kept waiting for the whole call to be in its queue, with a margin."""
    for _ in range(3):  # compiles, loads and chooses algorithms in the first
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    return int(min(3 * seconds + 3e-4, 0.05) * _CYCLES_PER_SECOND)


def _time(function: Callable[[], object], wait: int, flushed: torch.Tensor) -> float:
    """One call, from a cold cache. The GPU waits until it is in the queue: launches are not timed."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    flushed.zero_()
    torch.cuda._sleep(wait)
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
