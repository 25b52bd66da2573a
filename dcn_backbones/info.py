"""`python -m dcn_backbones.info`: versions, backends and, for each one that is out, why."""

import platform

import timm
import torch

import dcn_backbones
from dcn_backbones.ops.backends.extension import cpu_capability
from dcn_backbones.ops.dispatch import BACKENDS


def main() -> None:
    print(f"dcn_backbones {dcn_backbones.__version__}")
    print(f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}")
    print(f"CUDA device: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")
    print(f"CPU kernels: {_cpu_kernels()}")
    print("backends of deform_conv2d, the preferred first:")
    for name, backend in BACKENDS.items():
        reasons = backend.unavailable_reasons()
        devices = "any device" if backend.devices is None else ", ".join(sorted(backend.devices))
        ready = "; ".join([f"ready on {devices}", *backend.missing_parts()])
        status = f"out: {'; '.join(reasons)}" if reasons else ready
        print(f"  {name:<12} {status}{'' if backend.automatic else ' (only when named)'}")


def _cpu_kernels() -> str:
    try:
        return cpu_capability()
    except (ImportError, RuntimeError) as error:
        return f"none ({error})"


if __name__ == "__main__":
    main()
