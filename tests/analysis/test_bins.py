"""Bins of a region: where they lie, and what moving each of them changes."""

import pytest
import torch
from torch import nn
from torchvision.ops import MultiScaleRoIAlign

from dcn_backbones.analysis import (
    RoI,
    effective_bin_locations,
    effective_receptive_field,
    effective_sampling_locations,
    record_sampling,
    saliency_region,
)
from dcn_backbones.analysis.node import output_of
from dcn_backbones.detection import faster_rcnn
from dcn_backbones.layers import DeformConv2d, DeformRoIPool, ModulatedDeformRoIPool, MultiScaleDeformRoIPool

from .conftest import FixedOffsets, small_detector

NAMES = ["fine", "middle", "coarse"]
BOX = (10.0, 4.0, 58.0, 60.0)  # 48 wide, 56 high
BINS = 6
STEP = 1e-6


def image() -> torch.Tensor:
    return torch.randn(1, 3, 64, 96, dtype=torch.float64)


def detector_with_offsets(layer_class: type[DeformRoIPool], offsets: torch.Tensor):
    """Faster R-CNN whose bins have offsets ``(2, 3, 2)``, x and y."""
    layer = layer_class(6, (3, 2), sampling_ratio=2, gamma=0.2)
    logits = torch.linspace(-2, 2, BINS) if layer_class is ModulatedDeformRoIPool else torch.zeros(0)
    detector = small_detector(MultiScaleDeformRoIPool(NAMES, layer, canonical_scale=56, canonical_level=3))
    layer.offset_fc = FixedOffsets(torch.cat([offsets.flatten(), logits])[None].double())
    return detector


@pytest.mark.parametrize("layer_class", [DeformRoIPool, ModulatedDeformRoIPool])
def test_offsets_of_x_and_y_move_the_bins(layer_class):
    offsets = torch.stack([torch.full((3, 2), 0.5), torch.arange(6.0).view(3, 2)])
    found = effective_bin_locations(detector_with_offsets(layer_class, offsets), image(), RoI(BOX))
    assert found.box.tolist() == [9.5, 3.5, 57.5, 59.5] and found.size.tolist() == [24, pytest.approx(56 / 3)]
    centres = [[9.5 + 24 * (x + 0.5), 3.5 + 56 / 3 * (y + 0.5)] for y in range(3) for x in range(2)]
    torch.testing.assert_close(found.regular, torch.tensor(centres, dtype=torch.float64))
    shift = found.positions - found.regular
    torch.testing.assert_close(shift[:, 0], torch.full((BINS,), 0.2 * 0.5 * 48, dtype=torch.float64))
    torch.testing.assert_close(shift[:, 1], 0.2 * torch.arange(6.0, dtype=torch.float64) * 56)
    expected = (
        torch.linspace(-2, 2, BINS).sigmoid() if layer_class is ModulatedDeformRoIPool else torch.ones(BINS)
    )
    torch.testing.assert_close(found.weights, expected.double())


@pytest.mark.parametrize("layer_class", [DeformRoIPool, ModulatedDeformRoIPool])
@pytest.mark.parametrize("category", [None, 3])
@torch.no_grad()
def test_a_strength_is_what_moving_the_bin_changes(layer_class, category):
    detector, picture = detector_with_offsets(layer_class, torch.randn(2, 3, 2)), image()
    node = RoI(BOX, category)
    values = detector.roi_heads.box_roi_pool.pool.offset_fc.values[0, : 2 * BINS]
    differences = torch.zeros_like(values)
    for index in range(2 * BINS):
        responses = []
        for step in (STEP, -2 * STEP):
            values[index] += step
            responses.append(float(node.responses(detector, picture).mean()))
        values[index] += STEP
        differences[index] = (responses[0] - responses[1]) / (2 * STEP)
    reach = 0.2 * torch.tensor([48.0, 56.0], dtype=torch.float64)[:, None]
    expected = (differences.view(2, BINS) / reach).norm(dim=0)
    assert expected.min() > 0
    found = effective_bin_locations(detector, picture, node)
    torch.testing.assert_close(found.strengths, expected, rtol=1e-4, atol=1e-9)


