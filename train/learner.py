"""What a training step changes: the network, its average, the optimizer, the schedule and the scaler."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from dcn_backbones.models.checkpoints import load_own_weights
from train.checkpoint import AVERAGED_WEIGHTS, WEIGHTS
from train.distribution import World, without_averaging
from train.networks import place_model
from train.optim import create_optimizer, create_scheduler, load_optimizer_state
from train.settings import TrainingSettings

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def amp_dtype(recipe: TrainingSettings) -> torch.dtype | None:
    """The type of autocast, None without."""
    return AMP_DTYPES[recipe.amp_dtype] if recipe.amp else None


def slow_autocast(recipe: TrainingSettings) -> str:
    """A sentence when half precision takes longer than float32 here, else nothing."""
    if recipe.amp and recipe.device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        return (
            f"this processor has no AVX-512, without which {recipe.amp_dtype} takes several times as long as "
            "float32; amp=false is faster here"
        )
    return ""


class Learner(ABC):
    """A network and all that trains it, in every process of a run.

    Args:
        model: The network, on the CPU.
        steps_per_epoch: Optimizer steps, for the schedule.

    Attributes:
        measures: Of what `step` sums, the names in the log, each with the factor of its mean per image.
    """

    measures: dict[str, float] = {"loss": 1.0}

    def __init__(
        self, model: nn.Module, recipe: TrainingSettings, world: World, steps_per_epoch: int
    ) -> None:
        self.recipe, self.world, self.steps_per_epoch = recipe, world, steps_per_epoch
        self.model = place_model(model, recipe, world.device)
        self.average = None
        if recipe.ema_decay > 0:
            self.average = ModelEmaV3(self.model, recipe.ema_decay, use_warmup=recipe.ema_warmup)
        self.network = world.wrap(self.model)
        self.optimizer = create_optimizer(self.model, recipe)
        self.scheduler = create_scheduler(self.optimizer, recipe, steps_per_epoch)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=amp_dtype(recipe) == torch.float16)

    @property
    def rate(self) -> float:
        """The learning rate of the last step, without the scales of groups of parameters."""
        groups = self.optimizer.param_groups
        return max(group["lr"] / group["lr_scale"] for group in groups if group["lr_scale"] > 0)

    def train(self) -> None:
        """Training mode."""
        self.network.train()

    def step(self, batches: Iterable[tuple], number: int) -> Tensor:
        """One optimizer step, counted from 0 over the run, over `accumulate` batches of this process.

        Returns (len(measures) + 1,) in float64 on the device: the sums of `forward` over the batches.
        """
        self.scheduler.step_update(number)
        totals = torch.zeros(len(self.measures) + 1, dtype=torch.float64, device=self.world.device)
        for position, batch in enumerate(batches, start=1):
            if position < self.recipe.accumulate:
                with without_averaging(self.network):
                    totals += self._accumulate_gradients(*batch)
            else:
                totals += self._accumulate_gradients(*batch)
        self.scaler.unscale_(self.optimizer)
        if self.recipe.clip_grad > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.model, number + 1)
        return totals

    def _accumulate_gradients(self, *batch: Any) -> Tensor:
        loss, sums = self.forward(*batch)
        self.scaler.scale(loss / self.recipe.accumulate).backward()
        return sums

    @abstractmethod
    def forward(self, *batch: Any) -> tuple[Tensor, Tensor]:
        """The loss of a batch, a mean over its images, and (len(measures) + 1,) in float64.

        Those are the sums over the images of all that is measured, and last the number of images.
        """

    def autocast(self) -> torch.autocast:
        """The recipe's mixed precision."""
        dtype = amp_dtype(self.recipe)
        return torch.autocast(self.world.device.type, dtype, enabled=dtype is not None)

    def evaluated(self) -> dict[str, nn.Module]:
        """The networks to measure by the prefix of their results, with the first process's buffers in all."""
        networks = {"": self.model}
        if self.average is not None:
            networks["ema_"] = self.average.module
        for network in networks.values():
            self.world.copy_buffers(network)
        return networks

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """State dicts by file name."""
        averaged = {} if self.average is None else {AVERAGED_WEIGHTS: self.average.module.state_dict()}
        return {WEIGHTS: self.model.state_dict(), **averaged}

    def state(self) -> dict[str, Any]:
        """The rest of what a resumed run needs; the schedule needs nothing but the number of the step."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load(self, checkpoint: Path, state: dict[str, Any]) -> None:
        """Go on from a checkpoint folder and the `state` in it.

        An average that the checkpoint lacks starts at its weights; the state of another optimizer is left.
        Raises ValueError for weights that are damaged or another network's.
        """
        load_own_weights(self.model, checkpoint / WEIGHTS)
        if self.average is not None:
            averaged = checkpoint / AVERAGED_WEIGHTS
            file = averaged if averaged.is_file() else checkpoint / WEIGHTS
            load_own_weights(self.average.module, file)
        if state["recipe"]["opt"] == self.recipe.opt:
            load_optimizer_state(self.optimizer, state["optimizer"], self.recipe)
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
