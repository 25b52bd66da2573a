"""Many models in one call: a bar, and one that fails does not keep the others from their turn."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from tqdm import tqdm

from dcn_backbones.command import INPUT_ERRORS, UsageError

Target = TypeVar("Target")


def for_each(targets: Sequence[Target], doing: str, handle: Callable[[Target], None]) -> bool:
    """Handle each target; returns whether all went well.

    The error of one that failed is printed; only a UsageError, which concerns the whole call, is raised.
    """
    all_well = True
    for target in tqdm(targets, desc=doing, unit="model", disable=None if len(targets) > 1 else True):
        try:
            handle(target)
        except UsageError:
            raise
        except INPUT_ERRORS as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            all_well = False
    return all_well
