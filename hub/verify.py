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
from hub.checksums import SUMS, check_sums
from hub.golden import Comparison, compare_golden
from hub.pull import chosen_repositories, load, pull


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
    golden = compare_golden(load(folder), folder)
    if not golden.difference <= golden.tolerance:
        raise ValueError(
            f"the logits of {target} differ from the golden ones by {golden.difference:.3g}, expected at "
            f"most {golden.tolerance:.3g}"
        )
    return Verification(files, golden)


def report(target: str, options: argparse.Namespace) -> bool:
    """Verify one and print how it went; returns whether it is as published."""
    try:
        found = verify(target, options.revision, options.allow_pickle)
    except (OSError, ValueError) as error:
        tqdm.write(f"{target}: FAILED, {error}", file=sys.stderr)
        return False
    golden = found.golden
    tqdm.write(
        f"{target}: {found.files} files have their SHA-256, logits differ by {golden.difference:.2g} of "
        f"at most {golden.tolerance:.2g} ({golden.words})"
    )
    return True


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("targets", nargs="*", metavar="ORG/NAME or FOLDER")
    parser.add_argument("--zoo", metavar="ORG", help="all that ORG has published")
    parser.add_argument("--revision", help="a commit, branch or tag (default: the main branch)")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="take pickled weights where there are no others"
    )
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    folders = [target for target in options.targets if Path(target).is_dir()]
    names = [target for target in options.targets if target not in folders]
    targets = folders + (chosen_repositories(names, options.zoo) if names or not folders else [])
    bar = tqdm(targets, desc="verifying", unit="model", disable=None if len(targets) > 1 else True)
    if not all([report(target, options) for target in bar]):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
