"""RoI pooling in ONNX: the operator bin by bin, and the layers in ONNX Runtime and OpenVINO."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from dcn_backbones.export import OPSETS, TOLERANCE, onnx_program, onnxruntime_session
from dcn_backbones.export.roi_pool import plain_pooling
from dcn_backbones.layers import (
    DeformPSRoIPool,
    DeformRoIPool,
    ModulatedDeformRoIPool,
    MultiScaleDeformRoIPool,
)
from dcn_backbones.ops import deform_ps_roi_pool, deform_roi_pool

from ..ops.roi_cases import AWKWARD, RoICase, call

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
pytest.importorskip("onnxscript", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")

LAYERS = [DeformRoIPool, ModulatedDeformRoIPool]
SETTINGS = dict(output_size=(3, 2), spatial_scale=0.25)
ANY_NUMBER = {0: Dim.DYNAMIC}
ANY_MAPS = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}


class Pooling(nn.Module):
    """A function of feature maps and boxes as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


def make_layer(layer_class: type[DeformRoIPool], **options) -> DeformRoIPool:
    layer = layer_class(6, **SETTINGS, **dict(sampling_ratio=2) | options).eval()
    return scattered(layer)


def scattered(layer: nn.Module) -> nn.Module:
    """Offsets of a fifth of the RoI and mask logits of about 1."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=1 / max(parameter.shape[-1], 4) ** 0.5)
    return layer


def make_boxes(regions: int, images: int = 3, extent: float = 60.0) -> Tensor:
    corners = torch.rand(regions, 4) * extent
    corners[:, 2:] += corners[:, :2]
    return torch.cat([torch.randint(images, (regions, 1)).float(), corners], 1)


def make_maps(channels: int = 6) -> Tensor:
    return torch.randn(3, channels, 17, 31)


def exported(module: nn.Module, maps: int = 1, channels: int = 6, opset: int = 20, dtype=torch.float32):
    """The model of any number of boxes on any number of maps of any size."""
    examples = [torch.randn(2, channels, 20, 24).to(dtype) for _ in range(maps)]
    dynamic = [ANY_MAPS] * maps + [ANY_NUMBER]
    if isinstance(module, Pooling):
        dynamic = [tuple(dynamic)]
    program = torch.export.export(module.eval(), (*examples, make_boxes(3, 2)), dynamic_shapes=tuple(dynamic))
    return onnx_program(program, opset)


def runtimes(proto) -> list[Callable[..., Tensor]]:
    session = onnxruntime_session(proto.SerializeToString(), 1)
    names = [value.name for value in session.get_inputs()]

    def run(*tensors: Tensor) -> Tensor:
        feeds = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return torch.from_numpy(session.run(None, feeds)[0])

    return [run, *_openvino(proto)]


def _openvino(proto) -> list[Callable[..., Tensor]]:
    try:
        import openvino
    except ImportError:
        return []
    from dcn_backbones.export import FULL_PRECISION
    from dcn_backbones.export.openvino import read_onnx

    compiled = openvino.Core().compile_model(read_onnx(proto), "CPU", FULL_PRECISION)
    return [lambda *tensors: torch.from_numpy(compiled([tensor.numpy() for tensor in tensors])[0].copy())]


def check(proto, module: Callable[..., Tensor], *maps: Tensor, images: int = 3) -> None:
    for run in runtimes(proto):
        for regions in (40, 3, 1, 0):
            boxes = make_boxes(regions, images)
            expected = module(*maps, boxes).detach()
            assert expected.shape[0] == regions
            torch.testing.assert_close(run(*maps, boxes), expected, rtol=TOLERANCE, atol=TOLERANCE)


DEFORMED = [name for name, case in AWKWARD.items() if case.sampling_ratio > 0 and name != "batch_0"]


@pytest.mark.parametrize("name", [*DEFORMED, "sensitive_groups_3"])
def test_bins_as_boxes_of_their_own_are_the_operator(name):
    case = replace(AWKWARD[name], sampling_ratio=max(AWKWARD[name].sampling_ratio, 1))
    tensors = case.tensors()
    output = pooled_plainly(case, tensors)
    if output is NotImplemented:  # the operator itself
        assert not case.offset and not case.mask and not case.position_sensitive
        return
    torch.testing.assert_close(output, call(case, tensors))


def pooled_plainly(case: RoICase, tensors: dict[str, Tensor | None]) -> Tensor:
    mask = tensors["mask"]
    operands = [
        tensors["input"],
        tensors["boxes"],
        tensors["offset"],
        None if mask is None else mask[:, None],
    ]
    return plain_pooling(*operands, *case.operator_settings, "")


@pytest.mark.parametrize("layer_class", LAYERS)
def test_layers_with_any_number_of_boxes(layer_class):
    layer = make_layer(layer_class)
    check(exported(layer), layer, make_maps())


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_is_valid_and_right(opset):
    layer = make_layer(ModulatedDeformRoIPool, hidden_channels=(16,))
    proto = exported(layer, opset=opset)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset)]
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in proto.graph.node].count("RoiAlign") == 2
    if opset < 22:
        check(proto, layer, make_maps())
        return
    for run in _openvino(proto):
        maps, boxes = make_maps(), make_boxes(9)
        expected = layer(maps, boxes).detach()
        torch.testing.assert_close(run(maps, boxes), expected, rtol=TOLERANCE, atol=TOLERANCE)
    with pytest.raises(Exception, match=r"Could not find an implementation for RoiAlign\(22\)"):
        runtimes(proto)


def test_small_changes_of_offsets_and_masks_are_seen():
    layer = make_layer(ModulatedDeformRoIPool)
    run, maps, boxes = runtimes(exported(layer))[0], make_maps(), make_boxes(9)
    for part in (slice(0, 6), slice(6, 12), slice(12, 18)):  # x, y, masks
        with torch.no_grad():
            layer.offset_fc[-1].bias[part] += 0.05
            assert (run(maps, boxes) - layer(maps, boxes)).abs().max() > 10 * TOLERANCE
            layer.offset_fc[-1].bias[part] -= 0.05


@pytest.mark.parametrize("sampling_ratio", [2, -1])
def test_aligned_pooling_is_one_node_however_many_points_it_takes(sampling_ratio):
    plain = Pooling(
        lambda maps, boxes: deform_roi_pool(maps, boxes, **SETTINGS, sampling_ratio=sampling_ratio)
    )
    proto = exported(plain)
    assert [node.op_type for node in proto.graph.node] == ["Gather", "Cast", "Slice", "RoiAlign"]
    check(proto, plain, make_maps())


def test_a_mask_alone_takes_any_number_of_points():
    def masked(maps: Tensor, boxes: Tensor) -> Tensor:
        mask = boxes[:, 1:2, None].sigmoid() * torch.tensor([[0.1, 0.9], [0.5, 0.3], [0.2, 0.7]])
        return deform_roi_pool(maps, boxes, **SETTINGS, mask=mask)

    check(exported(Pooling(masked)), masked, make_maps())


@pytest.mark.parametrize("groups", [1, 2])
def test_position_sensitive_pooling(groups):
    layer = DeformPSRoIPool(**SETTINGS, sampling_ratio=2)

    class Sensitive(nn.Module):
        def forward(self, maps: Tensor, boxes: Tensor) -> Tensor:
            scores, fields = maps.split([24, 12 * groups], 1)
            return layer(scores, fields, boxes)

    check(exported(Sensitive(), channels=24 + 12 * groups), Sensitive(), make_maps(24 + 12 * groups))


def test_a_pyramid():
    layer = make_layer(ModulatedDeformRoIPool)
    layer.spatial_scale = 1.0
    pool = MultiScaleDeformRoIPool(["fine", "coarse"], layer, canonical_scale=40, canonical_level=3).eval()

    class Pyramid(nn.Module):
        def forward(self, fine: Tensor, coarse: Tensor, boxes: Tensor) -> Tensor:
            return pool({"fine": fine, "coarse": coarse}, [boxes[:, 1:]], [(160, 192)])

    maps, boxes = (torch.randn(1, 6, 40, 48), torch.randn(1, 6, 20, 24)), make_boxes(9, images=1)
    Pyramid()(*maps, boxes)  # the first call infers the scales
    assert set(pool.map_levels([boxes[:, 1:]]).tolist()) == {0, 1}
    dynamic = ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, ANY_NUMBER)
    program = torch.export.export(Pyramid(), (*maps, boxes), dynamic_shapes=dynamic)
    check(onnx_program(program), Pyramid(), *maps, images=1)


def test_offsets_that_are_not_finite_are_outside():
    def shifted(maps: Tensor, boxes: Tensor) -> Tensor:
        offset = torch.zeros(boxes.shape[0], 2, 3, 2)
        offset[:, 0, 0, 0], offset[:, 1, 1, 0], offset[:, 1, 2, 1] = torch.nan, torch.inf, -1e30
        return deform_roi_pool(maps, boxes, **SETTINGS, sampling_ratio=2, offset=offset)

    output = shifted(make_maps(), make_boxes(5))
    assert not output[:, :, [0, 1, 2], [0, 0, 1]].any() and output[:, :, 0, 1].any()
    check(exported(Pooling(shifted)), shifted, make_maps())


def test_half_keeps_positions_in_float32():
    half = make_layer(ModulatedDeformRoIPool).half()
    proto = exported(half, dtype=torch.float16)
    maps, boxes = make_maps().half(), make_boxes(9)
    output, expected = runtimes(proto)[0](maps, boxes), half(maps, boxes).detach()
    assert output.dtype == torch.float16
    assert (output - expected).abs().max() < 5e-3 * expected.abs().max()


@pytest.mark.parametrize("sensitive", [False, True])
def test_bins_that_choose_their_points_are_refused(sensitive):
    layer = make_layer(DeformRoIPool, sampling_ratio=-1)
    if sensitive:
        layer = Pooling(lambda maps, boxes: deform_ps_roi_pool(maps, boxes, **SETTINGS))
    with pytest.raises(ValueError, match="sampling_ratio=-1 cannot be exported to ONNX .* positive number"):
        exported(layer)
