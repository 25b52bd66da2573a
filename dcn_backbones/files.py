"""Files that are whole or not there, and folders for them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A context with a temporary path beside ``path``, which takes its name when all went well.

    Raises:
        FileNotFoundError: When there is no such folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder; expected an existing one for {path.name}.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Make sure that a folder is there or can be made, before work whose results go into it.

    Raises:
        OSError: When it cannot, naming what is in the way.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OSError(f"{folder} cannot be written: {existing} is no folder that may be written into.")
