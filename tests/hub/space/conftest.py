"""The Space's own modules, importable as they are there, and photographs to hand in."""

from pathlib import Path

import pytest
import skimage

SPACE = Path(__file__).parents[3] / "hub" / "space"


@pytest.fixture(scope="session", autouse=True)
def _modules_of_the_space():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SPACE))
        yield


@pytest.fixture(scope="session")
def coffee() -> Path:
    """A photograph of 600x400 pixels under CC0."""
    return Path(skimage.__file__).parent / "data" / "coffee.png"
