"""Verify published weights: pull them, check every file, load them, and compare with their golden logits.

python hub/verify.py ORG/NAME
python hub/verify.py models/NAME          # a folder that hub/pull.py --output wrote, without a network
python hub/verify.py --zoo ORG            # all that ORG has published

Exit status: 0 all are as published, 1 one is not, 2 called wrongly.
"""

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dcn_backbones.command import CommandParser, run_command
from hub.batch import for_each
from hub.checksums import SUMS, check_sums
from hub.golden import Comparison, compare_golden
from hub.pull import add_source_options, chosen_repositories, load, pull
from hub.repository import check_repository_name


@dataclass(frozen=True)
class Verification:
    """What was found: how many files have their SHA-256, and how far the logits are from the golden ones."""

    files: int
    golden: Comparison


def verify(target: str, revision: str | None = None, allow_pickle: bool = False) -> Verification:
    """Verify a repository (ORG/NAME) or a folder.

    Raises HubError or ValueError, naming what differs from what was published.
    """
    folder = Path(target) if Path(target).is_dir() else pull(target, revision, allow_pickle=allow_pickle)
    if not (folder / SUMS).is_file():
        raise ValueError(f"{target} has no {SUMS}, expected what hub/publish.py published")
    files = check_sums(folder)
    golden = compare_golden(load(folder, allow_pickle), folder)
    if not golden.difference <= golden.tolerance:
        raise ValueError(
            f"the logits of {target} differ from the golden ones by {golden.difference:.3g}, expected at "
            f"most {golden.tolerance:.3g}"
        )
    return Verification(files, golden)


def report(target: str, options: argparse.Namespace) -> None:
    """Verify one and print what was found; raises what `verify` does."""
    found = verify(target, options.revision, options.allow_pickle)
    golden = found.golden
    tqdm.write(
        f"{target}: {found.files} files have their SHA-256, logits differ by {golden.difference:.2g} of "
        f"at most {golden.tolerance:.2g} ({golden.words})"
    )


def chosen_targets(targets: list[str], organization: str | None) -> list[str]:
    """The named folders and repositories, or all of an organization's zoo; raises UsageError, HubError."""
    if organization or not targets:
        return chosen_repositories(targets, organization)
    return [target if Path(target).is_dir() else check_repository_name(target) for target in targets]


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("targets", nargs="*", metavar="ORG/NAME or FOLDER")
    add_source_options(parser)
    return parser.parse_args()


def main() -> bool:
    options = parse_arguments()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    targets = chosen_targets(options.targets, options.zoo)
    return for_each(targets, "verifying", lambda target: report(target, options))


if __name__ == "__main__":
    run_command(main)
