"""A model repository on the Hub: what is in it, what would change, and the one commit that changes it."""

import time
from dataclasses import dataclass
from pathlib import Path

from httpx2 import TransportError
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from dcn_backbones.command import UsageError
from hub.attempts import WAITS, HubError, may_pass, reason, tried
from hub.checksums import SUMS, git_sha1, read_sums, sha256

ZOO_TAG = "dcn_backbones"  # on the cards of all published weights
_PRECONDITION_FAILED = 412


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub lists it: `checksum` is its SHA-256 where it is `large`, else git's SHA-1."""

    path: str
    size: int
    checksum: str
    large: bool

    def holds(self, path: Path) -> bool:
        """Whether the local file at `path` has the same content."""
        return path.stat().st_size == self.size and self.checksum_of(path) == self.checksum

    def checksum_of(self, path: Path) -> str:
        """The local file's checksum, of this file's kind."""
        return sha256(path) if self.large else git_sha1(path)


@dataclass(frozen=True)
class Listing:
    """The files of one commit, by path. `commit` is empty where there is no repository."""

    commit: str
    files: dict[str, RemoteFile]


@dataclass(frozen=True)
class Plan:
    """What publishing does to each path of a repository: "new", "changed", "unchanged" or "deleted"."""

    parent: str
    states: dict[str, str]

    def having(self, *states: str) -> list[str]:
        """The paths that have one of these states."""
        return [path for path, state in self.states.items() if state in states]

    @property
    def changes(self) -> list[str]:
        """The paths that a commit would touch."""
        return self.having("new", "changed", "deleted")


def check_repository_name(name: str) -> str:
    """`name` if it is ORG/NAME; raises UsageError."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"{name!r} is no repository: {str(error).splitlines()[0]}") from error
    if "/" not in name:
        raise UsageError(f"{name!r} is no repository, expected ORG/NAME")
    return name


def list_repository(api: HfApi, repository: str, revision: str | None = None) -> Listing:
    """The files of a revision, the main branch's last commit by default; raises HubError."""

    def request() -> Listing:
        commit = api.model_info(repository, revision=revision).sha
        entries = api.list_repo_tree(repository, recursive=True, revision=commit)
        files = [_remote_file(entry) for entry in entries if isinstance(entry, RepoFile)]
        return Listing(commit, {file.path: file for file in files})

    return tried(f"listing the files of {repository}", request)


def list_or_nothing(api: HfApi, repository: str) -> Listing:
    """Its files, or none where the repository does not exist."""
    try:
        return list_repository(api, repository)
    except HubError as error:
        missing = isinstance(error.__cause__, RepositoryNotFoundError)
        if missing and error.__cause__.response.status_code == 404:
            return Listing("", {})
        raise


def list_zoo(api: HfApi, organization: str) -> list[str]:
    """The repositories of an organization or user that hold weights of this project; raises HubError."""
    models = tried(
        f"listing the models of {organization}",
        lambda: list(api.list_models(author=organization, filter=ZOO_TAG)),
    )
    if not models:
        raise HubError(
            f"{organization} has no models tagged {ZOO_TAG}, expected what hub/publish.py published"
        )
    return sorted(model.id for model in models)


def plan_publication(api: HfApi, repository: str, folder: Path) -> Plan:
    """Compare a folder with a repository. What an earlier publication listed and this one lacks is deleted.

    Files that no publication has listed are somebody else's, and stay.
    """
    listing = list_or_nothing(api, repository)
    states = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        remote = listing.files.get(name)
        states[name] = "new" if remote is None else "unchanged" if remote.holds(path) else "changed"
    for name in _published_before(api, repository, listing):
        if name in listing.files:
            states.setdefault(name, "deleted")
    return Plan(listing.commit, states)


def _published_before(api: HfApi, repository: str, listing: Listing) -> list[str]:
    if SUMS not in listing.files:
        return []
    path = tried(
        f"downloading {SUMS} of {repository}",
        lambda: api.hf_hub_download(repository, SUMS, revision=listing.commit),
    )
    return list(read_sums(Path(path)))


def publish_folder(
    api: HfApi, repository: str, folder: Path, message: str, private: bool
) -> tuple[Plan, str]:
    """Make a repository hold what a folder holds, by one commit; returns what that did and the commit.

    Where nothing differs there is no commit. Where it is not known whether a commit arrived, or another came
    first, the repository is compared anew. Raises HubError; the repository then is as it was.
    """
    tried(f"creating {repository}", lambda: api.create_repo(repository, private=private, exist_ok=True))
    if private:
        _check_private(api, repository)
    first = plan = plan_publication(api, repository, folder)
    for wait in (*WAITS, None):
        if not plan.changes:
            break
        try:
            return first, _commit(api, repository, folder, plan, message)
        except (HfHubHTTPError, TransportError) as error:
            if wait is None or not (_is_overtaken(error) or may_pass(error)):
                raise HubError(f"the commit to {repository} failed: {reason(error)}") from error
        time.sleep(wait)
        plan = plan_publication(api, repository, folder)
    return first, plan.parent


def _check_private(api: HfApi, repository: str) -> None:
    """A repository that exists stays as public as it is, whatever is asked for when it is created."""
    if not tried(f"looking up {repository}", lambda: api.model_info(repository)).private:
        raise HubError(f"{repository} exists and is public, expected a private repository or a new one")


def _is_overtaken(error: Exception) -> bool:
    return isinstance(error, HfHubHTTPError) and error.response.status_code == _PRECONDITION_FAILED


def _commit(api: HfApi, repository: str, folder: Path, plan: Plan, message: str) -> str:
    """One attempt: the client checks the card, uploads what the Hub lacks, repeating that, and commits."""
    additions = [CommitOperationAdd(name, folder / name) for name in plan.having("new", "changed")]
    deletions = [CommitOperationDelete(name) for name in plan.having("deleted")]
    operations = [*additions, *deletions]
    try:
        return api.create_commit(
            repository, operations, commit_message=message, parent_commit=plan.parent
        ).oid
    except RuntimeError as error:
        raise HubError(
            f"uploading {_failed_upload(error)} to {repository} failed: {reason(error)}"
        ) from error
    except ValueError as error:
        raise HubError(f"the commit to {repository} was refused: {reason(error)}") from error


def _failed_upload(error: RuntimeError) -> str:
    """The file's name, which the client puts between quotes."""
    parts = str(error).split("'")
    return parts[1] if len(parts) > 2 else "the files"


def _remote_file(entry: RepoFile) -> RemoteFile:
    if entry.lfs is not None:
        return RemoteFile(entry.path, entry.lfs.size, entry.lfs.sha256, large=True)
    return RemoteFile(entry.path, entry.size, entry.blob_id, large=False)
