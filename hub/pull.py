"""Pull published weights from the Hugging Face Hub, every file checked before anything is loaded.

python hub/pull.py ORG/NAME                      # into the client's cache, where timm's hf-hub: finds it
python hub/pull.py ORG/NAME --output models      # and copied to models/NAME, for timm's local-dir:
python hub/pull.py --zoo ORG                     # all that ORG has published

A file is refused whose size or checksum is not the one that the Hub lists, or not the one in the repository's
own SHA256SUMS. Pickled weights are refused unless --allow-pickle insists; those that hold more than tensors
(weights_only=True) always are.

Exit status: 0 done, 1 an error, 2 called wrongly.
"""

import argparse
import logging
import os
import shutil
import sys
from pathlib import Path, PurePosixPath

import timm
from huggingface_hub import HfApi, hf_hub_url
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dcn_backbones.analysis import load_model
from dcn_backbones.command import CommandParser, UsageError, run_command
from dcn_backbones.models.checkpoints import checkpoint_filter_fn, read_checkpoint
from hub.attempts import HubError, reason, tried
from hub.batch import for_each
from hub.checksums import SUMS, check_sums
from hub.repository import Listing, RemoteFile, check_repository_name, list_repository, list_zoo

PICKLED_WEIGHTS = "pytorch_model.bin"  # what the client's other libraries call them
PICKLES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".tar"}


def pull(
    repository: str, revision: str | None = None, output: Path | None = None, allow_pickle: bool = False
) -> Path:
    """Download a repository's files, check them, and return the folder that they are in.

    Args:
        repository: ORG/NAME.
        revision: A commit, branch or tag; the main branch by default.
        output: Where to copy them to; by default they stay in the client's cache, for `hf-hub:` names too.
        allow_pickle: Take pickled weights where there are no others.

    Raises:
        HubError: When a file cannot be had or is not what the Hub lists, or there are only pickled weights.
        ValueError: When a file is not what the repository's `SHA256SUMS` lists, or pickled weights hold more
            than tensors.
    """
    api = HfApi(library_name="dcn_backbones")
    listing = list_repository(api, repository, revision)
    wanted = wanted_files(repository, listing, allow_pickle)
    folder = Path(os.path.commonpath([_download_folder(api, repository, listing, file) for file in wanted]))
    if SUMS in listing.files:
        check_sums(folder)
    if any(is_pickle(file.path) for file in wanted):
        _check_pickle(folder)
    # With this the client notes which commit the revision is, so that timm finds it without a network too.
    tried(
        f"finding {repository} again",
        lambda: api.hf_hub_download(repository, wanted[0].path, revision=revision),
    )
    return folder if output is None else _copy(wanted, folder, output)


def wanted_files(repository: str, listing: Listing, allow_pickle: bool) -> list[RemoteFile]:
    """All files but pickles, or pickles too where there are no other weights and `allow_pickle` says so."""
    pickles = [name for name in listing.files if is_pickle(name)]
    safe = any(name.endswith(".safetensors") for name in listing.files)
    if not safe and not pickles:
        raise HubError(f"{repository} has no weights, expected model.safetensors")
    if not safe and not allow_pickle:
        raise HubError(_only_pickles(repository, pickles))
    return [file for name, file in listing.files.items() if not is_pickle(name) or not safe]


def is_pickle(name: str) -> bool:
    """Whether a file of this name may be a pickle."""
    return PurePosixPath(name).suffix.lower() in PICKLES


def _only_pickles(where: object, pickles: list[str]) -> str:
    return (
        f"{where} has only pickled weights ({', '.join(pickles)}), which may run any code when they are "
        "loaded; expected model.safetensors, or --allow-pickle for one that you trust"
    )


def _pickles(folder: Path) -> list[Path]:
    """The pickles of a folder, first the one that is the weights: others may be an optimizer's state."""
    found = (path for path in folder.iterdir() if is_pickle(path.name))
    return sorted(found, key=lambda path: (path.name != PICKLED_WEIGHTS, path.name))


def _check_pickle(folder: Path) -> None:
    """Read pickled weights with `weights_only=True`; where that fails, nobody else shall load them."""
    for weights in _pickles(folder)[:1]:
        try:
            read_checkpoint(weights)
        except ValueError:
            _remove_from_cache(weights)
            raise


