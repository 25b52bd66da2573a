"""A detector in a folder and back."""

import json
from copy import deepcopy

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from dcn_backbones.detection import faster_rcnn, load_detector, save_detector

from .conftest import small_faster_rcnn, small_mask_rcnn

NAMES = ["cat", "dog", "rocket"]


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return small_faster_rcnn(backbone="resnet18", box_pool="align")().eval()


@pytest.fixture(scope="module")
def saved(detector, tmp_path_factory):
    """A folder with a detector; treat it as read-only."""
    folder = tmp_path_factory.mktemp("saved") / "detector"
    save_detector(detector.to(memory_format=torch.channels_last), folder, NAMES)
    return folder


def test_the_same_detections(detector, saved, images):
    loaded, categories = load_detector(saved)
    assert categories == NAMES and not loaded.training and loaded.settings == detector.settings
    loaded.to(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), detector(images))
    assert {file.name for file in saved.iterdir()} == {"model.safetensors", "detector.json"}


def test_settings_are_kept_but_not_where_the_weights_came_from(tmp_path):
    network = timm.create_model("dcnv2_resnet18", num_classes=2, offset_groups=2)
    data_config = {"input_size": (3, 64, 64), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    save_for_hf(
        network, tmp_path, safe_serialization=True, data_config=data_config, model_args={"offset_groups": 2}
    )
    with torch.device("meta"):
        settings = faster_rcnn(f"local-dir:{tmp_path}", min_size=[480, 800], mimic="both").settings
    assert str(tmp_path) not in json.dumps(settings)
    assert settings["backbone"] == "dcnv2_resnet18" and settings["backbone_args"]["offset_groups"] == 2
    assert settings["image_mean"] == [0.1, 0.2, 0.3] and settings["min_size"] == [480, 800]


def test_pretrained_weights_start_a_detector_and_are_not_needed_again(tmp_path):
    trained = small_mask_rcnn(backbone_args={"pretrained": True}, neck="c5", box_pool="align")()
    original = timm.create_model("dcnv2_resnet18", pretrained=True)
    assert torch.equal(trained.backbone.body.layer4[1].conv2.weight, original.layer4[1].conv2.weight)
    assert "pretrained" not in trained.settings["backbone_args"]


def test_a_plain_classifiers_checkpoint_starts_a_deformable_backbone(tmp_path):
    plain = timm.create_model("resnet18", num_classes=7)
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    path = str(tmp_path / "plain.safetensors")
    started = small_faster_rcnn(backbone_args={"checkpoint_path": path}, box_pool="align")()
    assert torch.equal(started.backbone.body.layer1[0].conv1.weight, plain.layer1[0].conv1.weight)
    assert torch.equal(started.backbone.body.layer4[1].conv2.weight, 2 * plain.layer4[1].conv2.weight)
    assert path not in json.dumps(started.settings)


@pytest.mark.parametrize(
    "content, kind, message",
    [
        (
            None,
            FileNotFoundError,
            "checkpoint_path '.*plain.safetensors' is not a file; expected a network's",
        ),
        (b"damaged", ValueError, "plain.safetensors cannot be read as tensors alone"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_one_sentence_that_names_it(content, kind, message, tmp_path):
    path = tmp_path / "plain.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind, match=message) as error:
        small_faster_rcnn(backbone_args={"checkpoint_path": str(path)})()
    assert "\n" not in str(error.value)


def test_a_failed_write_leaves_what_was_there(detector, saved):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    other = deepcopy(detector)
    nn.init.ones_(other.roi_heads.box_predictor.cls_score.bias)
    other.settings["unwritable"] = object()
    with pytest.raises(TypeError):
        save_detector(other, saved, NAMES)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_names_have_to_fit_the_classes(detector, tmp_path):
    with pytest.raises(ValueError, match="categories has 2 names for a detector of 4 classes; expected 3"):
        save_detector(detector, tmp_path, NAMES[:2])
    assert not any(tmp_path.iterdir())


def test_other_categories_are_refused_in_one_sentence(saved):
    assert load_detector(saved, NAMES)[1] == NAMES
    message = (
        r"detects 3 categories \(cat, dog, rocket\), but 4 categories \(dog, cat, a, ...\) are asked for"
    )
    with pytest.raises(ValueError, match=message):
        load_detector(saved, ["dog", "cat", "a", "b"])
    with pytest.raises(ValueError, match="expected the same categories in the same order"):
        load_detector(saved, ["dog", "cat", "rocket"])


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("detector.json", None, "detector.json is not a file"),
        ("detector.json", b"{", "detector.json does not describe a detector"),
        ("detector.json", b'{"settings": {"colour": 1}, "categories": []}', "colour"),
        ("model.safetensors", None, "model.safetensors is not a file"),
        ("model.safetensors", b"damaged", "model.safetensors cannot be read as tensors"),
    ],
)
def test_damaged_folders(saved, tmp_path, file, content, message):
    for name in ("detector.json", "model.safetensors"):
        (tmp_path / name).symlink_to(saved / name)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises((ValueError, OSError), match=message) as error:
        load_detector(tmp_path)
    assert "\n" not in str(error.value)


def test_weights_of_another_detector(saved, tmp_path):
    description = json.loads((saved / "detector.json").read_text())
    description["settings"]["num_classes"] = 3
    (tmp_path / "detector.json").write_text(json.dumps({**description, "categories": NAMES[:2]}))
    (tmp_path / "model.safetensors").symlink_to(saved / "model.safetensors")
    with pytest.raises(ValueError, match="size mismatch for roi_heads.box_predictor"):
        load_detector(tmp_path)
