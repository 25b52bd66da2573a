"""What the test Hub keeps, in a folder: repositories, their commits, and the content of files."""

import base64
import hashlib
import json
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

_ATTRIBUTES = (
    b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.bin filter=lfs diff=lfs merge=lfs -text\n"
)
_LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".pkl")
_LARGE_BYTES = 10 << 20


class Refusal(Exception):
    """An answer that is an error: its status, the client's code for it, and a message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass
class File:
    """A file of a commit: `oid` is git's SHA-1, or SHA-256 where it is `large`."""

    oid: str
    size: int
    large: bool


@dataclass
class Commit:
    """A commit: what its files are, and where it comes from."""

    oid: str
    parent: str
    title: str
    files: dict[str, File]


@dataclass
class Repository:
    """A repository with one branch."""

    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    head: str = ""
    uploaded: list[str] = field(default_factory=list)  # large content that a commit may name

    def commit(self, revision: str) -> Commit:
        """The commit of `main` or of a hash; raises Refusal."""
        oid = self.head if revision in ("main", "HEAD") else revision
        if oid not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self.commits[oid]


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub takes a file's content apart from its commit: by suffix or size, or as it is binary."""
    return path.endswith(_LARGE_SUFFIXES) or size > _LARGE_BYTES or b"\0" in sample


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Store:
    """All repositories under a folder; what was committed is there again after a restart."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = threading.RLock()
        for name in ("content", "repositories", "uploads"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self.repositories = {
            repository.name: repository
            for repository in map(_read_repository, sorted((root / "repositories").glob("*.json")))
        }

    def create(self, name: str, private: bool) -> Repository:
        """A new repository with the Hub's first commit in it; raises Refusal when there is one."""
        with self.lock:
            if name in self.repositories:
                raise Refusal(409, "", "You already created this model repo")
            repository = self.repositories[name] = Repository(name, private)
            oid = self.add_content(_ATTRIBUTES, large=False)
            attributes = File(oid, len(_ATTRIBUTES), large=False)
            self._add_commit(repository, "initial commit", {".gitattributes": attributes})
            return repository

    def find(self, name: str) -> Repository:
        """The repository of a name; raises Refusal."""
        if name not in self.repositories:
            raise Refusal(404, "RepoNotFound", "Repository not found")
        return self.repositories[name]

    def path(self, oid: str) -> Path:
        """Where the content of a file is kept."""
        return self.root / "content" / oid

    def add_content(self, content: bytes, large: bool) -> str:
        """Keep a file's content; returns its oid."""
        oid = hashlib.sha256(content).hexdigest() if large else git_sha1(content)
        self.path(oid).write_bytes(content)
        return oid

    def commit(
        self, repository: Repository, header: dict[str, Any], operations: list[dict[str, Any]]
    ) -> Commit:
        """Apply all operations or none; raises Refusal."""
        with self.lock:
            if header.get("parentCommit", repository.head) != repository.head:
                raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
            files = dict(repository.commits[repository.head].files)
            for operation in operations:
                self._apply(repository, files, operation["key"], operation["value"])
            return self._add_commit(repository, header["summary"], files)

    def _apply(self, repository: Repository, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            content = _decode(value)
            files[path] = File(self.add_content(content, large=False), len(content), large=False)
        elif key == "lfsFile":
            oid, size = value["oid"], value["size"]
            if oid not in repository.uploaded or self.path(oid).stat().st_size != size:
                raise Refusal(400, "", f"LFS pointer of {path} points to content that was never uploaded")
            files[path] = File(oid, size, large=True)
        elif key == "deletedFile" and path in files:
            del files[path]
        else:
            raise Refusal(404, "EntryNotFound", f"{key}: A file with this name doesn't exist: {path}")

    def _add_commit(self, repository: Repository, title: str, files: dict[str, File]) -> Commit:
        described = json.dumps(
            [
                repository.name,
                repository.head,
                title,
                {path: file.oid for path, file in sorted(files.items())},
            ]
        )
        commit = Commit(hashlib.sha1(described.encode()).hexdigest(), repository.head, title, files)
        repository.commits[commit.oid], repository.head = commit, commit.oid
        path = self.root / "repositories" / f"{repository.name.replace('/', '--')}.json"
        path.write_text(json.dumps(asdict(repository)), encoding="utf-8")
        return commit

    def tags(self, repository: Repository) -> list[str]:
        """The tags on a repository's card."""
        card = repository.commits[repository.head].files.get("README.md")
        return card_metadata(self.path(card.oid).read_text(encoding="utf-8")).get("tags", []) if card else []


def card_metadata(card: str) -> dict[str, Any]:
    """The YAML head of a card; raises Refusal where it is none."""
    if not card.startswith("---\n"):
        return {}
    try:
        metadata = yaml.safe_load(card.split("---\n")[1])
    except yaml.YAMLError as error:
        raise Refusal(400, "", f"invalid YAML: {error}") from error
    if not isinstance(metadata, dict):
        raise Refusal(400, "", "the metadata is no mapping")
    return metadata


def _decode(value: dict[str, Any]) -> bytes:
    content = value["content"]
    return base64.b64decode(content) if value.get("encoding") == "base64" else content.encode()


def _read_repository(path: Path) -> Repository:
    content = json.loads(path.read_text(encoding="utf-8"))
    commits = {
        oid: Commit(**{**commit, "files": {name: File(**file) for name, file in commit["files"].items()}})
        for oid, commit in content["commits"].items()
    }
    return Repository(**{**content, "commits": commits})
