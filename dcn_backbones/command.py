"""How every command is called and how it ends: `--help` shows examples, an error is one sentence.

Exit status: 0 done, 1 an error, 2 the command was called wrongly.
"""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

# What a wrong input raises; anything else is a mistake in the code, and keeps its traceback.
INPUT_ERRORS = (ImportError, OSError, ValueError, FloatingPointError)


class UsageError(ValueError):
    """The command was called wrongly: what it names cannot be what was meant."""


class CommandParser(argparse.ArgumentParser):
    """Shows its documentation, with examples, as help; answers wrong arguments in one sentence.

    Args:
        documentation: What the command does and how it is called, in lines as they are to be shown.
        prog: What the command is called by, if not by its file's name.
    """

    def __init__(self, documentation: str, prog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=documentation,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} ({self.prog} --help shows examples)\n")


def point_argument(text: str) -> tuple[float, float]:
    """Type of an argument ``X,Y``, in pixels."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a point; expected X,Y in pixels, as 120,80"
        ) from None
    return x, y


def exit_status(command: Callable[[], bool | None], error: int = 1) -> int:
    """Run a command and return its exit status; of an error that its input caused it prints the message.

    Args:
        command: What is to be done; it returns False when something that it checked is wrong.
        error: The status for an error; 2 where all of the input is named in the call, models and files.
    """
    try:
        return int(command() is False)
    except UsageError as problem:
        status, sentence = 2, str(problem)
    except INPUT_ERRORS as problem:
        status, sentence = error, str(problem)
    print(f"error: {sentence}", file=sys.stderr)
    return status


def run_command(main: Callable[[], bool | None]) -> NoReturn:
    """End the process with the `exit_status` of `main`."""
    sys.exit(exit_status(main))
