"""What runs an exported model, each as a function of images, and how far it is from PyTorch."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from .openvino import FULL_PRECISION

TOLERANCE = 1e-4

Outputs = Tensor | list[Tensor]
Network = Callable[[Tensor], Outputs]


def load_exported(path: Path, provider: str | None = None) -> Network:
    """An exported file as a function of images ``(N, C, H, W)``, on the CPU unless a provider is named.

    Args:
        path: File that `export_file` has written.
        provider: For ONNX, which of ONNX Runtime's execution providers runs it.

    Raises:
        ValueError: When that provider is not in this installation.
        ImportError: When ONNX Runtime or OpenVINO is not installed.
    """
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    return run_openvino(path) if path.suffix == ".xml" else run_onnxruntime(path, provider=provider)


def onnxruntime_session(model: bytes | Path, threads: int | None = None, provider: str | None = None):
    """An `onnxruntime.InferenceSession` on the CPU, or on the one provider that is named.

    Args:
        model: An ONNX model, serialised or in a file.
        threads: Of one operator; by default what ONNX Runtime chooses.
        provider: One of its execution providers, by name.

    Raises:
        ValueError: When that provider is not in this installation.
        ImportError: When ONNX Runtime is not installed.
    """
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # its default
    # Its idle threads would otherwise spin for milliseconds, on the processors of whoever computes next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider:
        check_provider(provider)
        # Otherwise what the provider cannot run would run on the CPU without a word.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=[provider or "CPUExecutionProvider"])


def check_provider(provider: str) -> None:
    """Raise ValueError for an execution provider that this installation does not have."""
    available = _onnxruntime().get_available_providers()
    if provider not in available:
        raise ValueError(
            f"this ONNX Runtime has no {provider}; expected one of its own: {', '.join(available)}."
        )


def _onnxruntime():
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("running ONNX needs onnxruntime: pip install 'dcn_backbones[export]'.") from error
    return onnxruntime


def run_onnxruntime(model: bytes | Path, threads: int | None = None, provider: str | None = None) -> Network:
    """ONNX Runtime on an ONNX model of one input; the arguments are those of `onnxruntime_session`.

    Raises:
        ValueError: When the provider is not in this installation, or the model has several inputs.
        ImportError: When ONNX Runtime is not installed.
    """
    session = onnxruntime_session(model, threads, provider)
    (images,) = session.get_inputs()
    return lambda input: _tensors(session.run(None, {images.name: input.numpy(force=True)}))


def run_openvino(model, threads: int | None = None, properties: dict[str, str] = FULL_PRECISION) -> Network:
    """OpenVINO's CPU plugin on an `openvino.Model` of one input or a file in its format.

    Args:
        model: The model, or the path of its ``.xml``.
        threads: By default as many as OpenVINO chooses.
        properties: Of the compiled model; by default it computes in float32.

    Raises:
        ImportError: When OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ImportError("running it needs openvino: pip install 'dcn_backbones[export]'.") from error
    limit = {"INFERENCE_NUM_THREADS": threads} if threads else {}
    compiled = openvino.Core().compile_model(model, "CPU", {**properties, **limit})
    # Copies: the next call writes its results into the same memory.
    return lambda input: _tensors([output.copy() for output in compiled(input.numpy(force=True)).values()])


def _tensors(arrays: list) -> Outputs:
    tensors = [torch.from_numpy(array) for array in arrays]
    return tensors[0] if len(tensors) == 1 else tensors


@torch.no_grad()
def difference(network: Network, model: nn.Module, inputs: Iterable[Tensor]) -> float:
    """Largest distance of any output from the model's, absolute or over the model's largest: the greater.

    Compare it with `TOLERANCE`, not the other way round: it is NaN when an output is.
    """
    distances = []
    for images in inputs:
        for output, expected in zip(_listed(network(images)), _listed(model(images)), strict=True):
            scale = expected.abs().max().clamp(max=1)
            distances.append((output.to(expected.device) - expected).abs().max() / scale)
    return torch.stack(distances).max().item()


def _listed(outputs: Outputs) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
