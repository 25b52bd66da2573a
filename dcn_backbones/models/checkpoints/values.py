"""What other projects compute differently with the same parameters, made up for exactly.

Every function takes a state dict in our names and changes it in place; the tensors themselves are left alone.
"""

import re

import torch
from torch import Tensor

State = dict[str, Tensor]

NORM_EPS = 1e-5  # of every batch norm here


def fold_conv_biases(state: State) -> None:
    """Take a convolution's bias off the mean of the batch norm behind it: ours have none.

    CharlesShang's and chengdazhi's layers always have one, and use it whatever their ``bias`` argument says.
    """
    for key in [key for key in state if re.search(r"(^|\.)conv\d\.bias$", key)]:
        mean = re.sub(r"conv(\d)\.bias$", r"bn\1.running_mean", key)
        if mean in state:
            state[mean] = state[mean] - state.pop(key)


def scale_modulated(state: State, mask_scale: float) -> None:
    """Multiply the weights of modulated layers: ``W * (s * sigmoid(m))`` is ``(s * W) * sigmoid(m)``."""
    for key in [key for key in state if key.endswith(".conv_offset.weight")]:
        weight = f"{key.removesuffix('conv_offset.weight')}weight"
        if mask_scale != 1 and weight in state and offset_groups(state[key])[1]:
            state[weight] = state[weight] * mask_scale


def offset_groups(weight: Tensor) -> tuple[int, bool]:
    """Number of offset groups, and whether there is a mask, of an offset branch's weight.

    Args:
        weight: ``(3*G*K, C_in, kh, kw)`` with a mask and ``(2*G*K, C_in, kh, kw)`` without.

    Raises:
        ValueError: When the channels are neither. Both is possible: 54 are 2 groups with a mask or 3 without;
            then the number that divides ``C_in`` is right, and the one with a mask should both do.
    """
    channels, in_channels, height, width = (*weight.shape, 1, 1, 1, 1)[:4]
    for modulated, per_group in ((True, 3 * height * width), (False, 2 * height * width)):
        groups, rest = divmod(channels, per_group)
        if not rest and groups and in_channels % groups == 0:
            return groups, modulated
    raise ValueError(
        f"an offset branch has {channels} output channels; expected {2 * height * width} (offsets) or "
        f"{3 * height * width} (offsets and mask) times a divisor of its {in_channels} input channels."
    )


def change_norm_eps(state: State, eps: float) -> None:
    """Add to each variance what a batch norm of another ``eps`` adds more than ours."""
    for key in [key for key in state if key.endswith("running_var")]:
        if eps != NORM_EPS:
            state[key] = state[key] + (eps - NORM_EPS)


def reverse_input_channels(state: State) -> None:
    """Turn a stem that takes blue, green and red into one that takes red, green and blue."""
    if "conv1.weight" in state:
        state["conv1.weight"] = state["conv1.weight"].flip(1)


def complete_norms(state: State) -> None:
    """Add the counter of batches where frozen batch norms have none; evaluation does not use it."""
    for key in [key for key in state if key.endswith("running_mean")]:
        state.setdefault(f"{key.removesuffix('running_mean')}num_batches_tracked", torch.tensor(0))


def pop_input_norm(state: State, eps: float) -> tuple[Tensor, Tensor] | None:
    """Take mxnet's batch norm of the image out of a state.

    Its gamma is fixed to one, whatever the stored value. It cannot go into the stem, whose zero padding comes
    after it, but it is a normalisation like any other.

    Returns:
        The mean and the standard deviation that it normalises with, ``(C_in,)`` each, or None without one.
    """
    names = ("running_mean", "running_var", "bias", "weight")
    if not all(f"bn_data.{name}" in state for name in names):
        return None
    mean, variance, bias, _ = (state.pop(f"bn_data.{name}").double() for name in names)
    deviation = (variance + eps).sqrt()
    return mean - bias * deviation, deviation
