"""The scripts in `examples/` run as their headings say."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

pytest.importorskip("pycocotools", reason="torchvision reads COCO's annotations with it")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def coco(tmp_path) -> tuple[Path, Path]:
    """A folder of three small images, one without objects, and their annotations."""
    images, annotations = [], []
    for index, objects in enumerate(([[4, 6, 30, 40]], [[10, 10, 20, 20], [30, 5, 25, 40]], [])):
        Image.new("RGB", (64, 64), (80 * index, 120, 60)).save(tmp_path / f"{index}.jpg")
        images.append({"id": index, "file_name": f"{index}.jpg", "width": 64, "height": 64})
        for box in objects:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": index,
                    "category_id": 1 + index,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": [],
                }
            )
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return tmp_path, path


def test_finetune_detector(coco, tmp_path, monkeypatch, capsys):
    images, annotations = coco
    output = tmp_path / "detector.safetensors"
    arguments = [images, annotations, output, "--backbone", "dcnv2_resnet18", "--size", 64, "--epochs", 1]
    monkeypatch.setattr(sys, "argv", ["finetune_detector.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / "finetune_detector.py"), run_name="__main__")
    (epoch,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert epoch.startswith("epoch 1: loss_classifier ") and epoch.count(", loss_") == 3
    weights = load_file(output)
    assert weights["roi_heads.box_predictor.cls_score.weight"].shape == (3, 1024)
    before = timm.create_model("dcnv2_resnet18", pretrained=True).state_dict()
    for name in ("layer2.0.conv1.weight", "layer4.1.conv2.conv_offset.weight"):
        assert not torch.equal(weights[f"backbone.body.{name}"], before[name])
    assert torch.equal(weights["backbone.body.bn1.running_mean"], before["bn1.running_mean"])
    assert all(tensor.isfinite().all() for tensor in weights.values())
