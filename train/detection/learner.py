"""A training step of a detector."""

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from train.detection.data import Target
from train.detection.recipe import DetectionRecipe
from train.distribution import World
from train.learner import Learner
from train.offsets import offset_penalty

_LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
_MIMIC_LOSSES = ("loss_mimic", "loss_mimic_classifier")


def loss_names(settings: dict) -> tuple[str, ...]:
    """What a detector of these settings returns in training."""
    masks = ("loss_mask",) if settings["architecture"] == "mask_rcnn" else ()
    return (*_LOSSES, *masks, *(_MIMIC_LOSSES if settings["mimic"] else ()))


class DetectionLearner(Learner):
    """A detector and all that trains it; its loss is the sum of the detector's losses."""

    def __init__(
        self, model: FasterRCNN, recipe: DetectionRecipe, world: World, steps_per_epoch: int
    ) -> None:
        super().__init__(model, recipe, world, steps_per_epoch)
        self.names = loss_names(model.settings)
        self.measures = dict.fromkeys(("loss", *self.names), 1.0)

    def forward(self, images: list[Tensor], targets: list[Target], seed: int) -> tuple[Tensor, Tensor]:
        """The loss, and the sums over the images of it, of the detector's losses, and of 1.

        The proposals that the detector draws belong to the batch, by its seed, as its augmentation does.
        """
        torch.manual_seed(seed)  # CUDA's generators too
        with self.autocast():
            losses = self.network(images, targets)
            loss = sum(losses[name] for name in self.names) + offset_penalty(self.model)
        means = torch.stack([loss.detach(), *(losses[name].detach() for name in self.names)]).double()
        return loss, torch.cat([means * len(images), means.new_tensor([len(images)])])
