"""The loss of a recipe: timm's cross-entropies, and a teacher beside the labels."""

import timm
import torch
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.task import DistillationTeacher
from torch import Tensor, nn

import dcn_backbones  # noqa: F401  (registers the models)
from train.recipe import Recipe


class LabelLoss(nn.Module):
    """timm's loss for labels (B,) or soft targets (B, num_classes), which mixing has smoothed already."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        if recipe.loss == "bce":
            threshold = recipe.bce_target_threshold or None
            self.of_labels = self.of_soft = BinaryCrossEntropy(recipe.label_smoothing, threshold)
        else:
            self.of_labels = LabelSmoothingCrossEntropy(recipe.label_smoothing)
            self.of_soft = SoftTargetCrossEntropy()

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (self.of_soft if targets.ndim == 2 else self.of_labels)(logits, targets)


class Teacher(nn.Module):
    """A frozen timm model with its pretrained weights, and how far a student's logits are from its own.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015: the Kullback-Leibler
    divergence of both at a temperature, times its square.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        super().__init__()
        self.temperature = recipe.teacher_temperature
        self.network = DistillationTeacher(_pretrained_model(recipe.teacher, recipe.num_classes)).to(device)
        self.network.requires_grad_(False)
        for name, values in (("mean", recipe.mean), ("std", recipe.std)):
            self.register_buffer(name, torch.tensor(values, device=device).view(1, -1, 1, 1))

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        with torch.no_grad():
            own = self.network(self.network.normalize_input(images, self.mean, self.std)).float()
        student, teacher = (values.div(self.temperature).log_softmax(1) for values in (logits, own))
        divergence = nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return self.temperature**2 * divergence


def _pretrained_model(name: str, num_classes: int) -> nn.Module:
    try:
        model = timm.create_model(name, pretrained=True)
    except RuntimeError as error:  # of timm: an unknown name, a name without weights
        raise ValueError(f"teacher {name!r} cannot be built: {error}") from error
    if model.num_classes != num_classes:
        raise ValueError(f"teacher {name!r} has {model.num_classes} classes, expected {num_classes}")
    return model


class Criterion(nn.Module):
    """The labels' loss, and the teacher's with its weight if there is one."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        super().__init__()
        self.label_loss = LabelLoss(recipe)
        self.teacher = Teacher(recipe, device) if recipe.teacher else None
        self.teacher_weight = recipe.teacher_weight

    def forward(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of images (B, 3, H, W) whose logits are (B, num_classes)."""
        loss = self.label_loss(logits, targets)
        if self.teacher is not None:
            distillation = self.teacher(images, logits)
            loss = (1 - self.teacher_weight) * loss + self.teacher_weight * distillation
        return loss
