"""What is analysed: a point of a layer, the logit of a class, or what a detector makes of a region.

A node's response to an image is a vector. Where a method needs one number, as for a gradient, it is the mean
of that vector; a node of a single channel or class has no other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .record import pixels_per_unit, point_on_image
from .running import check_images, evaluating, is_detector, run


@dataclass(frozen=True)
class Point:
    """One unit of a layer's output.

    Attributes:
        layer: Name of a module of the model whose output is a feature map, ``(N, C, H, W)``.
        x: Column of the unit, counted from 0.
        y: Row of the unit, counted from 0.
        channel: Its one channel that is meant; all of them when None.
    """

    layer: str
    x: int
    y: int
    channel: int | None = None

    def responses(self, model: nn.Module, images: Tensor) -> Tensor:
        """The unit's channels for images ``(N, C, H, W)``: ``(N, C_layer)``, or ``(N, 1)`` for one channel.

        Raises:
            ValueError: When the model has no such layer, the layer has no map, or the point is outside it.
        """
        features = feature_map(model, images, self.layer)
        height, width = features.shape[2:]
        if not (0 <= self.x < width and 0 <= self.y < height):
            raise ValueError(
                f"point ({self.x}, {self.y}) is outside the map of {self.layer}; "
                f"expected x from 0 to {width - 1} and y from 0 to {height - 1}."
            )
        return _one_of(features[:, :, self.y, self.x], self.channel, f"channels of {self.layer}")


@dataclass(frozen=True)
class ClassLogit:
    """One output of a classifier, before the softmax.

    Attributes:
        index: Number of the class, counted from 0.
    """

    index: int

    def responses(self, model: nn.Module, images: Tensor) -> Tensor:
        """The logit for images ``(N, C, H, W)``: ``(N, 1)``.

        Raises:
            ValueError: When the model is no classifier, or has no such class.
        """
        logits = None if is_detector(model) else model(images)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ValueError(f"{type(model).__name__} gives no logits, (N, classes); expected a classifier.")
        return _one_of(logits, self.index, "classes")


@dataclass(frozen=True)
class RoI:
    """What the head of a detector makes of one region: the features behind its two fully connected layers.

    Source: Zhu et al., "Deformable ConvNets v2", 2019, Figure 2. The model is built as torchvision's
    ``GeneralizedRCNN`` is: ``backbone``, and ``roi_heads`` with ``box_roi_pool``, ``box_head`` and
    ``box_predictor``. The region is given, so that nothing is proposed, and images are the backbone's input:
    normalised and resized, as ``model.transform`` makes them.

    Attributes:
        box: ``(x1, y1, x2, y2)`` in pixels of the backbone's input.
        category: The class whose logit is meant instead of the features; 0 is the background.
    """

    box: tuple[float, float, float, float]
    category: int | None = None

    def responses(self, model: nn.Module, images: Tensor) -> Tensor:
        """The features for images ``(N, C, H, W)``: ``(N, F)``, or ``(N, 1)`` for one category.

        Raises:
            ValueError: When the model is no such detector, or the box is empty or not in the image.
        """
        if not is_detector(model):
            raise ValueError(
                f"{type(model).__name__} is no detector; expected backbone and roi_heads, as torchvision's."
            )
        self._check_box(images.shape[3], images.shape[2])
        features = run(model, images)
        features = {"0": features} if isinstance(features, Tensor) else features
        boxes, sizes = [images.new_tensor([self.box])] * len(images), [tuple(images.shape[2:])] * len(images)
        head = model.roi_heads.box_head(model.roi_heads.box_roi_pool(features, boxes, sizes))
        if self.category is None:
            return head.flatten(1)
        return _one_of(model.roi_heads.box_predictor(head)[0], self.category, "categories")

    def _check_box(self, width: int, height: int) -> None:
        x1, y1, x2, y2 = self.box
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise ValueError(
                f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) is empty or not in the image; "
                f"expected x1 < x2 from 0 to {width} and y1 < y2 from 0 to {height}."
            )


Node = Point | ClassLogit | RoI


def point_at(model: nn.Module, image: Tensor, layer: str, position: tuple[float, float]) -> Point:
    """The unit of a layer that is nearest to a pixel.

    Args:
        model: Any network.
        image: ``(1, C, H, W)``, on the model's device.
        layer: As in `Point`.
        position: ``(x, y)`` in pixels of the image; unit ``j`` lies on pixel ``S * j``, as in `record`.

    Raises:
        ValueError: When the position is outside the image, or the layer not there or without a map.
    """
    check_images(image, one=True)
    image_size = (image.shape[3], image.shape[2])
    x, y = point_on_image(position, image_size).tolist()
    with evaluating(model), torch.no_grad():
        features = feature_map(model, image, layer)
    stride = pixels_per_unit(features, image_size)
    x, y = (min(round(p / stride), n - 1) for p, n in zip((x, y), features.shape[:1:-1], strict=True))
    return Point(layer, max(x, 0), max(y, 0))


def feature_map(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    """What a layer puts out for images, ``(N, C, H, W)``.

    Raises:
        ValueError: When the model has no such layer, it does not run, or what it puts out is no feature map.
    """
    with output_of(get_layer(model, layer)) as outputs:
        run(model, images)
    found = outputs[-1] if outputs else None
    if not isinstance(found, Tensor) or found.ndim != 4:
        gives = f"gives {tuple(found.shape)}" if isinstance(found, Tensor) else "gives no tensor"
        raise ValueError(f"layer {layer!r} {gives}; expected one with a feature map, (N, C, H, W).")
    return found


def get_layer(model: nn.Module, name: str) -> nn.Module:
    """The module of a name.

    Raises:
        ValueError: When there is none, naming those that are.
    """
    module, path = model, ""
    for part in name.split("."):
        children = dict(module.named_children())
        if part not in children:
            known = ", ".join(f"{path}{child}" for child in children) or "none, it ends there"
            raise ValueError(
                f"{type(model).__name__} has no layer {name!r}; expected one of {known}, or one inside."
            )
        module, path = children[part], f"{path}{part}."
    return module


@contextmanager
def output_of(module: nn.Module) -> Iterator[list]:
    """A context that notes what a module puts out, one entry for each of its runs."""
    outputs: list = []
    handle = module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def _one_of(values: Tensor, index: int | None, what: str) -> Tensor:
    """Values ``(N, F)`` or, of an index, ``(N, 1)``."""
    if index is None:
        return values
    if not 0 <= index < values.shape[1]:
        raise ValueError(f"{index} is none of the {what}; expected 0 to {values.shape[1] - 1}.")
    return values[:, index : index + 1]
