"""What tests share: a fixed seed, a terminal, and photographs where a `shared/` folder has them."""

import io
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch

_SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


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
    """A function: the path of a data set in `../shared/data`, or a skip with the reason."""

    def find(name: str) -> Path:
        folder = _SHARED_DATA / name
        if not folder.is_dir():
            pytest.skip(f"needs the photographs of {name} in shared/data beside the checkout")
        return folder

    return find
