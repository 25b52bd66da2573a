"""`python -m dcn_backbones.info`: versions, backends and, for each one that is out, why."""

import platform

import timm
import torch

import dcn_backbones
from dcn_backbones.ops.backends.base import OPERATORS, Backend
from dcn_backbones.ops.backends.extension import cpu_capability
from dcn_backbones.ops.dispatch import BACKENDS


def main() -> None:
    print(f"dcn_backbones {dcn_backbones.__version__}")
    print(f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}")
    print(f"CUDA device: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")
    print(f"CPU kernels: {_cpu_kernels()}")
    for operator in OPERATORS:
        print(f"backends of {operator}, the preferred first:")
        for name, backend in BACKENDS.items():
            when = "" if backend.automatic else " (only when named)"
            print(f"  {name:<12} {_status(backend, operator)}{when}")


def _status(backend: Backend, operator: str) -> str:
    """Where a backend can run the operator in this process, and why not elsewhere."""
    if reasons := backend.unavailable_reasons():
        return f"out: {'; '.join(reasons)}"
    devices = ["any device"] if backend.devices is None else sorted(backend.devices)
    ready = [device for device in devices if operator in backend.operators_on(device)]
    missing = [f"it has no {operator} on {device} yet" for device in devices if device not in ready]
    missing += backend.missing_parts()
    return "; ".join([f"ready on {', '.join(ready)}", *missing]) if ready else f"out: {'; '.join(missing)}"


def _cpu_kernels() -> str:
    try:
        return cpu_capability()
    except (ImportError, RuntimeError) as error:
        return f"none ({error})"


if __name__ == "__main__":
    main()
