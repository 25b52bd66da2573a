"""One shape on the GPU: ours, the plain convolution and torchvision, timed, checked, and their memory."""

import contextlib
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from dcn_backbones.ops.dispatch import BACKENDS, select

from . import floors, peers
from .deform_conv2d import run_once
from .gpu_timing import interleaved
from .peers import Tensors
from .shapes import Shape

HALF = torch.bfloat16
LAYOUTS = ("contiguous", "channels-last")
Call = Callable[[], list[Tensor]]
Variant = tuple[torch.dtype, str]


def measure(shape: Shape, batch: int, backward: bool, repeats: int, device: str) -> dict:
    """bfloat16, channels-last, against cuDNN in the same and torchvision in its best type and format."""
    tensors = peers.make_tensors(shape, batch, HALF, True, device)
    backend = select("deform_conv2d", "", tensors["input"]).name
    calls = {"ours": call(peers.deformable(backend, shape), tensors, backward)}
    refuse_differences(shape, HALF, backend, calls["ours"](), _exact(shape, tensors, backward))
    calls["conv2d"] = call(peers.plain(shape), tensors, backward)
    best = _best_of_torchvision(shape, backward, device)
    (calls["torchvision"],) = torchvision_calls(shape, batch, backward, device, [best]).values()
    times = interleaved(calls, repeats, device)
    predicted = _predicted(shape, batch, backward)
    return {
        "shape": shape.name,
        "batch": batch,
        "backend": backend,
        "torchvision": " ".join((str(best[0]).removeprefix("torch."), best[1])),
        "milliseconds": times,
        "over_conv2d": times["ours"]["median"] / times["conv2d"]["median"],
        "faster_than_torchvision": times["torchvision"]["median"] / times["ours"]["median"],
        **predicted,
        "over_floor": times["ours"]["median"] / predicted["floor_ms"],
    }


def measure_numba(shape: Shape, batch: int, repeats: int, device: str, backend: str = "numba_cuda") -> dict:
    """The Numba backend in float32 against torchvision's best format of float32, forward and backward."""
    tensors = peers.make_tensors(shape, batch, torch.float32, True, device)
    calls = {"numba": call(peers.deformable(backend, shape), tensors, True)}
    peer = torchvision_calls(shape, batch, True, device, [(torch.float32, layout) for layout in LAYOUTS])
    calls |= {f"torchvision {layout}": function for (_, layout), function in peer.items()}
    refuse_differences(shape, torch.float32, backend, calls["numba"](), _exact(shape, tensors, True))
    times = interleaved(calls, repeats, device)
    best = min(summary["median"] for name, summary in times.items() if name != "numba")
    ratio = best / times["numba"]["median"]
    return {"shape": shape.name, "batch": batch, "milliseconds": times, "faster_than_torchvision": ratio}


def measure_deterministic(shape: Shape, batch: int, repeats: int, device: str) -> dict:
    """What the deterministic backward costs: forward and backward over the same without it."""
    tensors = peers.make_tensors(shape, batch, HALF, True, device)
    usual = call(peers.deformable(select("deform_conv2d", "", tensors["input"]).name, shape), tensors, True)

    def deterministic() -> list[Tensor]:
        torch.use_deterministic_algorithms(True)
        try:
            return usual()
        finally:
            torch.use_deterministic_algorithms(False)

    times = interleaved({"usual": usual, "deterministic": deterministic}, repeats, device)
    cost = times["deterministic"]["median"] / times["usual"]["median"]
    return {"shape": shape.name, "batch": batch, "milliseconds": times, "cost": cost}


