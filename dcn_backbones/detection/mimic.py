"""R-CNN feature mimicking: a region's features learn to be those of its cropped image.

Source: Zhu et al., "Deformable ConvNets v2", 2019, section 3.3. Training only: at inference a detector with
it computes what one without it does, to the bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.transforms.v2.functional import resized_crop

PATCH_SIZE = 224  # of a cropped region, in pixels: 14x14 features at stride 16


class FeatureMimic(nn.Module):
    """The branch that sees each region alone: it shares all of the detector but its classifier.

    Args:
        in_features: Length of a region's features, behind the two fully connected layers.
        num_classes: With background.
        regions: Which regions are mimicked: ``foreground``, ``background`` or ``both``.
        regions_per_image: How many of them, at most.
        weight: Of both losses.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        regions: str = "foreground",
        regions_per_image: int = 32,
        weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.classifier = nn.Linear(in_features, num_classes)
        self.regions = regions
        self.regions_per_image = regions_per_image
        self.weight = weight

    def choose(self, labels: Tensor) -> Tensor:
        """Indices of the mimicked regions of an image, in random order, from all labels ``(R,)``."""
        wanted = {"foreground": labels > 0, "background": labels == 0, "both": labels >= 0}[self.regions]
        (indices,) = torch.where(wanted)
        return indices[torch.randperm(len(indices), device=labels.device)[: self.regions_per_image]]

    def forward(
        self,
        detector: GeneralizedRCNN,
        images: Tensor,
        boxes: list[Tensor],
        features: Tensor,
        labels: list[Tensor],
    ) -> dict[str, Tensor]:
        """The two weighted losses.

        Args:
            detector: The detector that the branch belongs to.
            images: ``(N, 3, H, W)``, as the backbone sees them.
            boxes: The regions that the detector is trained on, ``(R_i, 4)`` for each image.
            features: Theirs, ``(sum of R_i, in_features)``.
            labels: Theirs, ``(R_i,)`` for each image, 0 for background.
        """
        chosen = [self.choose(of_image) for of_image in labels]
        counts = [len(of_image) for of_image in boxes]
        features = torch.cat(
            [of_image[index] for of_image, index in zip(features.split(counts), chosen, strict=True)]
        )
        targets = torch.cat([of_image[index] for of_image, index in zip(labels, chosen, strict=True)])
        patches = crop_regions(
            images, [of_image[index] for of_image, index in zip(boxes, chosen, strict=True)]
        )
        alone = region_features(detector, patches if len(patches) else _stand_in(images))[: len(targets)]
        return self._losses(features, alone, targets, len(images))

    def _losses(self, features: Tensor, alone: Tensor, targets: Tensor, images: int) -> dict[str, Tensor]:
        logits = self.classifier(alone)
        # A sum of no regions, unlike a mean of none, is zero and still reaches every parameter.
        classification = F.cross_entropy(logits, targets, reduction="sum") / max(len(targets), 1)
        return {
            "loss_mimic": self.weight * mimic_loss(alone, features) / images,
            "loss_mimic_classifier": self.weight * classification,
        }


def mimic_loss(alone: Tensor, features: Tensor) -> Tensor:
    """Equation 3: the sum over all regions of one minus the cosine between two features ``(R, C)``.

    Both learn: the paper stops no gradient, and the two branches are one network.
    """
    return (1 - F.cosine_similarity(alone.float(), features.float())).sum()


def crop_regions(images: Tensor, boxes: list[Tensor]) -> Tensor:
    """What lies in each box and nothing around it, resized: ``(sum of R_i, 3, 224, 224)``.

    Args:
        images: ``(N, 3, H, W)``.
        boxes: ``(R_i, 4)`` for each image, ``[x1, y1, x2, y2]`` in its pixels; their borders go outwards to
            whole pixels.
    """
    size = [PATCH_SIZE, PATCH_SIZE]
    patches = [images.new_empty(0, images.shape[1], *size)]
    for image, of_image in zip(images, boxes, strict=True):
        edges = torch.cat([of_image[:, :2].floor(), of_image[:, 2:].ceil()], dim=1).int()
        for left, top, right, bottom in edges.tolist():
            shape = (max(bottom - top, 1), max(right - left, 1))
            patches.append(resized_crop(image[None], top, left, *shape, size, antialias=True))
    return torch.cat(patches)


def _stand_in(images: Tensor) -> Tensor:
    """One patch where there is no region, since processes that synchronise batch norm wait for each other."""
    height, width = images.shape[-2:]
    return crop_regions(images[:1], [images.new_tensor([[0, 0, width, height]])])


def region_features(detector: GeneralizedRCNN, patches: Tensor) -> Tensor:
    """Features of patches ``(R, 3, 224, 224)``, each one a region that covers its whole image: ``(R, C)``.

    In a pyramid a region of 224 pixels belongs to the level of stride 16, 14x14 features, as in the paper.
    """
    whole = patches.new_tensor([[0, 0, PATCH_SIZE, PATCH_SIZE]])
    sizes = [(PATCH_SIZE, PATCH_SIZE)] * len(patches)
    pooled = detector.roi_heads.box_roi_pool(detector.backbone(patches), [whole] * len(patches), sizes)
    return detector.roi_heads.box_head(pooled)


class _Mimicking(GeneralizedRCNN):
    """A detector whose training losses include those of its `mimic`."""

    mimic: FeatureMimic

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if not self.training:
            return super().forward(images, targets)
        with _record(self) as seen:
            losses = super().forward(images, targets)
        _, labels = self.roi_heads.assign_targets_to_proposals(
            seen["boxes"],
            [target["boxes"] for target in seen["targets"]],
            [target["labels"] for target in seen["targets"]],
        )
        return losses | self.mimic(self, seen["images"].tensors, seen["boxes"], seen["features"], labels)


class MimickingFasterRCNN(_Mimicking, FasterRCNN):
    """torchvision's Faster R-CNN with feature mimicking in training."""


class MimickingMaskRCNN(_Mimicking, MaskRCNN):
    """torchvision's Mask R-CNN with feature mimicking in training, of the features for boxes only."""


@contextmanager
def _record(detector: GeneralizedRCNN) -> Iterator[dict[str, Any]]:
    """What passes through a detector: images and targets as transformed, sampled boxes, their features."""
    seen = {}
    heads = detector.roi_heads
    hooks = [
        detector.transform.register_forward_hook(
            lambda _, inputs, output: seen.update(images=output[0], targets=output[1])
        ),
        heads.box_roi_pool.register_forward_pre_hook(lambda _, inputs: seen.update(boxes=inputs[1])),
        heads.box_head.register_forward_hook(lambda _, inputs, output: seen.update(features=output)),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
