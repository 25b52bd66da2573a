"""Small detectors, and two images of which one has no objects."""

from functools import partial

import pytest
import torch
from torch import Tensor

from dcn_backbones.detection import faster_rcnn, mask_rcnn

# Everything small, and a backbone that learns although it was never trained: all of its branches count.
SMALL = dict(
    backbone="dcnv2_resnet18",
    num_classes=4,
    backbone_args={"zero_init_last": False},
    trainable_backbone_layers=5,
    min_size=64,
    max_size=96,
    anchor_sizes=(8, 16, 32, 64, 128),
    rpn_post_nms_top_n_train=30,
    rpn_post_nms_top_n_test=10,
    box_batch_size_per_image=16,
)


def small(build, **settings):
    """A function that builds: ``build`` with the settings over `SMALL`."""
    return partial(build, **{**SMALL, **settings})


small_faster_rcnn = partial(small, faster_rcnn)
small_mask_rcnn = partial(small, mask_rcnn)


@pytest.fixture
def images() -> list[Tensor]:
    return [torch.rand(3, 64, 80), torch.rand(3, 64, 64)]


@pytest.fixture
def targets() -> list[dict[str, Tensor]]:
    """Two objects in the first image, none in the second."""
    masks = torch.zeros(2, 64, 80, dtype=torch.uint8)
    masks[0, 10:40, 10:30] = masks[1, 20:60, 30:70] = 1
    return [
        {
            "boxes": torch.tensor([[10.0, 10, 30, 40], [30, 20, 70, 60]]),
            "labels": torch.tensor([1, 3]),
            "masks": masks,
        },
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "masks": torch.zeros(0, 64, 64, dtype=torch.uint8),
        },
    ]
