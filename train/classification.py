"""A training step of a classifier."""

import torch
from torch import Tensor, nn

from train.distribution import World
from train.learner import Learner
from train.losses import Criterion
from train.networks import deformed_model
from train.offsets import offset_penalty
from train.optim import carry_over
from train.recipe import Recipe


class ClassificationLearner(Learner):
    """A classifier and all that trains it.

    Args:
        model: The network, on the CPU.
        criterion: Called with images, logits and targets.
        steps_per_epoch: Optimizer steps, for the schedule.
    """

    measures = {"loss": 1.0, "top1": 100.0}

    def __init__(
        self, model: nn.Module, criterion: Criterion, recipe: Recipe, world: World, steps_per_epoch: int
    ) -> None:
        super().__init__(model, recipe, world, steps_per_epoch)
        self.criterion = criterion
        if recipe.compile:
            self.network = torch.compile(self.network)

    def train(self) -> None:
        """Training mode, but for batch norm that the recipe freezes."""
        super().train()
        for module in self.model.modules():
            if self.recipe.freeze_bn and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the sum of the losses, the number of right images and of all images.

        Images are (B, 3, H, W), targets labels (B,) or soft targets (B, num_classes).
        """
        memory_format = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        images = images.to(self.world.device, memory_format=memory_format, non_blocking=True)
        targets = targets.to(self.world.device, non_blocking=True)
        with self.autocast():
            logits = self.network(images).float()  # (B, num_classes)
            loss = self.criterion(images, logits, targets) + offset_penalty(self.model)
        labels = targets.argmax(1) if targets.ndim == 2 else targets
        right = (logits.argmax(1) == labels).double()  # (B,)
        sums = [loss.detach().double() * len(images), right.sum(), torch.ones_like(right).sum()]
        return loss, torch.stack(sums)

    def deformed(self) -> "ClassificationLearner":
        """The same learner with the deformable network, which computes what the plain one does.

        Parameters of the same name keep their optimizer state and their average.
        """
        learner = ClassificationLearner(
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
