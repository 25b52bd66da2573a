"""Fine-tunes dcnv2_resnet50 in torchvision's Faster R-CNN, on images with annotations in COCO's JSON.

python examples/finetune_detector.py IMAGES ANNOTATIONS.json detector.safetensors

All in one file and on one device; train/detect.py is what has schedules, evaluation and resuming.
"""

import argparse
import os

import timm
import torch
from safetensors.torch import save_model
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms import v2

import dcn_backbones  # noqa: F401  (registers the models)
from dcn_backbones.layers import offset_lr_scales


class Backbone(nn.Module):
    """A pretrained network of timm under a feature pyramid, as torchvision's detectors take it."""

    out_channels = 256

    def __init__(self, name: str) -> None:
        super().__init__()
        body = timm.create_model(name, pretrained=True, features_only=True, out_indices=(1, 2, 3, 4))
        self.body = freeze_batch_norm_2d(body)  # batches of a few images have no statistics to learn from
        self.fpn = FeaturePyramidNetwork(body.feature_info.channels(), 256, LastLevelMaxPool())

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.fpn({str(level): feature for level, feature in enumerate(self.body(images))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("images", "annotations", "output"):
        parser.add_argument(name)
    parser.add_argument("--backbone", default="dcnv2_resnet50")
    parser.add_argument("--size", type=int, default=800, help="shorter side of the images, in pixels")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=0.0025, help="for batches of 2 (0.02 for 16)")
    options = parser.parse_args()

    transform = v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    dataset = CocoDetection(options.images, options.annotations, transforms=transform)
    classes = max(dataset.coco.getCatIds()) + 1
    with_objects = [index for index, image in enumerate(dataset.ids) if dataset.coco.getAnnIds(image)]
    dataset = wrap_dataset_for_transforms_v2(dataset, target_keys=("boxes", "labels"))
    dataset = torch.utils.data.Subset(dataset, with_objects)
    loader = DataLoader(
        dataset, batch_size=2, shuffle=True, collate_fn=lambda batch: zip(*batch, strict=True)
    )

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    detector = FasterRCNN(Backbone(options.backbone), classes, min_size=options.size).to(device).train()
    scales = offset_lr_scales(detector)
    groups = [
        {"params": parameter, "lr": options.lr * scales.get(name, 1.0)}
        for name, parameter in detector.named_parameters()
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4)
    for epoch in range(options.epochs):
        for images, targets in loader:
            targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
            losses = detector([image.to(device) for image in images], targets)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: " + ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))
        save_model(detector, f"{options.output}.tmp")
        os.replace(f"{options.output}.tmp", options.output)


if __name__ == "__main__":
    main()
