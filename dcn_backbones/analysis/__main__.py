"""What networks look at in a photograph, side by side: samples, receptive fields, saliency regions.

python -m dcn_backbones.analysis photo.jpg --points 320,240 --out looking
python -m dcn_backbones.analysis photo.jpg --model resnet50 --model dcnv1_resnet50 --model dcnv2_resnet50 \\
    --points 320,240 50,60 --layer layer4 --out looking
python -m dcn_backbones.analysis photo.jpg --model local-dir:exported --classes 3 --annotations \\
    instances_val.json --images 100 --out looking

DIR/index.html shows everything; the pictures are beside it, as PNG and SVG, on light and on dark.

Exit status: 0 done, 2 called wrongly.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from torch import nn
from tqdm import tqdm

from dcn_backbones.analysis import (
    VIEWS,
    AnnotatedImage,
    ClassLogit,
    Preprocessing,
    SpatialSupport,
    SupportSettings,
    dilation_by_size,
    format_dilation,
    format_health,
    load_model,
    offset_distribution,
    offset_health,
    plot_distribution,
    plot_support,
    plot_view,
    read_annotations,
    read_image,
    spatial_support,
)
from dcn_backbones.analysis.page import Report, figure_name, picture_name, write_page
from dcn_backbones.analysis.photograph import image_centre
from dcn_backbones.analysis.plot.figure import check_matplotlib
from dcn_backbones.command import CommandParser, exit_status, point_argument
from dcn_backbones.files import check_folder
from dcn_backbones.layers import DeformConv2d

Models = list[tuple[str, nn.Module]]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__, "python -m dcn_backbones.analysis")
    parser.add_argument("image", metavar="IMAGE", help="file that holds a photograph")
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="a model that timm knows, local-dir:FOLDER or hf-hub:OWNER/NAME; once for each model",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write into")
    parser.add_argument(
        "--points",
        nargs="+",
        type=point_argument,
        metavar="X,Y",
        help="pixels of the photograph (default: its centre)",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        type=int,
        default=[],
        metavar="N",
        help="numbers of classes whose logits to look at",
    )
    parser.add_argument("--layer", metavar="NAME", help="layer of the points (default: the last feature map)")
    parser.add_argument(
        "--levels",
        type=_count,
        default=3,
        metavar="N",
        help="layers that samples go through (default: %(default)s)",
    )
    parser.add_argument(
        "--bound",
        type=float,
        default=0.2,
        metavar="X",
        help="of the saliency region's error (default: %(default)s)",
    )
    parser.add_argument(
        "--annotations",
        metavar="JSON",
        help="also tell effective dilation by object size: COCO boxes, images beside it",
    )
    parser.add_argument("--images", type=_count, metavar="N", help="of them, only the first (default: all)")
    parser.add_argument(
        "--short-side",
        type=_count,
        metavar="N",
        help="their shorter side in the network's input (default: as it is)",
    )
    options = parser.parse_args(arguments)
    if not options.annotations and (options.images or options.short_side):
        parser.error("--images and --short-side are of --annotations JSON")
    return options


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of them; expected 1 or more")
    return int(text)


def analyse(options: argparse.Namespace) -> None:
    check_matplotlib()
    check_folder(options.out)
    photograph = read_image(options.image)
    annotated = _annotated(options)
    models = [(name, load_model(name)) for name in options.model or ["dcnv2_resnet18"]]
    if annotated and not any(_is_deformable(model) for _, model in models):
        raise ValueError(
            "--annotations asks for the dilation of deformable layers, and no model has any; "
            "expected one such as dcnv2_resnet18."
        )
    nodes = _look_at_all(models, photograph, options)
    reports = [*_health(models, photograph, options.out), *_dilation(models, annotated, options.short_side)]
    write_page(options.out / "index.html", Path(options.image).name, nodes, reports)
    print(f"wrote {options.out / 'index.html'}")


def _annotated(options: argparse.Namespace) -> list[AnnotatedImage]:
    images = read_annotations(options.annotations)[: options.images] if options.annotations else []
    if options.annotations and not images:
        raise ValueError(f"{options.annotations} has no images; expected at least one.")
    return images


def _look_at_all(
    models: Models, photograph: Image.Image, options: argparse.Namespace
) -> list[list[SpatialSupport]]:
    """The views of every node in every model, drawn too."""
    points = options.points or ([] if options.classes else [image_centre(photograph)])
    settings, nodes = SupportSettings(options.layer, options.levels, options.bound), []
    with tqdm(unit=" masked images", disable=None, leave=False) as progress:
        for target in [*points, *map(ClassLogit, options.classes)]:
            nodes.append(_look(models, photograph, target, settings, progress))
            options.out.mkdir(parents=True, exist_ok=True)  # not before anything that may be wrong
            _draw(options.out, len(nodes), nodes[-1])
    return nodes


def _look(
    models: Models,
    photograph: Image.Image,
    target: tuple[float, float] | ClassLogit,
    settings: SupportSettings,
    progress: tqdm,
) -> list[SpatialSupport]:
    """The views of one node in every model."""
    found = []
    for name, model in models:
        progress.set_description(f"looking with {name}")
        found.append(spatial_support(name, model, photograph, target, settings, progress.update))
    return found


def _draw(folder: Path, node: int, supports: list[SpatialSupport]) -> None:
    for suffix in ("png", "svg"):
        for background in ("light", "dark"):
            plot_support(supports, folder / figure_name(node, background, suffix), background)
        for column, support in enumerate(supports, 1):
            for view in VIEWS:
                plot_view(support, view, folder / picture_name(node, column, view, suffix))


def _health(models: Models, photograph: Image.Image, folder: Path) -> Iterator[Report]:
    for column, (name, model) in enumerate(models, 1):
        if _is_deformable(model):
            image = Preprocessing(model)(photograph)
            layers, picture = offset_distribution(model, image), f"model{column}_offsets_{{background}}.svg"
            for background in ("light", "dark"):
                plot_distribution(layers, folder / picture.format(background=background), background)
            table = format_health(offset_health(model, image))
            yield Report(f"Offsets and modulation in this photograph: {name}", table, picture)


def _dilation(models: Models, annotated: list[AnnotatedImage], short_side: int | None) -> Iterator[Report]:
    for name, model in models:
        if annotated and _is_deformable(model):
            title = f"Effective dilation by object size: {name}"
            shown = tqdm(annotated, desc=title, unit="image", disable=None, leave=False)
            yield Report(title, format_dilation(dilation_by_size(model, shown, short_side)))


def _is_deformable(model: nn.Module) -> bool:
    return any(isinstance(module, DeformConv2d) for module in model.modules())


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return exit_status(lambda: analyse(options), error=2)


if __name__ == "__main__":
    sys.exit(main())
