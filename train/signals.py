"""SIGTERM and SIGINT as a request: the step is finished and saved before the process ends."""

import signal
from types import FrameType

INTERRUPTED = 75  # exit status EX_TEMPFAIL of sysexits.h: try again


class Interrupted(Exception):
    """A signal has ended the run, and its last step is saved."""


class StopSignals:
    """Notes the signals inside a `with` block; a second SIGINT ends the process as usual."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        self._previous = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
