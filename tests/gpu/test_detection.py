"""Detectors on a GPU: the CPU's proposals' features, and training in half types with mimicking."""

import pytest
import torch

from ..detection.conftest import images, small_faster_rcnn, targets  # noqa: F401  (the two are fixtures)

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)


@pytest.mark.parametrize("kind", ["max", "align", "deform", "modulated"])
def test_features_are_those_of_the_cpu(kind, images):  # noqa: F811
    detector = small_faster_rcnn(box_pool=kind)().eval()
    boxes = [torch.tensor([[10.0, 10, 30, 40], [30, 20, 70, 60]])]
    found = []
    for device in ("cpu", "cuda"):
        detector.to(device)
        with torch.no_grad():
            features = detector.backbone(images[0][None].to(device))
            pooled = detector.roi_heads.box_roi_pool(features, [boxes[0].to(device)], [(64, 80)])
            found.append(detector.roi_heads.box_head(pooled).cpu())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["max", "align", "deform", "modulated"])
def test_trains_and_detects_in_half_types(kind, dtype, images, targets):  # noqa: F811
    detector = small_faster_rcnn(box_pool=kind, norm="batch", mimic="foreground")().cuda()
    images = [image.cuda() for image in images]
    targets = [{name: value.cuda() for name, value in target.items()} for target in targets]
    with torch.autocast("cuda", dtype):
        losses = detector(images, targets)
        detections = detector.eval()(images)
    sum(losses.values()).backward()
    assert len(losses) == 6 and all(loss.isfinite() for loss in losses.values())
    assert detector.backbone.body.layer2[0].conv1.conv_offset.weight.grad.abs().sum() > 0
    assert all(found["boxes"].dtype == torch.float32 for found in detections)
