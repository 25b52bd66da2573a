"""torchvision's Faster and Mask R-CNN on any network of timm, in the papers' settings."""

import dataclasses
import json
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from .backbones import Backbone, architecture, keep_level, make_backbone, pixel_statistics
from .mimic import FeatureMimic, MimickingFasterRCNN, MimickingMaskRCNN
from .roi_pools import make_roi_pool
from .settings import FASTER_RCNN, MASK_RCNN, DetectorSettings

_CLASSES = {
    (FASTER_RCNN, False): FasterRCNN,
    (FASTER_RCNN, True): MimickingFasterRCNN,
    (MASK_RCNN, False): MaskRCNN,
    (MASK_RCNN, True): MimickingMaskRCNN,
}


def faster_rcnn(backbone: str = "dcnv2_resnet50", num_classes: int = 91, **settings) -> FasterRCNN:
    """Faster R-CNN as the papers have it: by default DCNv2's last row of Table 1, mdconv@c3~c5 + mdpool.

    It is called as torchvision's: in training with images and targets, giving losses, else with images. The
    rows of the tables are a keyword away::

        faster_rcnn("resnet50", box_pool="max")                         # regular (RoIpooling)
        faster_rcnn("resnet50", box_pool="align")                       # regular (aligned RoIpooling)
        faster_rcnn("dcnv1_resnet50", box_pool="deform")                # dconv@c5 + dpool (DCNv1)
        faster_rcnn("dcnv2_resnet50", mimic="foreground")               # DCNv2 with feature mimicking
        faster_rcnn("dcnv2_resnet50", box_pool="align", neck="fpn")     # MMDetection: mdconv(c3-c5)
        faster_rcnn(box_pool="align", neck="fpn", backbone_args={"offset_groups": 4})  # the same, dg=4
        faster_rcnn("resnet50", box_pool="modulated", neck="fpn")       # MMDetection: mdpool alone

    Args:
        backbone: A network of timm.
        num_classes: With background.
        **settings: Of `DetectorSettings`.

    Returns:
        A detector that also has its settings, ``detector.settings``, as `build_detector` takes them.

    Raises:
        ValueError: When a setting is not known or does not fit the others or the backbone, or the file of the
            backbone's weights is damaged or another network's.
        FileNotFoundError: When there is no such file.
        TypeError: When there is no setting of a name.
    """
    return build_detector(DetectorSettings(FASTER_RCNN, backbone, num_classes, **settings))


def mask_rcnn(
    backbone: str = "dcnv2_resnet50", num_classes: int = 91, *, neck: str = "fpn", **settings
) -> MaskRCNN:
    """Mask R-CNN as DCNv2's section 5.1 has it, on a feature pyramid; see `faster_rcnn`.

    Boxes are pooled into 7x7 bins and masks into 14x14, both as ``box_pool`` says. Deformable pooling of
    14x14 bins has a large branch of its own, 52.0 million parameters with modulation; the counts of DCNv2's
    Table 1 leave it out.
    """
    return build_detector(DetectorSettings(MASK_RCNN, backbone, num_classes, neck=neck, **settings))


def build_detector(settings: DetectorSettings) -> FasterRCNN:
    """The detector of the settings, in training mode; its own ``settings`` are a dict that JSON can hold.

    Args:
        settings: Which detector, on which backbone, with which weights of it.

    Raises:
        ValueError: When a setting does not fit the backbone, timm cannot build that, or the file of its
            weights is damaged or another network's.
        FileNotFoundError: When there is no such file.
    """
    backbone = make_backbone(settings)
    settings = _resolved(settings, backbone)
    detector = _CLASSES[settings.architecture, settings.mimic is not None](
        backbone,
        **settings.of_torchvision(),
        **_proposals(settings, backbone),
        **_roi_pools(settings, backbone),
    )
    if settings.neck == "c5":
        detector.rpn.register_forward_pre_hook(partial(keep_level, backbone.proposal_level))
    for head in (detector.rpn.head, detector.roi_heads.box_predictor):
        head.register_forward_hook(_positions_need_float32)
    if settings.mimic is not None:
        detector.mimic = _make_mimic(settings, detector)
    detector.settings = json.loads(json.dumps(dataclasses.asdict(settings)))  # lists, as read from a file
    return detector


def _make_mimic(settings: DetectorSettings, detector: FasterRCNN) -> FeatureMimic:
    in_features = detector.roi_heads.box_predictor.cls_score.in_features
    options = (settings.mimic, settings.mimic_regions, settings.mimic_weight)
    return FeatureMimic(in_features, settings.num_classes, *options)


def _positions_need_float32(head: nn.Module, inputs: tuple, output: Any) -> Any:
    """Under autocast boxes get the type of what predicts them, and bfloat16 has steps of 4 from 512 on."""
    if isinstance(output, Tensor):
        return output.float() if torch.is_autocast_enabled(output.device.type) else output
    return type(output)(_positions_need_float32(head, inputs, part) for part in output)


def _roi_pools(settings: DetectorSettings, backbone: Backbone) -> dict[str, MultiScaleRoIAlign]:
    """7x7 bins for boxes, 14x14 for masks (DCNv2, section 5.1)."""
    bins = {"box_roi_pool": 7}
    if settings.architecture == MASK_RCNN:
        bins["mask_roi_pool"] = 14
    levels = (backbone.out_channels, backbone.box_levels)
    return {
        name: make_roi_pool(settings.box_pool, *levels, size, settings.sampling_ratio)
        for name, size in bins.items()
    }


def _proposals(settings: DetectorSettings, backbone: Backbone) -> dict[str, nn.Module]:
    """Anchors and the head of the proposals: one size on each level of a pyramid, all of them on conv4."""
    if settings.neck == "fpn":
        sizes = tuple((size,) for size in settings.anchor_sizes)
        channels = backbone.out_channels
    else:
        sizes = (tuple(settings.anchor_sizes),)
        channels = backbone.proposal_channels
    anchors = AnchorGenerator(sizes, (tuple(settings.aspect_ratios),) * len(sizes))
    head = RPNHead(channels, anchors.num_anchors_per_location()[0])
    return {"rpn_anchor_generator": anchors, "rpn_head": head}


def _resolved(settings: DetectorSettings, backbone: Backbone) -> DetectorSettings:
    """The settings that build the same detector without the weights that its backbone started from.

    A name such as ``local-dir:FOLDER`` brings arguments of the network and the statistics of its pixels.
    """
    found = {**architecture(backbone.body), **pixel_statistics(backbone.body)}
    kept = {name: getattr(settings, name) or found[name] for name in ("image_mean", "image_std")}
    return dataclasses.replace(settings, **{**found, **kept})
