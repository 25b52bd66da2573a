"""What a person sees of a run: progress bar, log, TensorBoard, Weights & Biases, table and curves."""

import json
import logging
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from train.offsets import offset_warning
from train.plots import save_curves
from train.results import LOG, TrainingLog, format_history, write_text

_logger = logging.getLogger(__name__)


class Report:
    """Of the first process; in the others every method does nothing.

    Args:
        output: Folder of the run; the log in it is continued after its first `epochs` epochs.
        settings: The recipe, for Weights & Biases, which `wandb` switches on.
        step: Steps that are done; TensorBoard forgets what a killed process has written about later ones.
    """

    def __init__(
        self, output: Path, epochs: int, step: int, settings: dict[str, Any], wandb: bool, shown: bool
    ) -> None:
        self.shown, self.output = shown, output
        if not shown:
            return
        self.log = TrainingLog(output / LOG, epochs if step else None)  # the record of epoch 0 is the start's
        self.tensorboard = SummaryWriter(str(output / "tensorboard"), purge_step=step + 1)
        self.wandb = _start_wandb(output, settings) if wandb else None

    def bar(self, epoch: int, epochs: int, first_step: int, steps: int) -> tqdm:
        """A progress bar over the steps of an epoch."""
        hidden = None if self.shown else True  # None: shown on a terminal
        name = f"epoch {epoch + 1}/{epochs}"
        return tqdm(total=steps, initial=first_step, desc=name, unit="step", disable=hidden, leave=False)

    def step(self, step: int, measured: dict[str, float]) -> None:
        """Curves over the steps."""
        if not self.shown:
            return
        for name, value in measured.items():
            self.tensorboard.add_scalar(f"step/{name}", value, step)
        if self.wandb:
            self.wandb.log({f"step/{name}": value for name, value in measured.items()}, step=step)

    def epoch(self, epoch: int, step: int, record: dict[str, float]) -> None:
        """Log an epoch, counted from 1, and warn of offsets that grow too far; epoch 0 is the start."""
        if not self.shown:
            return
        self.log.append({"epoch": epoch, **record})
        tqdm.write(json.dumps(self.log.records[-1]))
        for name, value in record.items():
            self.tensorboard.add_scalar(f"epoch/{name}", value, step)
        self.tensorboard.flush()
        if self.wandb:
            self.wandb.log({f"epoch/{name}": value for name, value in record.items()}, step=step)
        offsets = {name.removeprefix("val_"): value for name, value in record.items()}
        if warning := offset_warning(offsets):
            _logger.warning("epoch %d: %s", epoch, warning)

    def finish(self, result: dict[str, Any]) -> None:
        """Print the table of the epochs and write `curves.png` and, last, `results.json`."""
        if not self.shown:
            return
        print(format_history(self.log.records), flush=True)
        save_curves(self.log.records, self.output / "curves.png")
        write_text(self.output / "results.json", json.dumps(result, indent=2) + "\n")

    def close(self) -> None:
        """End the writers."""
        if self.shown:
            self.tensorboard.close()
            if self.wandb:
                self.wandb.finish()


def _start_wandb(output: Path, settings: dict[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ValueError("--wandb needs Weights & Biases: pip install wandb") from error
    return wandb.init(dir=output, name=output.name, id=output.name, config=settings, resume="allow")
