"""How the scripts end: wrong input is one sentence on stderr and exit status 1, not a traceback."""

import sys
from collections.abc import Callable


def run_command(main: Callable[[], None]) -> None:
    """Call `main`; an error that its input caused ends the process with its message."""
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
