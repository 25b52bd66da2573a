"""Work through a list of runs for a while: those that are done are skipped, the others go on where they were.

python train/run_queue.py QUEUE.yaml                 shows the state of every run
python train/run_queue.py QUEUE.yaml --minutes 60    trains, in the order of the list

QUEUE.yaml is a list of runs: `config`, a recipe, whose task says which script trains it, and if wanted
`output` (runs/RECIPE), `overrides` (a list of key=value) and `processes` (1). An entry with `for_each: {NAME:
[VALUE, ...], ...}` is a run for each combination, the last name's values changing fastest, with $NAME in its
texts replaced. All state is in the runs' own folders: copy them, and the queue goes on elsewhere.

Exit status with --minutes: 0 all done, 1 a run has failed, 75 there is more to do.
"""

import fcntl
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dcn_backbones.command import CommandParser, run_command
from train.checkpoint import list_checkpoints
from train.recipe import load_recipe, read_yaml
from train.results import headline
from train.settings import TrainingSettings
from train.signals import INTERRUPTED, StopSignals

LOCK = ".lock"
SCRIPTS = {"classification": "train.py", "detection": "detect.py"}  # of each recipe's task


@dataclass
class QueuedRun:
    """One entry of the list."""

    config: str
    output: str = ""
    overrides: list[str] = field(default_factory=list)
    processes: int = 1

    @property
    def folder(self) -> Path:
        return Path(self.output or Path("runs") / Path(self.config).stem)

    def recipe(self, settings: Sequence[str]) -> TrainingSettings:
        """The recipe as it will be trained, with `settings` of all runs; raises ValueError or OSError."""
        return load_recipe(self.config, [*self.overrides, *settings], task=None)

    def command(self, settings: Sequence[str]) -> list[str]:
        """What trains this run."""
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(self.processes)]
        return [
            sys.executable,
            *(launcher if self.processes > 1 else []),
            str(Path(__file__).with_name(SCRIPTS[self.recipe(settings).task])),
            *("--config", self.config, "--output", str(self.folder)),
            *self.overrides,
            *settings,
        ]


def read_queue(path: Path, settings: Sequence[str] = ()) -> list[QueuedRun]:
    """Read the list and every recipe in it; raises ValueError for what cannot be trained."""
    entries = read_yaml(path)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} holds a {type(entries).__name__}, expected a list of runs")
    runs = [run for entry in entries for run in _read_entry(path, entry)]
    folders = [run.folder.resolve() for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if folders.count(folder) > 1:
            raise ValueError(f"{path} has several runs in {run.folder}, expected an output folder for each")
        run.recipe(settings)
    return runs


def _read_entry(path: Path, entry: Any) -> list[QueuedRun]:
    known = [*QueuedRun.__dataclass_fields__, "for_each"]
    if not isinstance(entry, dict) or "config" not in entry or not entry.keys() <= set(known):
        raise ValueError(f"{path} has the entry {entry!r}, expected config and any of {', '.join(known)}")
    values = entry.get("for_each", {})
    if not isinstance(values, dict) or not all(isinstance(of_name, list) for of_name in values.values()):
        raise ValueError(f"{path} has for_each {values!r}, expected names, each with a list of values")
    fields = {key: value for key, value in entry.items() if key != "for_each"}
    combinations = (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))
    return [QueuedRun(**_filled_in(fields, combination)) for combination in combinations]


def _filled_in(value: Any, chosen: dict[str, Any]) -> Any:
    """The same value with $NAME replaced in every text inside."""
    if isinstance(value, dict):
        return {key: _filled_in(item, chosen) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled_in(item, chosen) for item in value]
    return Template(value).safe_substitute(chosen) if isinstance(value, str) else value


def is_done(run: QueuedRun) -> bool:
    """Whether the run has its results, the last file that it writes."""
    return (run.folder / "results.json").is_file()


def describe_state(run: QueuedRun, settings: Sequence[str] = ()) -> str:
    """How far a run is, read from its folder."""
    if is_done(run):
        result = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
        return f"done, {headline(result)}"
    with locked(run.folder) as free:
        state = "stopped" if free else "running"
    checkpoints = list_checkpoints(run.folder)
    if not checkpoints:
        return "not started" if free else state
    epochs, images = (int(number) for number in re.findall(r"\d+", checkpoints[-1].name))
    return f"{state} after {epochs} of {run.recipe(settings).epochs} epochs and {images} images"


@contextmanager
def locked(folder: Path, create: bool = False) -> Iterator[Any]:
    """A run's lock, or None if another process holds it. Without `create`, a folder without one is free.

    The kernel releases the lock with the last process that has the file open, however it ends.
    """
    if create:
        folder.mkdir(parents=True, exist_ok=True)
    elif not (folder / LOCK).exists():
        yield folder
        return
    with (folder / LOCK).open("w") as file:
        yield file if _take(file, tries=10 if create else 1) else None


def _take(file: Any, tries: int) -> bool:
    """Lock the file; several tries outlast whoever only looks at the state of the run."""
    for number in range(tries):
        if number:
            time.sleep(0.05)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


def train_until(run: QueuedRun, deadline: float, settings: Sequence[str], signals: StopSignals) -> int | None:
    """Train a run until its end, `deadline` (time.monotonic) or a signal; None if it is running already."""
    with locked(run.folder, create=True) as lock:
        if lock is None:
            return None
        # The child holds the lock too, for the case that it outlives this process.
        process = subprocess.Popen(run.command(settings), pass_fds=[lock.fileno()])
        while process.poll() is None:
            if time.monotonic() >= deadline or signals.received:
                process.send_signal(signal.SIGTERM)
                return INTERRUPTED if process.wait() else 0
            time.sleep(0.1)
        return process.returncode


def work(runs: list[QueuedRun], minutes: float, settings: Sequence[str] = ()) -> int:
    """Train what is not done; returns the exit status of the queue."""
    deadline, failed = time.monotonic() + 60 * minutes, False
    with StopSignals() as signals:
        for run in runs:
            if is_done(run):
                continue
            if time.monotonic() >= deadline or signals.received:
                break
            status = train_until(run, deadline, settings, signals)
            failed |= status not in (None, 0, INTERRUPTED)
            if status not in (None, 0):
                print(f"{run.folder}: exit status {status}", file=sys.stderr)
    if failed:
        return 1
    return 0 if all(is_done(run) for run in runs) else INTERRUPTED


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("queue", type=Path, help="YAML file with a list of runs")
    parser.add_argument("--minutes", type=float, help="how long to train")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="key=value", help="settings of every run, device=cuda for one"
    )
    arguments = parser.parse_args()
    runs = read_queue(arguments.queue, arguments.set)
    status = 0 if arguments.minutes is None else work(runs, arguments.minutes, arguments.set)
    for run in runs:
        print(f"{run.folder}: {describe_state(run, arguments.set)}")
    sys.exit(status)


if __name__ == "__main__":
    run_command(main)
