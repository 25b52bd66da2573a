"""Which backend runs: the first in the list with no reason against it, or the one that was named."""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

from .backends.base import Backend, Request
from .backends.extension import ExtensionBackend
from .backends.numba_cuda import NumbaCudaBackend
from .backends.reference import ReferenceBackend
from .backends.torchvision import TorchvisionBackend

_logger = logging.getLogger(__name__)

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (ExtensionBackend(), NumbaCudaBackend(), ReferenceBackend(), TorchvisionBackend())
}
"""All backends by name, the preferred first."""

ENVIRONMENT_VARIABLE = "DCN_BACKEND"

_forced: ContextVar[str] = ContextVar("dcn_backbones_backend", default="")


def available_backends() -> list[str]:
    """Names of the backends that can run in this process, the preferred first."""
    return [name for name, backend in BACKENDS.items() if not backend.unavailable_reasons()]


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every operator called inside the `with` block on the backend `name`.

    It holds for the calling thread and goes before the environment variable `DCN_BACKEND`. The
    backward of such a call runs on the same backend whenever and wherever it runs. A compiled
    function (`torch.compile`) keeps the backend that was named when it was traced.

    Raises:
        ValueError: no backend has that name.
        RuntimeError: raised by the operator, with every reason, when the backend cannot take a call.
    """
    _named(name, "use_backend")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


@torch.compiler.assume_constant_result
def forced_backend() -> str:
    """The name given to the innermost `use_backend`, else in the environment, else empty."""
    return _forced.get() or os.environ.get(ENVIRONMENT_VARIABLE, "")


def select(operator: str, name: str, input: Tensor, deformed: bool = True) -> Backend:
    """The backend called `name`, or for an empty name the first that can take the call."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    return _select(name, Request(input.device.type, input.dtype, deterministic, operator, deformed))


@functools.lru_cache(maxsize=256)
def _select(name: str, request: Request) -> Backend:
    if name:
        backend = _named(name, f"use_backend or {ENVIRONMENT_VARIABLE}")
        reasons = backend.not_supported_reasons(request)
        if reasons:
            why = "; ".join(reasons)
            raise RuntimeError(f"The backend {name!r} cannot run this call of {request.operator}: {why}.")
        return backend
    return _first_without_reasons(request)


def _first_without_reasons(request: Request) -> Backend:
    passed_over = []
    for backend in BACKENDS.values():
        reasons = backend.not_supported_reasons(request) if backend.automatic else ["it runs only when named"]
        if not reasons:
            if passed_over:
                others = "; ".join(passed_over)
                _warn_once(
                    f"Running {request.operator} on the backend {backend.name!r}; passed over: {others}."
                )
            return backend
        passed_over.append(f"{backend.name!r}, since {' and '.join(reasons)}")
    raise RuntimeError(f"No backend can run this call of {request.operator}: {'; '.join(passed_over)}.")


@functools.cache
def _warn_once(message: str) -> None:
    _logger.warning(message)


def _named(name: str, source: str) -> Backend:
    if name not in BACKENDS:
        raise ValueError(f"{source} names the backend {name!r}, expected one of {', '.join(BACKENDS)}.")
    return BACKENDS[name]
