"""Convert weights between this project and others, exactly or not at all.

python -m dcn_backbones.convert IN OUT

  # the backbone of a detector of mmdetection, for timm.create_model("local-dir:mdconv", pretrained=True)
  python -m dcn_backbones.convert faster_rcnn_mdconv_c3-c5.pth mdconv
  # of detectron2, whose names do not tell where the stride is, trained on blue, green, red
  python -m dcn_backbones.convert model_final.pth d2 --style pytorch --input-order bgr \\
      --mean 103.53,116.28,123.675 --std 1,1,1
  # a plain ResNet as the start of a deformable one
  python -m dcn_backbones.convert resnet50.pth warm --model dcnv2_resnet50
  # ours to theirs
  python -m dcn_backbones.convert dcnv2_resnet50 r50.pth --to mmdetection
  python -m dcn_backbones.convert local-dir:mdconv r50.pth --to detectron2
  # around torchvision's DeformConv2d: layer2.0.offset2 predicts the offsets of layer2.0.conv2
  python -m dcn_backbones.convert mine.pth ours --from torchvision --offset-name '{block}.offset2'

Exit status: 0 done, 2 called wrongly.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from dcn_backbones.analysis import load_model
from dcn_backbones.command import CommandParser, exit_status
from dcn_backbones.models.checkpoints import LAYOUTS, TorchvisionNames
from dcn_backbones.models.checkpoints.conversion import WRITABLE, Converted, read_network, write_network

_LAYOUT_LIST = "".join(f"  {name:<12} {layout.title}\n" for name, layout in LAYOUTS.items())
_FILES = (".pth", ".pt", ".pkl", ".safetensors", ".npz")  # else IN is the name of a model


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(f"{__doc__}\nLayouts:\n{_LAYOUT_LIST}", "python -m dcn_backbones.convert")
    parser.add_argument(
        "source", metavar="IN", help=".pth, .safetensors or .npz, or a model that timm knows with its weights"
    )
    parser.add_argument("target", metavar="OUT", type=Path, help="a new folder for timm, else a new file")
    parser.add_argument(
        "--from", dest="layout", choices=LAYOUTS, help="layout of IN (default: recognised by its names)"
    )
    parser.add_argument("--to", choices=WRITABLE, default="timm", help="layout of OUT (default: %(default)s)")
    parser.add_argument("--model", metavar="NAME", help="model of IN (default: recognised by its shapes)")
    _add_conventions(parser)
    options = parser.parse_args(arguments)
    if (options.mean is None) != (options.std is None):
        parser.error("--mean and --std go together")
    if options.layout != "torchvision" and _names(options) != TorchvisionNames():
        parser.error("the names around torchvision's DeformConv2d need --from torchvision")
    return options


def _add_conventions(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what a file may not say")
    group.add_argument("--style", choices=("pytorch", "caffe"), help="stride in the 3x3, or in the first 1x1")
    group.add_argument("--input-order", choices=("rgb", "bgr"), help="order of an image's channels in IN")
    group.add_argument(
        "--mean", type=_numbers, metavar="X,X,X", help="of the pixels, in 0 to 255, in that order"
    )
    group.add_argument("--std", type=_numbers, metavar="X,X,X", help="what they are divided by then")
    group.add_argument(
        "--norm-eps", type=float, metavar="X", help="of batch norms (default: 1e-5, mxnet 2e-5)"
    )
    names = TorchvisionNames()
    group = parser.add_argument_group(
        "names around torchvision's DeformConv2d; {conv} is layer2.0.conv2, {block} layer2.0, {name} conv2"
    )
    group.add_argument("--weight-name", metavar="PATH", default=names.weight, help="default: %(default)s")
    group.add_argument("--offset-name", metavar="PATH", default=names.offset, help="default: %(default)s")
    group.add_argument(
        "--mask-name", metavar="PATH", help="default: behind the offsets' channels, if anywhere"
    )
    group.add_argument("--mask-scale", metavar="X", type=float, default=1.0, help="times the mask's sigmoid")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of numbers, as 103.53,116.28,123.675"
        ) from None


def convert(options: argparse.Namespace) -> None:
    source = Path(options.source)
    with tqdm(total=2, unit="step", disable=None, leave=False) as progress:
        progress.set_description(f"reading {source}")
        converted = _read(options) if source.is_file() or source.suffix in _FILES else None
        model = converted.model if converted else load_model(options.source)
        progress.update()
        progress.set_description(f"writing {options.target}")
        settings = write_network(model, options.target, options.to, converted and converted.imported)
    if converted:
        _report(converted)
    print(f"{options.target} is written; it needs:\n{settings}")


def _read(options: argparse.Namespace) -> Converted:
    return read_network(
        options.source,
        options.layout,
        options.model,
        style=options.style,
        input_order=options.input_order,
        pixel_mean=options.mean,
        pixel_std=options.std,
        norm_eps=options.norm_eps,
        names=_names(options),
    )


def _names(options: argparse.Namespace) -> TorchvisionNames:
    return TorchvisionNames(options.weight_name, options.offset_name, options.mask_name, options.mask_scale)


def _report(converted: Converted) -> None:
    imported = converted.imported
    print(f"{len(imported.state)} tensors of {imported.layout} are {converted.name}")
    if converted.completed:
        print(f"plain there, so they start without offsets: {', '.join(converted.completed)}")
    parts = Counter(key.partition(".")[0] for key in imported.left_out)
    if parts:
        listing = ", ".join(f"{part} ({count})" for part, count in sorted(parts.items()))
        print(f"left out, as no part of the network: {listing}")
    if imported.pixel_mean is None:
        print(
            "nothing says how its pixels are normalised: ImageNet's mean and standard deviation are assumed"
        )


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return exit_status(lambda: convert(options), error=2)


if __name__ == "__main__":
    sys.exit(main())
