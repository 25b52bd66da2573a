"""What a detector is built from: every option, its value in the papers, and where that stands."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FASTER_RCNN, MASK_RCNN = "faster_rcnn", "mask_rcnn"

_CHOICES = {
    "architecture": (FASTER_RCNN, MASK_RCNN),
    "neck": ("c5", "fpn"),
    "box_pool": ("max", "align", "deform", "modulated"),
    "norm": ("frozen", "sync", "batch"),
    "mimic": (None, "foreground", "background", "both"),
}
_PYRAMID_LEVELS = 5
# Proposals that enter non-maximum suppression, (training, inference): Detectron's configurations, per level.
_PRE_NMS_TOP_N = {"c5": (12000, 6000), "fpn": (2000, 1000)}


@dataclass(frozen=True)
class DetectorSettings:
    """The settings of a Faster or Mask R-CNN.

    Sources: "DCNv1" is Dai et al., "Deformable Convolutional Networks", 2017; "DCNv2" is Zhu et al.,
    "Deformable ConvNets v2", 2019, whose section 5.1 leaves all that it does not state to Detectron. Where a
    name is torchvision's it means the same there. Sizes are pixels.

    Attributes:
        architecture: ``faster_rcnn`` or ``mask_rcnn``.
        backbone: A network of timm that has ``features_only``.
        num_classes: With background, which is class 0. COCO's category ids, as torchvision counts them: 91.
        backbone_args: More arguments of ``timm.create_model``: ``pretrained``, ``checkpoint_path``, where
            deformation goes, ``offset_groups=4`` for MMDetection's dg=4. Their values are what JSON can hold.
        neck: ``fpn`` is a feature pyramid (DCNv2 5.1, Mask R-CNN). ``c5`` is the papers' own Faster R-CNN
            (DCNv1 section 3, DCNv2 2.2): conv5 at stride 16 with all its kernels dilated, a 1x1 convolution
            from it to 256 channels for the regions, and proposals from conv4.
        box_pool: How a region becomes 7x7 bins, and 14x14 for masks (DCNv2 5.1). ``max`` is the RoIpooling of
            Table 1's first row, ``align`` torchvision's aligned pooling, ``deform`` DCNv1's (dpool),
            ``modulated`` DCNv2's (mdpool).
        norm: The backbone's batch norm: ``frozen`` as in Detectron, ``sync`` over all processes, or
            ``batch``. A backbone without pretrained weights needs one of the last two.
        trainable_backbone_layers: How many stages of the backbone are trained, counted from its end; 3 leaves
            the stem and conv2 as they are, as in Detectron. All of them are 5 in a ResNet.
        mimic: The regions whose R-CNN features are mimicked in training (DCNv2 3.3 and Table 2):
            ``foreground``, as in the paper's best detectors, ``background`` or ``both``.
        mimic_weight: Of each of the two losses that mimicking adds (DCNv2 3.3).
        mimic_regions: Regions of an image that are mimicked (DCNv2 3.3).
        sampling_ratio: Sampling points of a bin along each axis (DCNv2 3.2).
        min_size: The image's shorter side (DCNv2 5.1); of several, training draws one for each image, and
            inference takes the last.
        max_size: The largest longer side (Detectron).
        image_mean: Mean of the pixels, in 0 to 1; by default what the backbone was trained with.
        image_std: Standard deviation of the pixels, likewise.
        anchor_sizes: Sides of the square anchors (DCNv2 5.1: 5 scales); in a pyramid, one for each level.
        aspect_ratios: Height by width of the anchors (DCNv2 5.1: 3 ratios).
        rpn_pre_nms_top_n_train: Proposals that enter non-maximum suppression, for each level. By default
            Detectron's: 2000 for ``fpn`` and 12000 for ``c5``.
        rpn_pre_nms_top_n_test: Likewise at inference: 1000 and 6000.
        rpn_post_nms_top_n_train: Proposals that are left (DCNv2 5.1).
        rpn_post_nms_top_n_test: Likewise at inference (DCNv2 5.1).
        rpn_nms_thresh: Overlap (IoU) above which the lesser of two proposals goes (DCNv2 5.1).
        rpn_fg_iou_thresh: Overlap from which on an anchor is positive (Detectron).
        rpn_bg_iou_thresh: Overlap below which it is negative (Detectron).
        rpn_batch_size_per_image: Anchors that are trained on (DCNv2 5.1).
        rpn_positive_fraction: Of them, how many at most are positive (DCNv2 5.1, 1:1).
        box_batch_size_per_image: Proposals that are trained on (DCNv2 5.1).
        box_positive_fraction: Of them, how many at most are positive (DCNv2 5.1, 1:3).
        box_fg_iou_thresh: Overlap from which on a proposal is positive (Detectron).
        box_bg_iou_thresh: Overlap below which it is negative (Detectron).
        box_score_thresh: The lowest score of a detection (Detectron).
        box_nms_thresh: Overlap above which the lesser of two detections of a class goes (Detectron).
        box_detections_per_img: The most detections in an image (Detectron and COCO).

    Raises:
        ValueError: When a value is none of the known ones, or two do not fit each other.
    """

    architecture: str = FASTER_RCNN
    backbone: str = "dcnv2_resnet50"
    num_classes: int = 91
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    neck: str = "c5"
    box_pool: str = "modulated"
    norm: str = "frozen"
    trainable_backbone_layers: int = 3
    mimic: str | None = None
    mimic_weight: float = 0.1
    mimic_regions: int = 32
    sampling_ratio: int = 2

    min_size: int | Sequence[int] = 800
    max_size: int = 1333
    image_mean: Sequence[float] | None = None
    image_std: Sequence[float] | None = None

    anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512)
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    rpn_pre_nms_top_n_train: int | None = None
    rpn_pre_nms_top_n_test: int | None = None
    rpn_post_nms_top_n_train: int = 2000
    rpn_post_nms_top_n_test: int = 1000
    rpn_nms_thresh: float = 0.7
    rpn_fg_iou_thresh: float = 0.7
    rpn_bg_iou_thresh: float = 0.3
    rpn_batch_size_per_image: int = 256
    rpn_positive_fraction: float = 0.5

    box_batch_size_per_image: int = 512
    box_positive_fraction: float = 0.25
    box_fg_iou_thresh: float = 0.5
    box_bg_iou_thresh: float = 0.5
    box_score_thresh: float = 0.05
    box_nms_thresh: float = 0.5
    box_detections_per_img: int = 100

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                expected = ", ".join(str(choice) for choice in known)
                raise ValueError(f"{name}={getattr(self, name)!r} is not known; expected one of {expected}.")
        try:
            json.dumps(dict(self.backbone_args))
        except TypeError as error:
            raise ValueError(
                f"backbone_args cannot be written to a file: {error}; expected plain values."
            ) from error
        if self.num_classes < 2:
            raise ValueError(
                f"num_classes={self.num_classes} leaves no class beside the background; expected 2 or more."
            )
        if self.neck == "fpn" and len(self.anchor_sizes) != _PYRAMID_LEVELS:
            raise ValueError(
                f"anchor_sizes={self.anchor_sizes!r} has {len(self.anchor_sizes)} sizes; "
                f"expected {_PYRAMID_LEVELS}, one for each level of the pyramid."
            )

    def of_torchvision(self) -> dict[str, Any]:
        """The arguments that torchvision's detectors know by the same names."""
        own = {name: value for name, value in vars(self).items() if name.startswith(("rpn_", "box_"))}
        del own["box_pool"]
        for name, default in zip(("train", "test"), _PRE_NMS_TOP_N[self.neck], strict=True):
            if own[f"rpn_pre_nms_top_n_{name}"] is None:
                own[f"rpn_pre_nms_top_n_{name}"] = default
        names = ("num_classes", "min_size", "max_size", "image_mean", "image_std")
        return {**own, **{name: getattr(self, name) for name in names}}
