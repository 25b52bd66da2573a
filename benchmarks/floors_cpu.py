"""How long a shape takes at the least on this processor, from two rates that are measured on it.

The product takes its floating-point operations at the rate of the fastest large product found; the sampling
takes four corners of every tap and channel at the rate of the second-level cache. The floor is the longer
of the two, as if they overlapped without a gap, and nothing else were to be done.
"""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from . import peers
from .shapes import CORNERS, TAPS, Shape

_LARGE, _LARGE_BATCH = Shape(256, (28, 28)), 8
# Forward; grad_columns and grad_weight.
_PRODUCTS = {False: 1, True: 3}
# Forward; the corners again, and grad_input read and written at them.
_PASSES = {False: 1, True: 4}


class Rates(NamedTuple):
    flops: float  # a second, all threads
    bytes: float  # a second, all threads, read and written


def floor(shape: Shape, batch: int, dtype: torch.dtype, backward: bool, rates: Rates) -> dict[str, float]:
    """Milliseconds of the product, of the sampling, and the floor."""
    corners = batch * shape.positions * TAPS * CORNERS * shape.channels * dtype.itemsize
    product = 1e3 * _PRODUCTS[backward] * batch * shape.operations / rates.flops
    sampling = 1e3 * _PASSES[backward] * corners / rates.bytes
    return {"product_ms": product, "sampling_ms": sampling, "floor_ms": max(product, sampling)}


@functools.cache
def measured_rates(dtype: torch.dtype) -> Rates:
    """The rates of this processor on torch's number of threads at the first call."""
    return Rates(max(_product_rates(dtype).values()), torch.get_num_threads() * _copy_rate())


def _product_rates(dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of three large products: BLAS's, oneDNN's and ours, none of which is fastest everywhere."""
    square = torch.randn(2048, 2048, dtype=dtype)
    tensors = peers.make_tensors(_LARGE, _LARGE_BATCH, dtype, channels_last=True)
    plain, ours = peers.plain(_LARGE), peers.deformable("extension", _LARGE)
    convolution = _LARGE_BATCH * _LARGE.operations
    with torch.inference_mode():
        return {
            "mm": 2 * 2048**3 / _best(lambda: torch.mm(square, square), 10),
            "conv2d": convolution / _best(lambda: plain(tensors), 10),
            "deform_conv2d": convolution / _best(lambda: ours(tensors), 10),
        }


def _copy_rate() -> float:
    """Bytes a second of one thread copying 256 KiB, too much for the first level and not for the second."""
    source = torch.ones(64 * 1024)
    result = torch.empty_like(source)

    def copies() -> None:
        for _ in range(100):
            result.copy_(source)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return 100 * 2 * source.nbytes / _best(copies, 20)
    finally:
        torch.set_num_threads(threads)


def _best(call: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest call, after one to warm up."""
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[1:])
