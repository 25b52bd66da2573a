"""Requests to the Hub: what may pass is tried again, what does not becomes one sentence."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from httpx2 import TransportError
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

_logger = logging.getLogger(__name__)

Result = TypeVar("Result")

WAITS = (0.5, 1.0, 2.0)  # seconds before the second, third and fourth attempt
_PASSING_STATUS = {408, 429, 500, 502, 503, 504}


class HubError(OSError):
    """Something on the Hub, or on the way to it, is not as it should be."""


def tried(action: str, call: Callable[[], Result]) -> Result:
    """What `call` returns, after up to four attempts.

    Args:
        action: What it does, for the error: "listing the files of ORG/NAME".
        call: One request of the client, or a few that may be repeated.

    Raises:
        HubError: When the last attempt failed, or one failed in a way that does not pass.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except (TransportError, OSError, RuntimeError) as error:
            if isinstance(error, HubError):
                raise
            if wait is None or not may_pass(error):
                raise HubError(f"{action} failed: {reason(error)}") from error
            _logger.warning("%s: %s; trying again in %g s", action, reason(error), wait)
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later, where the client has not yet tried that itself."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING_STATUS
    if isinstance(error, TransportError):
        return True
    # The client reports a body of the wrong length as a plain OSError, which has no error number.
    return type(error) is OSError and error.errno is None


def reason(error: BaseException) -> str:
    """One line that says what went wrong: of a chain of errors the one at its start."""
    while error.__cause__ is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        return _answer(error)
    if isinstance(error, LocalEntryNotFoundError):
        return "the Hub cannot be reached"
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")


def _answer(error: HfHubHTTPError) -> str:
    response = error.response
    hint = "; log in with `hf auth login`" if response.status_code == 401 else ""
    said = error.server_message or response.headers.get("X-Error-Message") or response.reason_phrase
    return f"the Hub answered {response.status_code} ({said.splitlines()[0].rstrip('.')}){hint}"
