"""The settings of one training run of a detector."""

from dataclasses import dataclass, field
from typing import Any

from train.settings import TrainingSettings


@dataclass
class DetectionRecipe(TrainingSettings):
    """One training run of a detector. Sizes are pixels.

    The schedule is that of Zhu et al., "Deformable ConvNets v2", 2019, section 5.1: 16 epochs of 16 images a
    step at a rate of 0.02, divided by 10 at the 10th and 14th epoch, momentum 0.9, weight decay 1e-4. Another
    number of images in a step takes a rate in proportion.
    """

    task: str = "detection"
    # fields of `DetectorSettings`, which says what they mean; detector_kwargs has any of the others
    detector: str = "faster_rcnn"  # or "mask_rcnn"
    backbone: str = "dcnv2_resnet50"
    neck: str = ""  # none: the papers', "c5" of a Faster R-CNN and "fpn" of a Mask R-CNN
    box_pool: str = "modulated"
    norm: str = "frozen"
    trainable_backbone_layers: int = 3
    mimic: str = ""  # "foreground" for R-CNN feature mimicking
    mimic_regions: int = 32  # of an image
    # of an image's shorter side: training draws one, evaluation takes the last
    min_size: list[int] = field(default_factory=lambda: [800])
    max_size: int = 1333
    detector_kwargs: dict[str, Any] = field(default_factory=dict)

    # below data_dir: COCO JSON and the folder with its images
    train_annotations: str = "annotations/instances_train2017.json"
    train_images: str = "train2017"
    val_annotations: str = "annotations/instances_val2017.json"
    val_images: str = "val2017"
    max_bad_boxes: int = 0  # that are left out: without area, outside their image, with a mask that is none

    workers: int = 2
    batch_size: int = 2
    epochs: int = 16
    opt: str = "momentum"
    lr: float = 0.02
    weight_decay: float = 1e-4
    sched: str = "multistep"
    decay_milestones: list[int] = field(default_factory=lambda: [10, 14])
    warmup_epochs: float = 0.0
    warmup_lr: float = 0.0
    amp: bool = False
    channels_last: bool = False

    # Another value is another network, which cannot take the weights of a checkpoint.
    identity = (
        "task",
        "detector",
        "backbone",
        "neck",
        "box_pool",
        "norm",
        "trainable_backbone_layers",
        "mimic",
        "detector_kwargs",
    )

    def __post_init__(self) -> None:
        self.neck = self.neck or ("fpn" if self.detector == "mask_rcnn" else "c5")
