"""Draws boxes, and masks where the detector has them, around what a detector finds in a photograph.

python -m dcn_backbones.detect photo.jpg
python -m dcn_backbones.detect photo.jpg --detector runs/NAME
python -m dcn_backbones.detect photo.jpg --detector runs/NAME --out found.jpg --threshold 0.7

Without --detector it is torchvision's Mask R-CNN of COCO, 177 MB, which is downloaded once.

Exit status: 0 done, 2 called wrongly.
"""

import argparse
import sys
from pathlib import Path

from dcn_backbones.analysis import read_image
from dcn_backbones.command import CommandParser, exit_status
from dcn_backbones.detection import (
    check_picture,
    coco_detector,
    detect,
    draw_detections,
    load_detector,
    save_picture,
)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__, "python -m dcn_backbones.detect")
    parser.add_argument("image", metavar="IMAGE", help="file that holds a photograph")
    parser.add_argument("--detector", metavar="FOLDER", help="a trained detector, as save_detector writes it")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        default=Path("detections.png"),
        help="picture to write (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=_share,
        metavar="SCORE",
        default=0.5,
        help="lowest score, 0 to 1 (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a score; expected a number from 0 to 1")
    return share


def find(options: argparse.Namespace) -> None:
    check_picture(options.out)
    image = read_image(options.image)
    detector, categories = load_detector(options.detector) if options.detector else coco_detector()
    found = detect(detector, image, options.threshold)
    save_picture(draw_detections(image, found, categories), options.out)
    for label, score, box in zip(
        *(found[name].tolist() for name in ("labels", "scores", "boxes")), strict=True
    ):
        left, top, right, bottom = (round(edge) for edge in box)
        print(f"  {score:6.1%}  {categories[label - 1]}  {left},{top} to {right},{bottom}")
    print(f"{len(found['labels'])} detections in {options.image}: {options.out}")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return exit_status(lambda: find(options), error=2)


if __name__ == "__main__":
    sys.exit(main())
