"""What a network sees in photographs, in words.

python -m dcn_backbones.predict photo.jpg
python -m dcn_backbones.predict holiday/*.jpg --model hf-hub:OWNER/NAME --top 1
python -m dcn_backbones.predict photo.jpg --sampling sampling.png --point 320,240

Exit status: 0 done, 2 called wrongly.
"""

import argparse
import sys

from tqdm import tqdm

from dcn_backbones.analysis import classify, draw_sampling, load_model, read_image
from dcn_backbones.analysis.plot.figure import check_matplotlib
from dcn_backbones.command import CommandParser, exit_status, point_argument


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__, "python -m dcn_backbones.predict")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="file that holds a photograph")
    parser.add_argument(
        "--model",
        default="dcnv2_resnet18",
        metavar="NAME",
        help="a model that timm knows, local-dir:FOLDER or hf-hub:OWNER/NAME (default: %(default)s)",
    )
    parser.add_argument(
        "--top", type=_positive, default=5, help="classes for each image (default: %(default)s)"
    )
    parser.add_argument(
        "--sampling",
        metavar="FILE",
        help="also draw where the deformable layers sample the first image, into this picture",
    )
    parser.add_argument(
        "--point",
        type=point_argument,
        metavar="X,Y",
        help="pixel of the first image to draw for (default: its centre)",
    )
    options = parser.parse_args(arguments)
    if options.point and not options.sampling:
        parser.error("--point says what to draw, so it needs --sampling FILE")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of classes; expected 1 or more")
    return int(text)


def predict(options: argparse.Namespace) -> None:
    if options.sampling:
        check_matplotlib()
    model = load_model(options.model)
    several = len(options.images) > 1
    for path in tqdm(options.images, desc="looking", unit="image", disable=None if several else True):
        predictions = classify(model, read_image(path), options.top)
        rows = [f"  {prediction.probability:6.1%}  {prediction.words}" for prediction in predictions]
        tqdm.write("\n".join([path, *rows]))
    if options.sampling:
        draw_sampling(model, read_image(options.images[0]), options.sampling, options.point)
        print(f"sampling locations in {options.images[0]}: {options.sampling}")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return exit_status(lambda: predict(options), error=2)


if __name__ == "__main__":
    sys.exit(main())
