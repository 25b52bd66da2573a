"""From another project's state dict to ours: the network picked out, renamed, its conventions made up for."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .layouts import LAYOUTS, Layout, find_layout, unwrapped
from .torchvision_layers import TorchvisionNames, join_masks
from .values import (
    State,
    change_norm_eps,
    complete_norms,
    fold_conv_biases,
    pop_input_norm,
    reverse_input_channels,
    scale_modulated,
)

_BOTTLENECK = r"[._]conv3[._]weight$|_branch2c_weight$"


@dataclass(frozen=True)
class Imported:
    """A network's state in our names.

    Attributes:
        state: Tensors by our names.
        layout: Name of the layout that it came in.
        their_keys: The key that each of ours had there.
        left_out: Keys of what is no part of the network: a detector's neck and heads.
        pixel_mean: What to take off an image's red, green and blue in 0 to 255; None where that is not known.
        pixel_std: What to divide them by then.
    """

    state: State
    layout: str
    their_keys: dict[str, str]
    left_out: tuple[str, ...] = ()
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None


def import_state(
    state: Mapping[str, Any],
    layout: str | None = None,
    *,
    style: str | None = None,
    input_order: str = "rgb",
    pixel_mean: Sequence[float] | None = None,
    pixel_std: Sequence[float] | None = None,
    norm_eps: float | None = None,
    names: TorchvisionNames | None = None,
) -> Imported:
    """A state dict of another project in our names, computing here what it computes there.

    What can be converted is converted exactly, and the rest is refused: bottlenecks with their stride in the
    first 1x1 convolution sample other pixels, whatever the weights.

    Args:
        state: Tensors or numpy arrays by the other project's names; a whole detector's, too.
        layout: One of `LAYOUTS`; recognised by the names when it is None.
        style: ``pytorch`` or ``caffe``, as in mmdetection; needed where the names do not tell it (detectron2:
            ``STRIDE_IN_1X1: False`` is ``pytorch``).
        input_order: ``rgb``, or ``bgr`` for a network that was trained on blue, green and red.
        pixel_mean: What was taken off the pixels there, in 0 to 255 and in ``input_order``.
        pixel_std: What they were divided by then.
        norm_eps: What batch norms add to the variance there, if not what the layout's usually do.
        names: Where the offset branches are, for the layout ``torchvision``.

    Raises:
        ValueError: When the layout is unknown, two keys become one, a value is no array, or the network is
            one that no weights here can equal.
    """
    layout = layout or find_layout(state)
    conventions = _conventions(layout)
    names = (names or TorchvisionNames()) if layout == "torchvision" else None
    network, left_out = _pick_network(state, conventions)
    _check_style(style, conventions, layout, network)
    their_keys = _rename(network, names.our_key if names else conventions.our_key)
    ours = {key: _tensor(theirs, network[theirs]) for key, theirs in their_keys.items()}
    join_masks(ours)
    scale_modulated(ours, names.mask_scale if names else conventions.mask_scale)
    fold_conv_biases(ours)
    norm_eps = conventions.norm_eps if norm_eps is None else norm_eps
    mean, std = _normalisation(ours, norm_eps, pixel_mean, pixel_std)
    change_norm_eps(ours, norm_eps)
    if _is_bgr(input_order):
        reverse_input_channels(ours)
        mean, std = mean and mean[::-1], std and std[::-1]
    complete_norms(ours)
    return Imported(ours, layout, their_keys, left_out, mean, std)


def _conventions(layout: str) -> Layout:
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is unknown; expected one of {', '.join(LAYOUTS)}.")
    return LAYOUTS[layout]


def _pick_network(state: Mapping[str, Any], conventions: Layout) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The network's entries without the prefix that a detector gives them, and the keys of the rest."""
    entries = {unwrapped(key): value for key, value in state.items()}
    prefix = next((p for p in conventions.prefixes if any(key.startswith(p) for key in entries)), "")
    network = {
        key if re.search(conventions.elsewhere, key) else key.removeprefix(prefix): value
        for key, value in entries.items()
        if key.startswith(prefix) or re.search(conventions.elsewhere, key)
    }
    left_out = [key for key in entries if not key.startswith(prefix) and key not in network]
    return network, tuple(left_out)


def _check_style(style: str | None, conventions: Layout, layout: str, keys: Mapping[str, Any]) -> None:
    if style not in (None, "pytorch", "caffe"):
        raise ValueError(f"style={style!r} is unknown; expected 'pytorch' or 'caffe'.")
    if not any(re.search(_BOTTLENECK, key) for key in keys):
        return  # there is one place for the stride in a basic block
    told = "caffe" if any(re.search(conventions.caffe_mark, key) for key in keys) else conventions.style
    style = style or told
    if style is None:
        raise ValueError(
            f"the names of a {layout} checkpoint do not tell where its bottlenecks have their stride; "
            "expected style='pytorch' to be given if its configuration says STRIDE_IN_1X1: False (the "
            "default there, True, is 'caffe' and cannot be converted)."
        )
    if style == "caffe":
        raise ValueError(
            "the checkpoint's bottlenecks have their stride in the first 1x1 convolution (style='caffe'); "
            "no weights make the networks here, which have it in the 3x3, sample those pixels; expected a "
            "checkpoint of style='pytorch'."
        )


def _rename(network: Mapping[str, Any], our_key: Callable[[str], str]) -> dict[str, str]:
    their_keys: dict[str, str] = {}
    for theirs in network:
        ours = our_key(theirs)
        if ours in their_keys:
            raise ValueError(f"{their_keys[ours]} and {theirs} are both {ours} here; expected one of them.")
        their_keys[ours] = theirs
    return their_keys


def _tensor(key: str, value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))  # a copy that can be written to, whatever the file allows
    if not isinstance(value, Tensor):
        raise ValueError(f"{key} is of type {type(value).__name__}; expected a tensor or a numpy array.")
    return value


def _is_bgr(input_order: str) -> bool:
    if input_order not in ("rgb", "bgr"):
        raise ValueError(f"input_order={input_order!r} is unknown; expected 'rgb' or 'bgr'.")
    return input_order == "bgr"


def _normalisation(
    state: State, eps: float, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation of the pixels, those of a batch norm of the image included."""
    if (mean is None) != (std is None):
        raise ValueError(
            f"pixel_mean={mean} and pixel_std={std} were given; expected both of them or neither."
        )
    norm = pop_input_norm(state, eps)
    if norm is not None:
        outer_mean, outer_std = (
            torch.tensor(value, dtype=torch.float64) for value in (mean or (0.0,), std or (1.0,))
        )
        mean, std = (outer_mean + outer_std * norm[0]).tolist(), (outer_std * norm[1]).tolist()
    return (None, None) if mean is None else (tuple(mean), tuple(std))
