"""State dicts in: the names that other projects give the same parameters, turned into ours."""

import re
from typing import Any

from torch import nn

_RENAMES = (
    (re.compile(r"^(?:module\.|backbone\.)+"), ""),  # DistributedDataParallel, a detector's backbone
    (re.compile(r"\.(conv\d)_offset\."), r".\1.conv_offset."),  # mmcv before 2.0
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """timm's hook between a weight file and ``load_state_dict``: renames keys, never touches a value.

    A plain network's state needs no renaming: the deformable layers complete it themselves while they load.

    Args:
        state_dict: State of a network of the same architecture, in another project's names.
        model: The network to be loaded; timm passes it, nothing depends on it.
    """
    return {_our_name(key): value for key, value in state_dict.items()}


def _our_name(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key
