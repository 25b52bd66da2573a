"""RoI pooling from a pyramid: torchvision's levels, aligned pooling, one branch, and its detectors."""

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from dcn_backbones.layers import DeformRoIPool, ModulatedDeformRoIPool, MultiScaleDeformRoIPool

LAYERS = [DeformRoIPool, ModulatedDeformRoIPool]
NAMES = ["fine", "middle", "coarse"]
SCALES = [0.25, 0.125, 0.0625]
IMAGES = [(128, 160)] * 2
RULE = dict(
    canonical_scale=56, canonical_level=3
)  # boxes of a side below 56 are for `fine`, 112 for `middle`


def make_pool(layer_class: type[DeformRoIPool], random: bool = True) -> MultiScaleDeformRoIPool:
    torch.manual_seed(0)
    layer = layer_class(4, (3, 2), sampling_ratio=2, dtype=torch.float64)
    if random:
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=1 / max(parameter.shape[-1], 4) ** 0.5)
    return MultiScaleDeformRoIPool(NAMES, layer, **RULE)


def make_features() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = {"unused": (3, 3), "fine": (32, 40), "middle": (16, 20), "coarse": (8, 10)}
    return {
        name: torch.randn(2, 4, *size, dtype=torch.float64, generator=generator)
        for name, size in sizes.items()
    }


def make_boxes() -> list[Tensor]:
    """Of all levels, in no order."""
    first = [[10, 20, 130, 126], [5, 6, 30, 50], [40, 30, 110, 120]]
    second = [[8, 3, 60, 20], [0, 0, 160, 128], [20, 5, 90, 90], [100, 100, 104, 127]]
    return [torch.tensor(boxes, dtype=torch.float64) for boxes in (first, second)]


def box_by_box(pool_one) -> Tensor:
    """Pool each box alone: ``pool_one(level, scale, rois (1, 5))`` with torchvision's mapper's level."""
    features, boxes = make_features(), make_boxes()
    levels = LevelMapper(2, 4, **RULE)(boxes).tolist()
    assert set(levels) == {0, 1, 2}
    rois = [[image, *box] for image, listed in enumerate(boxes) for box in listed.tolist()]
    return torch.cat(
        [
            pool_one(features[NAMES[level]], SCALES[level], torch.tensor([roi], dtype=torch.float64))
            for level, roi in zip(levels, rois, strict=True)
        ]
    )


@pytest.mark.parametrize(("layer_class", "share"), [(DeformRoIPool, 1), (ModulatedDeformRoIPool, 0.5)])
def test_a_fresh_layer_is_aligned_pooling_from_torchvisions_level(layer_class, share):
    output = make_pool(layer_class, random=False)(make_features(), make_boxes(), IMAGES)
    expected = box_by_box(lambda level, scale, roi: roi_align(level, roi, (3, 2), scale, 2, aligned=True))
    torch.testing.assert_close(output, share * expected)


def test_torchvisions_own_pooling_is_half_a_pixel_of_the_level_further():
    theirs = MultiScaleRoIAlign(NAMES, (3, 2), 2, **RULE)(make_features(), make_boxes(), IMAGES)

    def moved(level: Tensor, scale: float, roi: Tensor) -> Tensor:
        roi = roi + torch.tensor([0, 0.5, 0.5, 0.5, 0.5], dtype=roi.dtype) / scale
        return roi_align(level, roi, (3, 2), scale, 2, aligned=True)

    torch.testing.assert_close(box_by_box(moved), theirs)
    ours = make_pool(DeformRoIPool, random=False)(make_features(), make_boxes(), IMAGES)
    assert (ours - theirs).abs().max() > 0.1


@pytest.mark.parametrize("layer_class", LAYERS)
def test_one_branch_serves_all_levels(layer_class):
    pool = make_pool(layer_class)

    def alone(level: Tensor, scale: float, roi: Tensor) -> Tensor:
        layer = layer_class(4, (3, 2), scale, 2, dtype=torch.float64)
        layer.load_state_dict(pool.pool.state_dict())
        return layer(level, roi)

    torch.testing.assert_close(pool(make_features(), make_boxes(), IMAGES), box_by_box(alone))
    assert all(name.startswith("pool.offset_fc.") for name in pool.state_dict())


@pytest.mark.parametrize("layer_class", LAYERS)
def test_one_level_is_pooled_without_a_rule(layer_class):
    pool = make_pool(layer_class)
    single = MultiScaleDeformRoIPool(["middle"], pool.pool, **RULE)
    layer = layer_class(4, (3, 2), 0.125, 2, dtype=torch.float64)
    layer.load_state_dict(pool.pool.state_dict())
    expected = layer(make_features()["middle"], make_boxes())
    assert torch.equal(single(make_features(), make_boxes(), IMAGES), expected)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_gradients_reach_all_levels_and_parameters(layer_class):
    pool = make_pool(layer_class)
    features = {name: level.requires_grad_() for name, level in make_features().items()}
    pool(features, make_boxes(), IMAGES).square().sum().backward()
    used = [features[name] for name in NAMES]
    assert all(tensor.grad.abs().max() > 0 for tensor in (*used, *pool.parameters()))
    assert features["unused"].grad is None


