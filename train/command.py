"""How the scripts of `train/` and `hub/` are called and how they end: errors are one sentence.

Exit status: 0 done, 1 an error, 2 the command was called wrongly.
"""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn


class UsageError(ValueError):
    """The command was called wrongly: what it names cannot be what was meant."""


class CommandParser(argparse.ArgumentParser):
    """Shows a script's docstring, with its examples, as help; answers wrong arguments in one sentence."""

    def __init__(self, documentation: str) -> None:
        super().__init__(
            description=documentation,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} ({self.prog} --help shows examples)\n")


def run_command(main: Callable[[], None]) -> None:
    """Call `main`; an error that its input caused ends the process with its message."""
    try:
        main()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
