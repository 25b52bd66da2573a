"""Publish trained weights on the Hugging Face Hub: one commit with weights, configuration, card and pictures.

python hub/publish.py runs/NAME --repo ORG/MODEL.TAG --data-dir PATH
python hub/publish.py runs/NAME --repo ORG/MODEL.TAG --data-dir PATH --dtype float32 --private --dry-run
python hub/publish.py dcn_backbones/weights/* --org ORG          # the zoo: each folder under its own name

Runs are exported and measured first; folders are what train/export_weights.py wrote. Publishing again changes
only what has changed; where one of several fails, the others are published. Log in with `hf auth login`, or
set HF_TOKEN.

Exit status: 0 done, 1 an error, 2 called wrongly.
"""

import argparse
import logging
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dcn_backbones.command import CommandParser, UsageError, run_command
from hub.attempts import HubError
from hub.batch import for_each
from hub.contents import SOURCE_FILES, write_contents
from hub.repository import Plan, check_repository_name, plan_publication, publish_folder
from train.export_weights import DTYPES, export
from train.recipe import RECIPE, load_recipe

PHOTOGRAPH = "chelsea.png"
CREDIT = ", a photograph of a cat from scikit-image by Stéfan van der Walt (CC0),"


@dataclass(frozen=True)
class Publication:
    """A run or a folder, and the repository that it goes to."""

    source: Path
    repository: str

    @property
    def is_run(self) -> bool:
        return (self.source / RECIPE).is_file()


def publications(sources: list[Path], repository: str | None, organization: str | None) -> list[Publication]:
    """What goes where; raises UsageError for what cannot be published."""
    if repository and len(sources) > 1:
        raise UsageError(
            f"--repo takes one run or folder, {len(sources)} were given; expected --org for several"
        )
    for source in sources:
        is_run = (source / RECIPE).is_file()
        if not is_run and not all((source / name).is_file() for name in SOURCE_FILES):
            raise UsageError(
                f"{source} is neither a finished run (recipe.yaml, model.safetensors) nor a folder that "
                f"train/export_weights.py wrote ({', '.join(SOURCE_FILES)})"
            )
    names = [repository or f"{organization}/{source.resolve().name}" for source in sources]
    return [
        Publication(source, check_repository_name(name)) for source, name in zip(sources, names, strict=True)
    ]


def write_publication(publication: Publication, folder: Path, options: argparse.Namespace) -> None:
    """Write all that is published into `folder`, which is empty; a run is exported and measured first."""
    with tempfile.TemporaryDirectory() as temporary:
        source = publication.source
        if publication.is_run:
            source = Path(temporary) / publication.repository.partition("/")[2]
            data_dir = options.data_dir or load_recipe(publication.source / RECIPE).data_dir
            dtype = options.dtype or "float16"
            export(publication.source, source, data_dir, options.img_size, options.averaged, dtype)
        photograph = options.photograph or default_photograph()
        credit = "" if options.photograph else CREDIT
        write_contents(source, folder, publication.repository, photograph, credit)


def publish(publication: Publication, options: argparse.Namespace) -> None:
    """Publish, or with `dry_run` only show, and say what was done; raises HubError or ValueError."""
    api = HfApi(library_name="dcn_backbones")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_publication(publication, folder, options)
        if options.dry_run:
            tqdm.write(
                describe(publication.repository, folder, _try_plan(api, publication.repository, folder))
            )
            return
        message = options.message or f"Publish {publication.repository.partition('/')[2]}"
        plan, commit = publish_folder(api, publication.repository, folder, message, options.private)
        tqdm.write(describe(publication.repository, folder, plan))
        done = f"published as {commit}" if plan.changes else f"nothing has changed since {commit}"
        tqdm.write(f"{api.endpoint}/{publication.repository}: {done}")


def describe(repository: str, folder: Path, plan: Plan) -> str:
    """Every file, one a line: what becomes of it, its size in bytes, its name."""
    lines = [repository]
    for name, state in plan.states.items():
        size = f"{(folder / name).stat().st_size:,}" if state != "deleted" else ""
        lines.append(f"  {state:<9}  {size:>13}  {name}")
    return "\n".join(lines)


def _try_plan(api: HfApi, repository: str, folder: Path) -> Plan:
    try:
        return plan_publication(api, repository, folder)
    except HubError as error:
        print(f"not compared with the Hub: {error}", file=sys.stderr)
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return Plan("", dict.fromkeys(names, ""))


def default_photograph() -> Path:
    """A photograph that ships inside scikit-image; raises UsageError without that package."""
    try:
        import skimage
    except ImportError as error:
        raise UsageError("scikit-image is missing: pip install '.[hub]', or name a --photograph") from error
    return Path(skimage.__file__).parent / "data" / PHOTOGRAPH


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="RUN_OR_FOLDER", help="of train.py or of export_weights.py"
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--repo", metavar="ORG/NAME", help="the repository; it is created where there is none"
    )
    target.add_argument("--org", help="publish each source as ORG/FOLDER")
    parser.add_argument("--private", action="store_true", help="create the repository as a private one")
    parser.add_argument("--dry-run", action="store_true", help="write nothing to the Hub, show every file")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument(
        "--photograph", type=Path, metavar="FILE", help=f"golden input (default: scikit-image's {PHOTOGRAPH})"
    )
    runs = parser.add_argument_group("for runs")
    runs.add_argument("--data-dir", help="the data that measures the weights (default: the recipe's)")
    runs.add_argument("--dtype", choices=DTYPES, help="of the published values (default: float16)")
    runs.add_argument("--img-size", type=int, help="evaluation size in pixels (default: the recipe's)")
    runs.add_argument("--averaged", action="store_true", help="the moving average, of a run with ema_decay")
    return parser.parse_args()


def main() -> bool:
    options = parse_arguments()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    chosen = publications(options.sources, options.repo, options.org)
    if any((options.data_dir, options.dtype, options.img_size, options.averaged)):
        for publication in chosen:
            if not publication.is_run:
                raise UsageError(
                    f"{publication.source} is exported already; --data-dir, --dtype, --img-size and "
                    "--averaged are for runs"
                )
    return for_each(chosen, "publishing", lambda publication: publish(publication, options))


if __name__ == "__main__":
    run_command(main)