def load(folder: Path, allow_pickle: bool = False) -> nn.Module:
    """The model of a pulled folder, in evaluation mode; pickled weights are read with `weights_only=True`.

    Raises ValueError when there is none, its weights do not fit, or are pickled and that is not allowed.
    """
    pickles = _pickles(folder)
    if (folder / "model.safetensors").is_file() or not pickles:
        return load_model(f"local-dir:{folder}")
    if not allow_pickle:
        raise ValueError(_only_pickles(folder, [path.name for path in pickles]))
    state = read_checkpoint(pickles[0]).state
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=False)
        model.load_state_dict(checkpoint_filter_fn(dict(state), model))
    except Exception as error:  # on damaged files the readers raise whatever they run into
        raise ValueError(f"{pickles[0]} could not be loaded into the model: {reason(error)}") from error
    return model.eval()


def _download_folder(api: HfApi, repository: str, listing: Listing, file: RemoteFile) -> str:
    """The folder of the snapshot that `file` was downloaded to, and found to be what the Hub lists."""
    name = f"{file.path} of {repository}"
    _check_answer(api, repository, listing, file, name)
    for force in (False, True):  # what lay damaged in the cache, or was damaged on its way, comes anew
        path = Path(
            tried(
                f"downloading {name}",
                lambda force=force: api.hf_hub_download(
                    repository, file.path, revision=listing.commit, force_download=force
                ),
            )
        )
        if file.holds(path):
            return str(path.parents[file.path.count("/")])
        found = path.stat().st_size, file.checksum_of(path)
        _remove_from_cache(path)
    raise HubError(
        f"{name} has {found[0]:,} bytes and checksum {found[1]}, expected {file.size:,} bytes and "
        f"{file.checksum} as the Hub lists it; nothing was loaded and the file was removed"
    )


def _check_answer(api: HfApi, repository: str, listing: Listing, file: RemoteFile, name: str) -> None:
    """Refuse what the Hub announces under another ETag than it lists.

    The client files content in its cache by that tag: under a wrong one it would hand out, or overwrite, the
    content of another file.
    """
    url = hf_hub_url(repository, file.path, revision=listing.commit, endpoint=api.endpoint)
    answer = tried(f"looking up {name}", lambda: api.get_hf_file_metadata(url=url))
    if answer.etag != file.checksum:
        raise HubError(
            f"{name} is announced with ETag {answer.etag}, expected {file.checksum} as the Hub lists it"
        )


def _remove_from_cache(path: Path) -> None:
    """Remove a file, and what it links to, from the client's cache, so that nobody else loads it."""
    if path.is_symlink():
        (path.parent / os.readlink(path)).unlink(missing_ok=True)
    path.unlink()


def _copy(files: list[RemoteFile], folder: Path, output: Path) -> Path:
    for file in files:
        target = output / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file.path, target)
    return output


def chosen_repositories(names: list[str], organization: str | None) -> list[str]:
    """The named repositories, or all of an organization's zoo; raises UsageError, HubError."""
    if bool(names) == bool(organization):
        raise UsageError("expected either repositories, as ORG/NAME, or --zoo ORG")
    return (
        list_zoo(HfApi(), organization) if organization else [check_repository_name(name) for name in names]
    )


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which weights are pulled."""
    parser.add_argument("--zoo", metavar="ORG", help="all that ORG has published")
    parser.add_argument("--revision", help="a commit, branch or tag (default: the main branch)")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="take pickled weights where there are no others"
    )


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("repositories", nargs="*", metavar="ORG/NAME")
    add_source_options(parser)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="also copy each to FOLDER/NAME")
    return parser.parse_args()


def main() -> bool:
    options = parse_arguments()
    logging.basicConfig(format="%(levelname)s: %(message)s")

    def handle(repository: str) -> None:
        output = options.output and options.output / repository.rpartition("/")[2]
        folder = pull(repository, options.revision, output, options.allow_pickle)
        tqdm.write(f"{repository}: {folder}")

    return for_each(chosen_repositories(options.repositories, options.zoo), "pulling", handle)


if __name__ == "__main__":
    run_command(main)
