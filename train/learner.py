"""What a training step changes: the network, its average, the optimizer, the schedule and the scaler."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from train.checkpoint import AVERAGED_WEIGHTS, WEIGHTS
from train.distribution import World, without_averaging
from train.losses import Criterion
from train.networks import deformed_model, place_model
from train.offsets import offset_penalty
from train.optim import carry_over, create_optimizer, create_scheduler, load_optimizer_state
from train.recipe import Recipe

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def amp_dtype(recipe: Recipe) -> torch.dtype | None:
    """The type of autocast, None without."""
    return AMP_DTYPES[recipe.amp_dtype] if recipe.amp else None


class Learner:
    """A network and all that trains it, in every process of a run.

    Args:
        model: The network, on the CPU.
        criterion: Called with images, logits and targets.
        steps_per_epoch: Optimizer steps, for the schedule.
    """

    def __init__(
        self, model: nn.Module, criterion: Criterion, recipe: Recipe, world: World, steps_per_epoch: int
    ) -> None:
        self.recipe, self.world, self.criterion, self.steps_per_epoch = (
            recipe,
            world,
            criterion,
            steps_per_epoch,
        )
        self.model = place_model(model, recipe, world.device)
        self.average = None
        if recipe.ema_decay > 0:
            self.average = ModelEmaV3(self.model, recipe.ema_decay, use_warmup=recipe.ema_warmup)
        self.network = world.wrap(self.model)
        if recipe.compile:
            self.network = torch.compile(self.network)
        self.optimizer = create_optimizer(self.model, recipe)
        self.scheduler = create_scheduler(self.optimizer, recipe, steps_per_epoch)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=amp_dtype(recipe) == torch.float16)

    @property
    def rate(self) -> float:
        """The learning rate of the last step, without the offsets' scale."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def train(self) -> None:
        """Training mode, but for batch norm that the recipe freezes."""
        self.network.train()
        for module in self.model.modules():
            if self.recipe.freeze_bn and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def step(self, batches: Iterable[tuple[Tensor, Tensor]], number: int) -> Tensor:
        """One optimizer step, counted from 0 over the run, over `accumulate` batches of this process.

        A batch is images (B, 3, H, W) and labels (B,) or soft targets (B, num_classes). Returns (3,) in
        float64 on the device: the sum of the losses, the number of right images and of all images.
        """
        self.scheduler.step_update(number)
        totals = torch.zeros(3, dtype=torch.float64, device=self.world.device)
        for position, (images, targets) in enumerate(batches, start=1):
            if position < self.recipe.accumulate:
                with without_averaging(self.network):
                    totals += self._accumulate_gradients(images, targets)
            else:
                totals += self._accumulate_gradients(images, targets)
        self.scaler.unscale_(self.optimizer)
        if self.recipe.clip_grad > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.model, number + 1)
        return totals

    def _accumulate_gradients(self, images: Tensor, targets: Tensor) -> Tensor:
        device, dtype = self.world.device, amp_dtype(self.recipe)
        memory_format = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        images = images.to(device, memory_format=memory_format, non_blocking=True)
        targets = targets.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = self.network(images).float()  # (B, num_classes)
            loss = self.criterion(images, logits, targets) + offset_penalty(self.model)
        self.scaler.scale(loss / self.recipe.accumulate).backward()
        labels = targets.argmax(1) if targets.ndim == 2 else targets
        right = (logits.argmax(1) == labels).double()  # (B,)
        return torch.stack([loss.detach().double() * len(images), right.sum(), torch.ones_like(right).sum()])

    def deformed(self) -> "Learner":
        """The same learner with the deformable network, which computes what the plain one does.

        Parameters of the same name keep their optimizer state and their average.
        """
        learner = Learner(
            deformed_model(self.model, self.recipe),
            self.criterion,
            self.recipe,
            self.world,
            self.steps_per_epoch,
        )
        if self.average is not None:
            learner.average.module.load_state_dict(self.average.module.state_dict())
        if self.scaler.is_enabled():
            learner.scaler.load_state_dict(self.scaler.state_dict())
        carry_over(self.optimizer, self.model, learner.optimizer, learner.model, self.recipe)
        return learner

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
        """
        self.model.load_state_dict(load_file(checkpoint / WEIGHTS))
        if self.average is not None:
            averaged = checkpoint / AVERAGED_WEIGHTS
            file = averaged if averaged.is_file() else checkpoint / WEIGHTS
            self.average.module.load_state_dict(load_file(file))
        if state["recipe"]["opt"] == self.recipe.opt:
            load_optimizer_state(self.optimizer, state["optimizer"], self.recipe)
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