def test_torchvisions_pooling_is_one_without_offsets():
    plain = small_detector(MultiScaleRoIAlign(NAMES, (3, 2), 2, canonical_scale=56, canonical_level=3))
    for box in (BOX, (20.0, 10.0, 30.0, 22.0), (3.0, 3.0, 3.5, 30.0)):  # of several levels, and under a pixel
        picture, node = image(), RoI(box)
        before = node.responses(plain, picture)
        with output_of(plain.roi_heads.box_head) as responses:
            found = effective_bin_locations(plain, picture, node)
        torch.testing.assert_close(responses[0], before)
        assert torch.equal(found.positions, found.regular) and (found.weights == 1).all()
        assert found.strengths.shape == (BINS,) and found.strengths.max() > 0
        assert torch.equal(node.responses(plain, picture), before), "a hook stayed behind"


def test_errors():
    with pytest.raises(ValueError, match="Sequential is no detector"):
        effective_bin_locations(nn.Sequential(nn.Conv2d(3, 3, 1)), image(), RoI(BOX))
    detector = small_detector(MultiScaleRoIAlign(NAMES, (3, 2), 2))
    detector.roi_heads.box_roi_pool = nn.Identity()
    with pytest.raises(ValueError, match="boxes are pooled by Identity; expected a deformable layer in"):
        effective_bin_locations(detector, image(), RoI(BOX))


@pytest.fixture(scope="module")
def make_detector():
    """A function: one of `dcn_backbones.detection`, whose every branch counts."""

    def make(neck: str, box_pool: str):
        torch.manual_seed(0)
        settings = {"neck": neck, "box_pool": box_pool, "backbone_args": {"zero_init_last": False}}
        return faster_rcnn("dcnv2_resnet18", num_classes=3, **settings)

    return make


@pytest.mark.parametrize("neck, box_pool", [("c5", "align"), ("c5", "deform"), ("fpn", "modulated")])
def test_detectors_of_this_package(make_detector, neck, box_pool):
    detector, picture, node = make_detector(neck, box_pool), image().float(), RoI(BOX)
    is_deformable = box_pool != "align"
    if is_deformable:
        torch.nn.init.constant_(detector.roi_heads.box_roi_pool.pool.offset_fc[-1].bias[:49], 0.5)
    with output_of(detector.roi_heads.box_head) as responses:
        found = effective_bin_locations(detector, picture, node)
    detector.eval()
    torch.testing.assert_close(responses[0], node.responses(detector, picture), rtol=1e-4, atol=1e-5)
    shift = torch.tensor([0.1 * 0.5 * 48, 0.0], dtype=torch.float64) * is_deformable
    torch.testing.assert_close(found.positions - found.regular, shift.expand(49, 2))
    assert (found.weights == (0.5 if box_pool == "modulated" else 1)).all() and found.strengths.max() > 0
    record = record_sampling(detector, picture)
    assert len(record) == 12 and record[-1].name == "backbone.body.layer4.1.conv2"
    assert record[-1].stride == (16 if neck == "c5" else 32)


def test_maximum_pooling_has_no_bin_locations(make_detector):
    with pytest.raises(ValueError, match="boxes are pooled by RoIMaxPool; expected a deformable layer in"):
        effective_bin_locations(make_detector("c5", "max"), image().float(), RoI(BOX))


def test_other_methods_see_a_detectors_backbone_and_its_regions():
    detector = small_detector(MultiScaleRoIAlign(NAMES, (3, 2), 2))
    detector.backbone.stem = DeformConv2d(3, 6, 3, stride=4, padding=1).double()
    picture, node = image(), RoI(BOX)
    (entry,) = record_sampling(detector, picture)
    assert entry.name == "backbone.stem" and entry.stride == 4 and entry.positions.shape == (16, 24, 9, 2)
    (found,) = effective_sampling_locations(detector, picture, node)
    assert found.layer == "backbone.stem" and (found.positions[:, 0] <= BOX[2] + 8).all()
    field = effective_receptive_field(detector, picture, node)
    assert field.shape == (64, 96) and field[:, :60].sum() > 0 and field[:, 80:].sum() == 0
    region = saliency_region(detector, picture, node, bound=0.05, cells=(4,))
    assert region.error <= 0.05 and 0 < region.share < 1
