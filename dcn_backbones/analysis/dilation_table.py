"""Effective dilation by the size of the object that a filter is on.

Source: Dai et al., "Deformable Convolutional Networks", 2017, Table 2.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .annotations import AnnotatedImage, network_input
from .dilation import effective_dilation

CLASSES = ("small", "medium", "large", "background")
LARGEST_AREA = {"small": 96**2, "medium": 224**2}  # in pixels of the network's input
BACKGROUND, LEFT_OUT = CLASSES.index("background"), -1


@dataclass(frozen=True)
class DilationBySize:
    """Effective dilation of one layer's filters on small, medium and large objects and on the background.

    Attributes:
        layer: The layer's name in its model.
        mean: ``(4,)`` in float64, over all filters of all images, in pixels of the layer's input; NaN without
            any.
        std: ``(4,)``, standard deviation over the same filters.
        count: ``(4,)`` in int64, number of filters.
        image_means: ``(I, 4)``, mean of each image's filters, NaN where it has none.
    """

    layer: str
    mean: Tensor
    std: Tensor
    count: Tensor
    image_means: Tensor

    def above_background(self) -> tuple[Tensor, Tensor, Tensor]:
        """How much larger it is on objects than on the background of the same image, by the objects' size.

        Filters of one image are much alike, so that their number says little; images are independent.

        Returns:
            ``(3,)`` each: mean over images, its standard error, and the number of images.
        """
        differences = self.image_means[:, :BACKGROUND] - self.image_means[:, BACKGROUND:]
        known = ~differences.isnan()
        number = known.sum(0)
        mean = differences.nanmean(0)
        deviations = torch.where(known, differences - mean, 0.0)
        return mean, (deviations.square().sum(0) / (number - 1) / number).sqrt(), number


def dilation_by_size(
    model: nn.Module,
    images: Iterable[AnnotatedImage],
    short_side: int | None = None,
    plain: bool = False,
) -> list[DilationBySize]:
    """Effective dilation of a model's deformable layers, by the size of the objects that filters are on.

    A filter is on the smallest box that its centre is in. Sizes are areas of boxes in pixels of the network's
    input: small up to 96**2, medium up to 224**2.

    Args:
        model: A timm network with deformable layers.
        images: From `read_annotations`; they reach the network whole.
        short_side: Pixels of their shorter side in the network's input; those of the files when None.
        plain: Whether plain convolutions of more than one sample are measured too.

    Raises:
        ValueError: When the model has no such layers, or there are no images.
    """
    sums: dict[str, list[Tensor]] = {}
    for annotated in images:
        image, boxes, left_out = network_input(model, annotated, short_side)
        for entry in effective_dilation(model, image, plain):
            classes = object_classes(entry.centres, boxes, left_out)
            sums.setdefault(entry.layer, []).append(_moments(entry.values, classes))
    if not sums:
        raise ValueError("there are no images; expected at least one.")
    return [_statistics(layer, torch.stack(moments)) for layer, moments in sums.items()]


def object_classes(centres: Tensor, boxes: Tensor, left_out: Tensor) -> Tensor:
    """Which of `CLASSES` centres of filters belong to, by index, ``LEFT_OUT`` for none.

    Args:
        centres: ``(H, W, 2)``, ``(x, y)``; ``(0, 0)`` is the centre of the first pixel.
        boxes: ``(B, 4)``, ``(x1, y1, x2, y2)`` of objects; ``(0, 0)`` is the corner of the first pixel.
        left_out: ``(L, 4)``, boxes in which only objects count, not the background.

    Returns:
        ``(H, W)`` in int64.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    sizes = sum((areas > area).long() for area in LARGEST_AREA.values())
    classes = torch.full(centres.shape[:2], BACKGROUND)
    classes[_inside(centres, left_out).any(-1)] = LEFT_OUT
    for index in areas.argsort(descending=True).tolist():  # the smallest last
        classes[_inside(centres, boxes[index : index + 1])[..., 0]] = sizes[index]
    return classes


def format_dilation(layers: Sequence[DilationBySize]) -> str:
    """A table: a header, then for each layer mean and standard deviation of each class, and of how many."""
    width = max(len("layer"), *(len(entry.layer) for entry in layers))
    lines = ["  ".join([f"{'layer':<{width}}", *(f"{name:>13}" for name in CLASSES)])]
    for entry in layers:
        cells = (f"{f'{m:.2f} +- {s:.2f}':>13}" for m, s in zip(entry.mean, entry.std, strict=True))
        lines.append("  ".join([f"{entry.layer:<{width}}", *cells]))
    counts = (f"{int(count):>13}" for count in layers[-1].count)
    lines.append("  ".join([f"{'filters':<{width}}", *counts]) + f"  (in {layers[-1].layer})")
    return "\n".join(lines)


def format_above_background(layers: Sequence[DilationBySize]) -> str:
    """A table of `DilationBySize.above_background`: mean, standard error and number of images."""
    width = max(len("layer"), *(len(entry.layer) for entry in layers))
    lines = ["  ".join([f"{'layer':<{width}}", *(f"{name:>22}" for name in CLASSES[:BACKGROUND])])]
    for entry in layers:
        columns = zip(*entry.above_background(), strict=True)
        cells = (f"{f'{mean:+.3f} +- {error:.3f} (n={number})':>22}" for mean, error, number in columns)
        lines.append("  ".join([f"{entry.layer:<{width}}", *cells]))
    return "\n".join(lines)


def _inside(centres: Tensor, boxes: Tensor) -> Tensor:
    """Whether centres ``(H, W, 2)`` are in boxes ``(B, 4)``: ``(H, W, B)``."""
    positions = centres[:, :, None] + 0.5
    return ((positions >= boxes[:, :2]) & (positions < boxes[:, 2:])).all(-1)


def _moments(values: Tensor, classes: Tensor) -> Tensor:
    """Number, sum and sum of squares of values ``(H, W, G)`` in each class ``(H, W)``: ``(3, 4)``."""
    members = [values[classes == index] for index in range(len(CLASSES))]
    return torch.tensor([[m.numel(), m.sum(), m.square().sum()] for m in members], dtype=torch.float64).T


def _statistics(layer: str, moments: Tensor) -> DilationBySize:
    """Of the moments of every image, ``(I, 3, 4)``."""
    count, total, squares = moments.sum(0)
    mean = total / count
    return DilationBySize(
        layer=layer,
        mean=mean,
        std=(squares / count - mean.square()).clamp(min=0).sqrt(),
        count=count.long(),
        image_means=moments[:, 1] / moments[:, 0],
    )
