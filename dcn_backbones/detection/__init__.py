"""Detection: torchvision's Faster and Mask R-CNN on the zoo's networks, in the papers' settings.

detector = faster_rcnn("dcnv2_resnet50", num_classes=21, backbone_args={"pretrained": True})
losses = detector(images, targets)         # training; called as torchvision's
detections = detector.eval()(images)       # boxes, labels, scores
save_detector(detector, "voc", categories)
detector, categories = load_detector("voc")
"""

from .detectors import build_detector, faster_rcnn, mask_rcnn
from .files import coco_detector, load_detector, save_detector
from .settings import DetectorSettings
from .visualize import check_picture, detect, draw_detections, save_picture

__all__ = [
    "DetectorSettings",
    "build_detector",
    "check_picture",
    "coco_detector",
    "detect",
    "draw_detections",
    "faster_rcnn",
    "load_detector",
    "mask_rcnn",
    "save_detector",
    "save_picture",
]
