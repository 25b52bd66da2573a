"""Checksums of files: SHA-256, git's, and the list of them that travels with published weights."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_CHUNK = 1 << 20


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return _digest(hashlib.sha256(), path)


def git_sha1(path: Path) -> str:
    """What git calls the file's content: SHA-1 of a header with its size, then of its bytes."""
    return _digest(hashlib.sha1(b"blob %d\0" % path.stat().st_size), path)


def _digest(digest: "hashlib._Hash", path: Path) -> str:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write `SHA256SUMS` of the named files in `folder`, as `sha256sum --check` reads it."""
    lines = [f"{sha256(folder / name)}  {name}\n" for name in sorted(names)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def read_sums(path: Path) -> dict[str, str]:
    """The SHA-256 of each name in a `SHA256SUMS` file; raises ValueError for a line that is none."""
    sums = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{path} has the line {line!r}, expected a SHA-256, two spaces and a name")
        sums[match[2]] = match[1]
    return sums


def check_sums(folder: Path) -> int:
    """Compare the files of a folder with its `SHA256SUMS` and return how many those are.

    Raises ValueError, naming the file, for one that is missing or has another SHA-256.
    """
    sums = read_sums(folder / SUMS)
    for name, expected in sums.items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} does not exist, expected every file that {SUMS} lists")
        found = sha256(folder / name)
        if found != expected:
            raise ValueError(f"{folder / name} has SHA-256 {found}, expected {expected} as in {SUMS}")
    return len(sums)
