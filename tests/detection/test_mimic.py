"""Feature mimicking: which regions, what it compares, what it changes in training and leaves at inference."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from dcn_backbones.detection import faster_rcnn, mask_rcnn
from dcn_backbones.detection.mimic import FeatureMimic, crop_regions, mimic_loss, region_features
from dcn_backbones.layers import DeformRoIPool

from .conftest import small_faster_rcnn

LABELS = torch.tensor([0, 3, -1, 1, 0, 2, 0])


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    """The control: a regular network with mimicking; treat it as read-only."""
    torch.manual_seed(0)
    return small_faster_rcnn(backbone="resnet18", box_pool="align", mimic="foreground", mimic_regions=2)()


def test_equal_features_have_no_loss():
    features = torch.randn(5, 8)
    assert mimic_loss(features, 3 * features) == pytest.approx(0, abs=1e-5)


def test_the_loss_is_a_sum_of_one_minus_cosine():
    features = torch.tensor([[1.0, 0], [1, 0], [1, 0]])
    others = torch.tensor([[0.0, 2], [-1, 0], [1, 1]])
    assert mimic_loss(features, others) == pytest.approx(1 + 2 + (1 - 0.5**0.5))


def test_both_branches_learn():
    features = [torch.randn(3, 8, requires_grad=True) for _ in range(2)]
    mimic_loss(*features).backward()
    assert all(one.grad.abs().sum(1).gt(0).all() for one in features)


@pytest.mark.parametrize(
    "regions, expected", [("foreground", {1, 3, 5}), ("background", {0, 4, 6}), ("both", {0, 1, 3, 4, 5, 6})]
)
def test_which_regions_are_mimicked(regions, expected):
    mimic = FeatureMimic(8, 4, regions)
    chosen = mimic.choose(LABELS).tolist()
    assert set(chosen) == expected and len(chosen) == len(expected)


def test_not_more_than_asked_for_and_at_random():
    mimic = FeatureMimic(8, 4, regions_per_image=2)
    drawn = [tuple(sorted(mimic.choose(LABELS).tolist())) for _ in range(50)]
    assert set(drawn) == {(1, 3), (1, 5), (3, 5)}
    assert mimic.choose(torch.zeros(5, dtype=torch.int64)).tolist() == []


def test_a_patch_is_the_region_and_nothing_around_it():
    images = torch.rand(2, 3, 40, 60)
    images[0, :, 10:31, 20:45] = torch.tensor([0.1, 0.5, 0.9])[:, None, None]
    images[1, :, :20, 5:25] = torch.arange(20.0)[None, None]
    boxes = [torch.tensor([[20.4, 10.6, 44.5, 30.2]]), torch.tensor([[5.0, 0, 25, 20]])]
    patches = crop_regions(images, boxes)
    assert patches.shape == (2, 3, 224, 224)
    torch.testing.assert_close(patches[0], torch.tensor([0.1, 0.5, 0.9])[:, None, None].expand(3, 224, 224))
    assert (patches[1].diff(dim=2) >= 0).all() and (patches[1].diff(dim=1).abs() < 1e-4).all()
    assert patches[1].min() == 0 and patches[1].max() == 19


@pytest.mark.parametrize("neck, level", [("c5", "conv5"), ("fpn", "2")])
def test_a_region_covers_its_whole_patch_of_14x14_features(neck, level):
    detector = small_faster_rcnn(backbone="resnet18", box_pool="align", neck=neck)().eval()
    patches = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        found = region_features(detector, patches)
        features = detector.backbone(patches)[level]
        whole = [torch.tensor([[0.0, 0, 224, 224]])] * 2
        pooled = roi_align(features, whole, 7, 1 / 16, sampling_ratio=2)
        expected = detector.roi_heads.box_head(pooled)
    assert features.shape[-2:] == (14, 14) and found.shape == (2, 1024)
    torch.testing.assert_close(found, expected)


def test_the_two_losses(plain):
    images = torch.rand(2, 3, 64, 96)
    boxes = [torch.tensor([[0.0, 0, 9, 9], [3, 4, 30, 60]]), torch.tensor([[8.0, 8, 90, 50]])]
    labels = [torch.tensor([0, 2]), torch.tensor([1])]
    features = torch.randn(3, 1024)
    with torch.no_grad():
        losses = plain.mimic(plain, images, boxes, features, labels)
        alone = region_features(plain, crop_regions(images, [boxes[0][1:], boxes[1]]))
        cosines = F.cosine_similarity(alone, features[[1, 2]])
        classification = F.cross_entropy(plain.mimic.classifier(alone), torch.tensor([2, 1]))
    assert losses["loss_mimic"] == pytest.approx((0.1 * (1 - cosines).sum() / 2).item(), rel=1e-4)
    assert losses["loss_mimic_classifier"] == pytest.approx(0.1 * classification.item(), rel=1e-4)


def test_nothing_to_mimic_is_no_loss_that_still_reaches_everything(plain, images, targets):
    """Data-parallel training waits for the gradient of every parameter, from every process."""
    losses = plain.train()(images[1:], targets[1:])
    assert losses["loss_mimic"] == losses["loss_mimic_classifier"] == 0
    shared = [plain.backbone.body.conv1.weight, plain.roi_heads.box_head.fc6.weight]
    gradients = torch.autograd.grad(losses["loss_mimic_classifier"], [*plain.mimic.parameters(), *shared])
    assert all(gradient.abs().sum() == 0 for gradient in gradients)


def test_it_sees_what_the_detector_is_trained_on(plain, images, targets, monkeypatch):
    seen, sampled, heads = {}, [], plain.roi_heads
    select = heads.select_training_samples
    monkeypatch.setattr(
        heads, "select_training_samples", lambda *inputs: sampled.append(select(*inputs)) or sampled[0]
    )
    hook = plain.mimic.register_forward_pre_hook(
        lambda _, inputs: seen.update(zip("dibfl", inputs, strict=True))
    )
    plain.train()(images, targets)
    hook.remove()
    boxes, _, labels, _ = sampled[0]
    for found, expected in ((seen["b"], boxes), (seen["l"], labels)):
        torch.testing.assert_close(found, expected)
    assert len(seen["f"]) == 32 and labels[0].min() == 0 < labels[0].max() and labels[1].max() == 0
    assert seen["i"].shape == (2, 3, 64, 96)


def test_mimicking_trains_the_pooling_and_the_network(images, targets):
    detector = small_faster_rcnn(mimic="both", mimic_regions=1)()
    losses = detector(images, targets)
    assert losses.keys() == {
        *("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"),
        *("loss_mimic", "loss_mimic_classifier"),
    }
    parameters = {name: parameter for name, parameter in detector.named_parameters() if "weight" in name}
    for loss in ("loss_mimic", "loss_mimic_classifier"):
        gradients = torch.autograd.grad(
            losses[loss], [*parameters.values()], retain_graph=True, allow_unused=True
        )
        reached = {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
        offset = parameters.keys() & {name for name, _ in offset_parameters(detector)}
        assert offset and offset <= reached
        assert {"backbone.body.conv1.weight", "roi_heads.box_head.fc6.weight"} <= reached
        assert ("mimic.classifier.weight" in reached) == (loss == "loss_mimic_classifier")


def offset_parameters(detector):
    for path, module in detector.named_modules():
        if isinstance(module, DeformRoIPool):
            for name, parameter in module.named_parameters():
                yield f"{path}.{name}", parameter


def test_inference_is_that_of_a_detector_without_it(plain, images):
    without = small_faster_rcnn(backbone="resnet18", box_pool="align")()
    state = plain.state_dict()
    extra = {name for name in state if name not in without.state_dict()}
    assert extra == {"mimic.classifier.weight", "mimic.classifier.bias"}
    without.load_state_dict({name: value for name, value in state.items() if name not in extra})
    with torch.no_grad():
        found, expected = plain.eval()(images), without.eval()(images)
    for of_image, reference in zip(found, expected, strict=True):
        assert len(reference["boxes"]) and all(
            torch.equal(of_image[key], reference[key]) for key in reference
        )


def test_mask_r_cnn_mimics_too():
    with torch.device("meta"):
        detectors = [build("resnet18", mimic="foreground") for build in (faster_rcnn, mask_rcnn)]
    assert [type(detector).__name__ for detector in detectors] == ["MimickingFasterRCNN", "MimickingMaskRCNN"]
    assert all(
        detector.mimic.regions_per_image == 32 and detector.mimic.weight == 0.1 for detector in detectors
    )
