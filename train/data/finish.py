"""The last steps of a batch, in the main process and on the run's device."""

from collections.abc import Iterable

import torch
from timm.data import Mixup

from train.data.damage import DamageList
from train.data.images import Batch
from train.recipe import Recipe


class BatchFinisher:
    """Moves batches to the device and normalises those that workers left as bytes."""

    def __init__(self, device: torch.device, mean: Iterable[float], std: Iterable[float], max_damaged: int):
        self.device = device
        self.mean = 255 * torch.tensor(tuple(mean), device=device).view(-1, 1, 1)  # (3, 1, 1)
        self.std = 255 * torch.tensor(tuple(std), device=device).view(-1, 1, 1)
        self.damage = DamageList(max_damaged)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) float32 and labels (B,); raises DamagedImageError beyond the limit."""
        self.damage.add(batch.damaged)
        images = batch.images.to(self.device, non_blocking=True)
        if images.dtype == torch.uint8:  # a quarter of the bytes on the way here
            images = images.float().sub_(self.mean).div_(self.std)
        return images, batch.targets.to(self.device, non_blocking=True)


def create_mixup(recipe: Recipe) -> Mixup | None:
    """timm's mixup and cutmix over a batch, or None; raises ValueError for an odd batch."""
    if recipe.mixup == 0 and recipe.cutmix == 0:
        return None
    if recipe.batch_size % 2:
        raise ValueError(f"batch_size is {recipe.batch_size}, expected an even one as mixup mixes pairs")
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mixup_prob,
        switch_prob=recipe.mixup_switch_prob,
        label_smoothing=recipe.label_smoothing,
        num_classes=recipe.num_classes,
    )