def measure_memory(shape: Shape, batch: int, device: str) -> dict:
    """Bytes at the peak of forward and backward, with all that the function is given and gives."""
    peaks = {}
    for name in ("ours", "conv2d"):
        tensors = peers.make_tensors(shape, batch, HALF, True, device)
        if name == "conv2d":
            tensors = {key: tensors[key] for key in ("input", "weight")}
        function = _automatic(shape) if name == "ours" else peers.plain(shape)
        peaks[name] = _peak(call(function, tensors, True), tensors)
        del tensors
    return {
        "shape": shape.name,
        "batch": batch,
        "bytes": peaks,
        "over_conv2d": peaks["ours"] / peaks["conv2d"],
    }


def call(function: Callable[[Tensors], Tensor], tensors: Tensors, backward: bool) -> Call:
    return lambda: run_once(function, tensors, backward)


def torchvision_calls(
    shape: Shape, batch: int, backward: bool, device: str, variants: list[Variant]
) -> dict[Variant, Call]:
    """Without the variants that its kernel does not take."""
    calls = {}
    for dtype, layout in variants:
        tensors = peers.make_tensors(shape, batch, dtype, layout == "channels-last", device)
        tensors = {name: t.to(dtype) for name, t in tensors.items()}  # positions too, as it wants them
        function = call(peers.torchvision_function(shape), tensors, backward)
        with contextlib.suppress(RuntimeError):
            function()
            calls[dtype, layout] = function
    return calls


def refuse_differences(
    shape,
    dtype: torch.dtype,
    backend: str,
    found: list[Tensor],
    expected: list[Tensor],
    leaves: tuple[str, ...] = ("input", "offset", "weight", "mask"),
) -> None:
    """End the run when a result is not the expected one in float32 (both may use up the tolerance).

    `shape` is anything with a name; `leaves` are what the results behind the first are gradients of.
    """
    tolerance = BACKENDS[backend].tolerances[dtype]
    names = ["the output", *(f"the gradient of {name}" for name in leaves)]
    for name, result, value in zip(names, found, expected, strict=False):
        error = ((result.float() - value).abs().max() / value.abs().max()).item()
        allowed = 2 * (tolerance.forward if name == "the output" else tolerance.backward)
        if not error <= allowed:
            raise SystemExit(
                f"No figures: on {shape.name} {name} of {backend} is off by {error:.1e} of the largest "
                f"value, expected at most {allowed:.0e}."
            )


def _exact(shape: Shape, tensors: Tensors, backward: bool) -> list[Tensor]:
    """torchvision in float32 on the same numbers."""
    return call(peers.torchvision_function(shape), {k: t.float() for k, t in tensors.items()}, backward)()


def _automatic(shape: Shape) -> Callable[[Tensors], Tensor]:
    return lambda t: peers.deformable(select("deform_conv2d", "", t["input"]).name, shape)(t)


@functools.cache
def _best_of_torchvision(shape: Shape, backward: bool, device: str) -> Variant:
    """The fastest on a few images: on a whole batch the slow ones would take minutes."""
    variants = [(dtype, layout) for dtype in (torch.float16, HALF, torch.float32) for layout in LAYOUTS]
    times = interleaved(torchvision_calls(shape, 8, backward, device, variants), 3, device)
    return min(times, key=lambda variant: times[variant]["median"])


def _predicted(shape: Shape, batch: int, backward: bool) -> dict[str, float]:
    floor, time = floors.forward(shape, batch).floor, floors.predict_forward(shape, batch)
    if backward:
        floor += floors.backward(shape, batch).floor
        time += floors.predict_backward(shape, batch)
    return {"floor_ms": 1e3 * floor, "predicted_ms": 1e3 * time}


def _peak(function: Call, tensors: Tensors) -> int:
    """Beyond what was allocated before the tensors; the tensors alone on the CPU, where none is counted."""
    function()  # libraries take workspaces of their own, once
    if not tensors["input"].is_cuda:
        return sum(t.nbytes for t in tensors.values())
    torch.cuda.synchronize()
    others = torch.cuda.memory_allocated() - sum(t.nbytes for t in tensors.values())
    torch.cuda.reset_peak_memory_stats()
    function()
    return torch.cuda.max_memory_allocated() - others