def test_no_boxes_and_a_box_that_is_no_number():
    pool, features = make_pool(ModulatedDeformRoIPool), make_features()
    empty = [torch.zeros(0, 4, dtype=torch.float64)] * 2
    output = pool(features, empty, IMAGES)
    assert output.shape == (0, 4, 3, 2)
    output.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in pool.parameters())
    boxes = make_boxes()
    expected = pool(features, boxes, IMAGES)
    boxes[1][2, 3] = torch.nan
    expected[5] = 0
    assert torch.equal(pool(features, boxes, IMAGES), expected)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_autocast_and_channels_last(layer_class):
    pool = make_pool(layer_class).float()
    features = {
        name: level.float().contiguous(memory_format=torch.channels_last)
        for name, level in make_features().items()
    }
    boxes = [listed.float() for listed in make_boxes()]
    exact = pool(features, boxes, IMAGES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = pool(features, boxes, IMAGES)
    assert exact.is_contiguous(memory_format=torch.channels_last)
    assert half.is_contiguous(memory_format=torch.channels_last)
    assert exact.dtype == torch.float32 and half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_compiles_as_one_graph_for_any_number_of_boxes():
    """Its very first call too, which infers the scales."""
    torch.compiler.reset()
    pool, features, boxes = make_pool(ModulatedDeformRoIPool), make_features(), make_boxes()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(make_pool(ModulatedDeformRoIPool), fullgraph=True, backend=counter)
    for listed in (boxes, [b[:2] for b in boxes], [b.repeat(3, 1) for b in boxes], boxes[::-1]):
        torch.testing.assert_close(compiled(features, listed, IMAGES), pool(features, listed, IMAGES))
    assert counter.frame_count <= 2  # for these numbers, then for any


class Pyramid(nn.Module):
    """A backbone of three levels, for torchvision's detectors."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.stem(images).relu()
        middle = nn.functional.avg_pool2d(fine, 2)
        return {"fine": fine, "middle": middle, "coarse": nn.functional.avg_pool2d(middle, 2)}


def make_detector(detector_class: type[FasterRCNN]) -> FasterRCNN:
    def pool(size: int) -> MultiScaleDeformRoIPool:
        return MultiScaleDeformRoIPool(NAMES, ModulatedDeformRoIPool(8, size, sampling_ratio=2))

    options = dict(mask_roi_pool=pool(4)) if detector_class is MaskRCNN else {}
    return detector_class(
        Pyramid(),
        num_classes=3,
        min_size=64,
        max_size=96,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,)), ((1.0,),) * 3),
        box_roi_pool=pool(3),
        box_detections_per_img=5,
        **options,
    )


@pytest.mark.parametrize("detector_class", [FasterRCNN, MaskRCNN])
def test_torchvisions_detectors_take_it_for_their_own(detector_class):
    torch.manual_seed(0)
    detector = make_detector(detector_class)
    images = [torch.rand(3, 64, 80), torch.rand(3, 72, 64)]
    target = dict(
        boxes=torch.tensor([[5.0, 6, 40, 50]]), labels=torch.tensor([1]), masks=torch.ones(1, 72, 80).byte()
    )
    losses = detector(images, [target, target])
    sum(losses.values()).backward()
    layers = [module for module in detector.modules() if isinstance(module, ModulatedDeformRoIPool)]
    assert len(layers) == (2 if detector_class is MaskRCNN else 1)
    assert all(layer.offset_fc[2].weight.grad.abs().max() > 0 for layer in layers)
    detections = detector.eval()(images)
    assert [set(found) >= {"boxes", "labels", "scores"} for found in detections] == [True, True]


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_detector_trains_in_channels_last():
    """The pooling and the gradients of the pyramid keep the format, so that nothing around it converts."""
    found = []

    def watch(pool, arguments, output) -> None:
        found.append(output)
        for level in arguments[0].values():
            level.register_hook(found.append)

    detector = make_detector(FasterRCNN).to(memory_format=torch.channels_last)
    detector.roi_heads.box_roi_pool.register_forward_hook(watch)
    target = dict(boxes=torch.tensor([[5.0, 6, 40, 50]]), labels=torch.tensor([1]))
    sum(detector([torch.rand(3, 64, 80)], [target]).values()).backward()
    assert len(found) == 4
    assert all(t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous() for t in found)


def test_a_scale_of_its_own_is_refused():
    with pytest.raises(ValueError, match=r"spatial_scale=0\.5, expected 1"):
        MultiScaleDeformRoIPool(NAMES, DeformRoIPool(4, 3, spatial_scale=0.5))


def test_the_printed_form_shows_the_names_and_the_layer():
    printed = repr(make_pool(DeformRoIPool))
    assert "featmap_names=['fine', 'middle', 'coarse']" in printed and "(pool): DeformRoIPool(" in printed
