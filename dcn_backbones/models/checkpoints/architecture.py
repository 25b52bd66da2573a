"""Which of this project's models a state dict belongs to, read off its names and shapes."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .values import offset_groups

# Blocks of each stage, whether they are bottlenecks, and groups of their 3x3 convolutions.
_BACKBONES = {
    ((2, 2, 2, 2), False, 1): "resnet18",
    ((3, 4, 6, 3), True, 1): "resnet50",
    ((3, 4, 23, 3), True, 1): "resnet101",
    ((3, 4, 23, 3), True, 32): "resnext101_32x4d",
}


def infer_model(state: Mapping[str, Tensor]) -> str:
    """Name of the model that a state in our names belongs to.

    Raises:
        ValueError: When it is none of the zoo's networks, or a plain one, which both generations start from.
    """
    depths = tuple(_depth(state, stage) for stage in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in state
    backbone = _BACKBONES.get((depths, bottleneck, _conv_groups(state)))
    if backbone is None:
        raise ValueError(
            f"no model has {depths} {'bottlenecks' if bottleneck else 'basic blocks'}; "
            f"expected one of {', '.join(_BACKBONES.values())}."
        )
    generations = {f"dcnv{1 + modulated}" for _, modulated in _branches(state).values()}
    if len(generations) != 1:
        found = "both kinds of" if generations else "no"
        raise ValueError(
            f"the checkpoint has {found} offset branches, which does not tell what to make of it; "
            f"expected the model to be given, dcnv1_{backbone} or dcnv2_{backbone}."
        )
    return f"{generations.pop()}_{backbone}"


def infer_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``timm.create_model`` that make a model fit a state in our names.

    A stage with any offset branch is deformable as a whole: plain convolutions in it start as such.

    Raises:
        ValueError: When the channels of an offset branch are no whole number of offset groups.
    """
    arguments: dict[str, Any] = {"num_classes": len(state["fc.weight"]) if "fc.weight" in state else 0}
    if "conv1.weight" in state and state["conv1.weight"].shape[1] != 3:
        arguments["in_chans"] = state["conv1.weight"].shape[1]
    branches = _branches(state)
    if branches:
        arguments["deform_stages"] = sorted({int(re.match(r"layer(\d)", key)[1]) + 1 for key in branches})
        arguments["offset_groups"] = max(groups for groups, _ in branches.values())
    return arguments


def _branches(state: Mapping[str, Tensor]) -> dict[str, tuple[int, bool]]:
    """Offset groups, and whether there is a mask, of every offset branch."""
    return {key: offset_groups(value) for key, value in state.items() if key.endswith(".conv_offset.weight")}


def _depth(state: Mapping[str, Tensor], stage: int) -> int:
    return len({match[1] for key in state if (match := re.match(rf"layer{stage}\.(\d+)\.", key))})


def _conv_groups(state: Mapping[str, Tensor]) -> int:
    weight = state.get("layer1.0.conv2.weight")
    return len(weight) // weight.shape[1] if weight is not None and weight.ndim == 4 else 1
