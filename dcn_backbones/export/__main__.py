"""Write a model as a file for ONNX Runtime, TensorRT, OpenVINO or torch.export, and check what it computes.

python -m dcn_backbones.export dcnv2_resnet50 --output model.onnx
python -m dcn_backbones.export dcnv2_resnet18 --output model.xml --check photo.jpg
python -m dcn_backbones.export local-dir:exported --output model.pt2 --size 320,512 --fixed

Exit status: 0 done, 1 the file does not compute what the model does, 2 called wrongly.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import nn
from tqdm import tqdm

from dcn_backbones.analysis import Preprocessing, load_model, read_image
from dcn_backbones.command import CommandParser, exit_status
from dcn_backbones.export import DEFAULT_OPSET, OPSETS, TOLERANCE, difference, export_file, load_exported
from dcn_backbones.export.files import check_path
from dcn_backbones.export.onnx import check_opset
from dcn_backbones.export.runtimes import check_provider


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__, "python -m dcn_backbones.export")
    parser.add_argument(
        "model", metavar="MODEL", help="a model that timm knows, local-dir:FOLDER or hf-hub:OWNER/NAME"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="what to write: .onnx, .xml (OpenVINO, with a .bin beside it) or .pt2 (torch.export)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        default=DEFAULT_OPSET,
        metavar="N",
        help=f"ONNX's operators, {OPSETS[0]} to {OPSETS[-1]} (default: %(default)s)",
    )
    parser.add_argument(
        "--fixed", action="store_true", help="one image of one size, instead of any number of any size"
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HEIGHT,WIDTH",
        help="with --fixed: its pixels, or one number for both (default: what the model evaluates at)",
    )
    parser.add_argument(
        "--check",
        nargs="+",
        type=Path,
        default=[],
        metavar="IMAGE",
        help=f"run the file on these photographs: it may differ from PyTorch by {TOLERANCE:g}",
    )
    parser.add_argument(
        "--provider",
        metavar="NAME",
        help="which provider of ONNX Runtime checks, as TensorrtExecutionProvider (default: its CPU's)",
    )
    options = parser.parse_args(arguments)
    if options.provider and not (options.check and options.output.suffix == ".onnx"):
        parser.error("--provider says what checks an .onnx, so it needs --check and an --output of that kind")
    if options.size and (options.check or not options.fixed):
        parser.error("--size sets the one size of --fixed, and --check feeds the model's own")
    return options


def _size(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; expected HEIGHT,WIDTH or one number, in pixels"
        )
    return int(parts[0]), int(parts[-1])


def export(options: argparse.Namespace) -> bool:
    """Write the file and check it; whether it computes what the model does."""
    check_path(options.output)
    check_opset(options.opset)
    if options.provider:
        check_provider(options.provider)
    images = [read_image(path) for path in options.check]
    with tqdm(total=2 + len(images), unit="step", disable=None) as progress:
        progress.set_description(f"loading {options.model}")
        model = load_model(options.model)
        progress.update()
        progress.set_description(f"writing {options.output}")
        export_file(model, options.output, options.opset, options.size, dynamic=not options.fixed)
        progress.update()
        differences = list(_differences(options, model, images, progress))
    print(f"wrote {options.output}")
    for path, distance in zip(options.check, differences, strict=True):
        verdict = "pass" if distance <= TOLERANCE else "FAIL"
        print(f"  {verdict}  differs by {distance:.1e}, at most {TOLERANCE:g}  {path}")
    return all(distance <= TOLERANCE for distance in differences)


def _differences(
    options: argparse.Namespace, model: nn.Module, images: list, progress: tqdm
) -> Iterator[float]:
    if not images:
        return
    network = load_exported(options.output, options.provider)
    preprocessing = Preprocessing(model)
    for path, image in zip(options.check, images, strict=True):
        progress.set_description(f"checking {path}")
        yield difference(network, model, [preprocessing(image)])
        progress.update()


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return exit_status(lambda: export(options), error=2)


if __name__ == "__main__":
    sys.exit(main())
