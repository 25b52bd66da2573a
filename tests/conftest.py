"""What tests share: a fixed seed, a terminal, and photographs where there are any."""

import io
import os
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch

# The data sets of docs/data.md; without the variable, those beside the checkout.
_DATA = Path(os.environ.get("DCN_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Terminal(io.StringIO):
    """A terminal that keeps what it is shown."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch) -> redirect_stderr:
    """A context in which standard error is a terminal, for commands that somebody watches."""
    monkeypatch.setenv("COLUMNS", "100")
    return redirect_stderr(Terminal())


@pytest.fixture
def shared_data():
    """A function: the path of a data set of `docs/data.md`, or a skip with the reason."""

    def find(name: str) -> Path:
        folder = _DATA / name
        if not folder.is_dir():
            pytest.skip(
                f"needs the photographs of {name} (docs/data.md) in the folder that DCN_TEST_DATA names"
            )
        return folder

    return find
