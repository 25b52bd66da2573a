"""The page in a process of its own, and a real browser to look at it with."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import SPACE

STARTED = re.compile(r"http://127\.0\.0\.1:\d+")
START_SECONDS = 180
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str:
    """Path of the browser: what ``DCN_BROWSER`` names, else what is found, else a skip with the reason."""
    named = os.environ.get("DCN_BROWSER")
    if named:
        return named
    pytest.importorskip("gradio", reason="needs gradio: pip install 'dcn_backbones[space]'")
    pytest.importorskip("playwright", reason="needs playwright, which drives the browser")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip("needs a browser: Debian's package chromium, or its path in DCN_BROWSER")
    return found


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The page's address; its process has ``folder`` for temporary files and reaches no Hub."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("GRADIO", "DCN"))
    }
    environment |= {"TMPDIR": str(folder), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = str(SPACE.parents[1])
    command = [sys.executable, "-W", "ignore", str(SPACE / "app.py")]
    log = folder.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield _wait_for_address(process, log)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for_address(process: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        address = STARTED.search(log.read_text())
        if address:
            return address[0]
        time.sleep(0.2)
    pytest.fail(f"the page did not start:\n{log.read_text()}")
