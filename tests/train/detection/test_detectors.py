import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from dcn_backbones.detection import save_detector
from dcn_backbones.layers import DeformConv2d
from train.checkpoint import WEIGHTS
from train.detection.detectors import make_detector, start_detector
from train.offsets import offset_penalty

NARROW = {"channels": [8, 8, 16, 16], "zero_init_last": False}
CATEGORIES = ["red", "blue"]


def randomised_classifier():
    """A plain ResNet-18 whose batch norms are not those of a new network."""
    model = timm.create_model("resnet18", num_classes=5, **NARROW)
    for name, tensor in model.state_dict().items():
        if "bn" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return model.eval()


def test_plain_classifier_starts_a_deformable_backbone_exactly(detection_recipe, tmp_path):
    classifier = randomised_classifier()
    save_file(classifier.state_dict(), tmp_path / WEIGHTS)
    recipe = detection_recipe(neck="fpn", detector_kwargs={"anchor_sizes": [8, 16, 24, 32, 64]})
    for start in (tmp_path, tmp_path / WEIGHTS):
        detector = make_detector(recipe, 3).eval()
        start_detector(detector, str(start), CATEGORIES, tmp_path / "train.json")
        images = torch.rand(2, 3, 64, 64)
        expected = classifier.forward_intermediates(images, intermediates_only=True)[1:]
        for found, feature in zip(detector.backbone.body(images), expected, strict=True):
            torch.testing.assert_close(found, feature, rtol=1e-4, atol=1e-4)


def test_detector_starts_a_whole_detector(detection_recipe, tmp_path):
    trained = make_detector(detection_recipe(), 3)
    save_detector(trained, tmp_path / "run", CATEGORIES)
    detector = make_detector(detection_recipe(), 3)
    start_detector(detector, str(tmp_path / "run"), CATEGORIES, tmp_path / "train.json")
    for name, tensor in trained.state_dict().items():
        assert torch.equal(detector.state_dict()[name], tensor), name


def test_boxes_keep_their_precision_under_autocast(detection_recipe):
    images = [torch.rand(3, 64, 64)]
    detector = make_detector(detection_recipe(amp=True), 3).eval()
    detector.roi_heads.score_thresh = 0.0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        (found,) = detector(images)
    assert len(found["boxes"]) > 0 and found["boxes"].dtype == torch.float32
    assert not torch.equal(found["boxes"], found["boxes"].bfloat16().float())


def test_images_reach_the_backbone_in_the_memory_format_of_the_recipe(detection_recipe):
    for channels_last in (False, True):
        detector = make_detector(detection_recipe(channels_last=channels_last), 3).eval()
        seen = []
        detector.backbone.body.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        with torch.inference_mode():
            detector([torch.rand(3, 64, 64)])
        assert seen[0].is_contiguous(memory_format=torch.channels_last) == channels_last


def test_training_images_are_not_resized_again(detection_recipe):
    detector = make_detector(detection_recipe(min_size=[64]), 3)
    images, _ = detector.transform([torch.rand(3, 96, 80)])
    assert images.image_sizes == [(96, 80)]
    images, _ = detector.eval().transform([torch.rand(3, 96, 80)])
    assert images.image_sizes == [(76, 64)]


@pytest.mark.parametrize("mimic, passes", [("", 1), ("foreground", 2)])
def test_offsets_pay_for_the_whole_image_and_for_the_mimicked_patches(mimic, passes, detection_recipe):
    detector = make_detector(detection_recipe(mimic=mimic, offset_penalty=0.1), 3).train()
    layers = [module for module in detector.modules() if isinstance(module, DeformConv2d)]
    for layer in layers:
        nn.init.constant_(layer.conv_offset.bias, 2.0)
    target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}
    detector([torch.rand(3, 64, 64)], [target])
    assert offset_penalty(detector).item() == pytest.approx(passes * 0.1 * 2**2 * len(layers))
