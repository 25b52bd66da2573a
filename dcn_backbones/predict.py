"""`python -m dcn_backbones.predict IMAGE...`: what a network sees in photographs, in words."""

import argparse
import sys

from dcn_backbones.analysis import classify, draw_sampling, load_model, read_image


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dcn_backbones.predict", description="What a network sees in photographs."
    )
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
        type=_point,
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


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a point; expected X,Y in pixels, as 120,80"
        ) from None
    return x, y


def predict(options: argparse.Namespace) -> None:
    model = load_model(options.model)
    for path in options.images:
        predictions = classify(model, read_image(path), options.top)
        print(path)
        for prediction in predictions:
            print(f"  {prediction.probability:6.1%}  {prediction.words}")
    if options.sampling:
        draw_sampling(model, read_image(options.images[0]), options.sampling, options.point)
        print(f"sampling locations in {options.images[0]}: {options.sampling}")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        predict(options)
    except (ImportError, OSError, ValueError) as error:
        print(f"predict: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
