"""Whole models in PyTorch with our kernels, ONNX Runtime and OpenVINO: `python -m benchmarks.export`.

Every runtime has the same model, images and number of threads, on the CPU. Prints milliseconds a batch
(medians, quartiles in brackets) and writes JSON; when any logits differ from ours nothing is reported.
"""

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import timm
import torch
import torch._inductor.config
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

import dcn_backbones  # noqa: F401
from dcn_backbones.export import FULL_PRECISION, TOLERANCE, onnx_model, run_onnxruntime, run_openvino
from dcn_backbones.export.openvino import read_onnx

from . import report
from .deform_conv2d import TOLERANCE as KERNEL_TOLERANCE
from .deform_conv2d import refuse_differences
from .timing import interleaved

BFLOAT16 = {"INFERENCE_PRECISION_HINT": "bf16"}
COLUMNS = {
    "ours": "PyTorch, ours",
    "ours compiled": "ours, `torch.compile`",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "ours bfloat16": "ours, bfloat16",
    "openvino bfloat16": "OpenVINO, bfloat16",
}


class Setting(NamedTuple):
    model: str
    size: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.model}, {self.size} px, N={self.batch}"


SETTINGS = [
    Setting("dcnv2_resnet18", 128, 1),
    Setting("dcnv1_resnet50", 224, 1),
    Setting("dcnv2_resnet50", 224, 1),
    Setting("dcnv2_resnet50", 224, 8),
    Setting("dcnv2_resnext101_32x4d", 224, 1),
]


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    # Compilation then folds batch norms into convolutions, as the other runtimes do.
    torch._inductor.config.freezing = True
    rows = [measure(setting, arguments.threads, arguments.repeats) for setting in SETTINGS]
    print(table(rows))
    if arguments.output:
        versions = {name: version(name) for name in ("onnxruntime", "openvino", "onnx", "onnxscript")}
        report.write(arguments.output, vars(arguments), {"versions": versions, "rows": rows})


def measure(setting: Setting, threads: int, repeats: int) -> dict:
    """Milliseconds of every runtime on one batch, after checking that all give our logits."""
    torch.manual_seed(0)
    model = network(setting.model)
    images = torch.randn(setting.batch, 3, setting.size, setting.size)
    exact, half = runtimes(model, images, threads)
    with torch.no_grad():
        refuse_differences(exact, TOLERANCE, setting.name)
        refuse_differences({"ours": exact["ours"], **half}, KERNEL_TOLERANCE[torch.bfloat16], setting.name)
        calls = {name: lambda f=f, t=t: f(t) for name, (f, t) in (exact | half).items()}
        times = interleaved(calls, repeats)
    return {"setting": setting.name, "milliseconds": times}


def network(name: str) -> nn.Module:
    """An untrained model in which every layer and every offset counts, and rounding errors do not grow."""
    model = timm.create_model(name, num_classes=1000, zero_init_last=False).eval()
    for module in model.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            nn.init.constant_((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight, 0.2)
    for key, parameter in model.named_parameters():
        if key.endswith("conv_offset.bias"):
            nn.init.normal_(parameter)
    return model.to(memory_format=torch.channels_last)


def runtimes(model: nn.Module, images: Tensor, threads: int) -> tuple[dict, dict]:
    """Functions with their images, in float32 and in bfloat16; ours comes first."""
    proto = onnx_model(model, image_size=images.shape[-1])
    converted = read_onnx(proto)
    ours = images.contiguous(memory_format=torch.channels_last)
    exact = {
        "ours": (model, ours),
        "ours compiled": (torch.compile(model, dynamic=False), ours),
        "onnxruntime": (run_onnxruntime(proto.SerializeToString(), threads), images),
        "openvino": (run_openvino(converted, threads, FULL_PRECISION), images),
    }
    half = {
        "ours bfloat16": (torch.autocast("cpu", torch.bfloat16)(model), ours),
        "openvino bfloat16": (run_openvino(converted, threads, BFLOAT16), images),
    }
    return exact, half


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    lines = [["milliseconds", *COLUMNS.values()], ["---"] * (1 + len(COLUMNS))]
    for row in rows:
        times = row["milliseconds"]
        lines.append([row["setting"], *(_cell(times[name]) for name in COLUMNS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(time: dict[str, float]) -> str:
    return f"{time['median']:.1f} ({time['quartile_low']:.1f}-{time['quartile_high']:.1f})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
