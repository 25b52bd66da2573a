"""The RoI pooling layers against torchvision's pooling of every single bin, and mmcv's states."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import ps_roi_align, roi_align

from dcn_backbones.layers import (
    DeformConv2d,
    DeformPSRoIPool,
    DeformRoIPool,
    ModulatedDeformConv2d,
    ModulatedDeformRoIPool,
    offset_lr_scales,
)

LAYERS = [DeformRoIPool, ModulatedDeformRoIPool]
SETTINGS = dict(output_size=(3, 2), spatial_scale=0.5, sampling_ratio=2)


def make_layer(layer_class: type[DeformRoIPool], **options) -> DeformRoIPool:
    """A layer of 4 channels in float64 whose bins move by about a fifth of the RoI."""
    torch.manual_seed(0)
    layer = layer_class(4, **SETTINGS | dict(gamma=0.3, dtype=torch.float64) | options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=1 / max(parameter.shape[-1], 4) ** 0.5)
    return layer


def make_input(channels: int = 4) -> Tensor:
    return torch.randn(2, channels, 11, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def make_boxes() -> Tensor:
    """Wide, high and small ones, one of them beyond the border."""
    boxes = [[0, 1, 2, 25, 9], [1, 4, 1, 9, 21], [1, 10, 8, 12.5, 9], [0, 20, 15, 31, 27]]
    return torch.tensor(boxes, dtype=torch.float64)


def branch_output(layer: DeformRoIPool, input: Tensor, boxes: Tensor) -> Tensor:
    """What the branch says of aligned pooled features, (R, outputs for each bin, bins)."""
    pooled = roi_align(input, boxes, **SETTINGS, aligned=True)
    return layer.offset_fc(pooled.reshape(len(boxes), -1)).reshape(len(boxes), -1, 6)


def pooled_bin_by_bin(input: Tensor, boxes: Tensor, offset: Tensor) -> Tensor:
    """Aligned pooling of each bin as a box of its own; the offset (R, [x, y], bins) in sizes of the RoI."""
    (rows, columns), (x1, y1, x2, y2) = SETTINGS["output_size"], boxes[:, 1:].unbind(1)
    width, height = x2 - x1, y2 - y1
    bins = []
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        left = x1 + width * (column / columns + offset[:, 0, number])
        top = y1 + height * (row / rows + offset[:, 1, number])
        box = torch.stack([boxes[:, 0], left, top, left + width / columns, top + height / rows], 1)
        bins.append(roi_align(input, box, 1, *list(SETTINGS.values())[1:], aligned=True))
    return torch.cat(bins, 2).unflatten(2, (rows, columns)).squeeze(-1)


def oracle(layer: DeformRoIPool, input: Tensor, boxes: Tensor, scale: float = 0.3) -> Tensor:
    """Equations 6 and 2 of the papers."""
    raw = branch_output(layer, input, boxes)
    output = pooled_bin_by_bin(input, boxes, scale * raw[:, :2])
    if isinstance(layer, ModulatedDeformRoIPool):
        output = output * raw[:, 2].sigmoid().reshape(len(boxes), 1, 3, 2)
    return output


def exchanged_axes(boxes: Tensor, offset: Tensor) -> Tensor:
    """Offsets that are scaled by the other side of the RoI."""
    width, height = boxes[:, 3] - boxes[:, 1], boxes[:, 4] - boxes[:, 2]
    ratio = torch.stack([height / width, width / height], 1)
    return offset * ratio[:, :, None]


@pytest.mark.parametrize("layer_class", LAYERS)
def test_computes_the_papers_equations(layer_class):
    layer, input, boxes = make_layer(layer_class), make_input(), make_boxes()
    torch.testing.assert_close(layer(input, boxes), oracle(layer, input, boxes))


def test_what_the_equations_are_tested_on_tells_gamma_axes_and_sides_apart():
    layer, input, boxes = make_layer(DeformRoIPool), make_input(), make_boxes()
    offset = 0.3 * branch_output(layer, input, boxes)
    output = layer(input, boxes)
    for wrong in (offset / 3, offset.flip(1), exchanged_axes(boxes, offset)):
        assert (output - pooled_bin_by_bin(input, boxes, wrong)).abs().max() > 0.1


@pytest.mark.parametrize(("layer_class", "share"), [(DeformRoIPool, 1), (ModulatedDeformRoIPool, 0.5)])
@pytest.mark.parametrize("sampling_ratio", [2, -1])
def test_a_fresh_layer_is_aligned_pooling_times_the_mask_of_the_paper(layer_class, share, sampling_ratio):
    settings = SETTINGS | dict(sampling_ratio=sampling_ratio)
    layer = layer_class(4, **settings, dtype=torch.float64)
    expected = share * roi_align(make_input(), make_boxes(), **settings, aligned=True)
    torch.testing.assert_close(layer(make_input(), make_boxes()), expected)


def test_boxes_may_be_a_list_for_each_image():
    layer, boxes = make_layer(ModulatedDeformRoIPool), make_boxes()[[0, 3, 1, 2]]
    listed = [boxes[:2, 1:], boxes[2:, 1:]]
    assert torch.equal(layer(make_input(), listed), layer(make_input(), boxes))


@pytest.mark.parametrize(
    ("layer_class", "millions", "layers"),
    [(DeformRoIPool, 1.2, [12544, 98]), (ModulatedDeformRoIPool, 13.0, [12544, 1024, 147])],
)
def test_parameters_are_as_many_as_the_paper_says(layer_class, millions, layers):
    """Of one layer of 256 channels and 7x7 bins, weights and biases of the branch: nothing else is learned.

    Table 1 of the DCNv2 paper has 53.0M - 51.8M = 1.2M for DCNv1's. Its row with DCNv2's has modulated
    convolutions at the same time, so that 13.0M is what the fully connected layers of section 3.2 have.
    """
    layer = layer_class(256, 7, device="meta")
    count = sum(parameter.numel() for parameter in layer.parameters())
    weights = sum(fan_in * fan_out for fan_in, fan_out in zip(layers, layers[1:], strict=False))
    assert count == weights + sum(layers[1:])
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("layer_class", "shapes"),
    [
        (DeformRoIPool, {"offset_fc.0.weight": (12, 24), "offset_fc.0.bias": (12,)}),
        (
            ModulatedDeformRoIPool,
            {
                "offset_fc.0.weight": (1024, 24),
                "offset_fc.0.bias": (1024,),
                "offset_fc.2.weight": (18, 1024),
                "offset_fc.2.bias": (18,),
            },
        ),
    ],
)
def test_keys_and_shapes(layer_class, shapes):
    layer, other = make_layer(layer_class), layer_class(4, **SETTINGS, gamma=0.3, dtype=torch.float64)
    assert {key: tuple(value.shape) for key, value in layer.state_dict().items()} == shapes
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(make_input(), make_boxes()), layer(make_input(), make_boxes()))


def mmcv_branches(hidden: int) -> nn.ModuleDict:
    """The fully connected layers of mmcv's ``ModulatedDeformRoIPoolPack``, under its names."""
    torch.manual_seed(2)
    offset_fc = [
        nn.Linear(24, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 12),
    ]
    mask_fc = [nn.Linear(24, hidden), nn.ReLU(), nn.Linear(hidden, 6), nn.Sigmoid()]
    return nn.ModuleDict(dict(offset_fc=nn.Sequential(*offset_fc), mask_fc=nn.Sequential(*mask_fc))).double()


@pytest.mark.parametrize(("layer_class", "width"), [(DeformRoIPool, 5), (ModulatedDeformRoIPool, 10)])
def test_a_state_of_mmcv_computes_the_same(layer_class, width):
    theirs, input, boxes = mmcv_branches(hidden=5), make_input(), make_boxes()
    state = theirs.state_dict()
    if layer_class is DeformRoIPool:
        state = {key: value for key, value in state.items() if key.startswith("offset_fc.")}
    keys = set(state)
    network = nn.Sequential(make_layer(layer_class, hidden_channels=(width, width)))
    network.load_state_dict({f"0.{key}": value for key, value in state.items()}, strict=True)

    features = roi_align(input, boxes, **SETTINGS, aligned=True).flatten(1)
    expected = pooled_bin_by_bin(input, boxes, 0.3 * theirs["offset_fc"](features).reshape(-1, 2, 6))
    if layer_class is ModulatedDeformRoIPool:
        expected = expected * theirs["mask_fc"](features).reshape(-1, 1, 3, 2)
    torch.testing.assert_close(network[0](input, boxes), expected)
    assert set(state) == keys  # the caller's own dict


def test_a_state_of_mmcv_needs_room_for_both_branches():
    layer = make_layer(ModulatedDeformRoIPool, hidden_channels=(5, 5))
    with pytest.raises(RuntimeError, match=r"size mismatch for offset_fc\.0\.weight"):
        layer.load_state_dict(mmcv_branches(hidden=5).state_dict())


@pytest.mark.parametrize("layer_class", LAYERS)
def test_every_parameter_and_the_input_receive_gradients(layer_class):
    layer, input = make_layer(layer_class), make_input().requires_grad_()
    layer(input, make_boxes()).square().sum().backward()
    assert all(tensor.grad.abs().max() > 0 for tensor in (input, *layer.parameters()))


@pytest.mark.parametrize("layer_class", LAYERS)
def test_a_fresh_layer_learns_in_all_its_parameters(layer_class):
    """Not so with all layers at zero, where the second gets no gradient but in its bias."""
    layer = layer_class(4, **SETTINGS, dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        layer(make_input(), make_boxes()).square().sum().backward()
        optimizer.step()
    for parameter, old in zip(layer.parameters(), before, strict=True):
        assert not torch.equal(parameter, old)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer_class", LAYERS)
def test_half_layers_keep_positions_in_float32(layer_class, dtype):
    layer = make_layer(layer_class, dtype=dtype)
    input, boxes = make_input().to(dtype), make_boxes().float()
    assert layer._predict(make_input().to(dtype)[:, :, :3, :2]).dtype == torch.float32
    output = layer(input, boxes)
    assert output.dtype == dtype
    exact = layer.double()(input.double(), boxes.double())
    assert (output.double() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("layer_class", LAYERS)
def test_autocast_gives_half_outputs_near_the_exact_ones(layer_class):
    layer, input, boxes = make_layer(layer_class).float(), make_input().float(), make_boxes().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(input, boxes)
    assert output.dtype == torch.bfloat16
    exact = layer(input, boxes)
    assert (output.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("layer_class", LAYERS)
def test_compiles_as_one_graph_and_exports_for_any_number_of_boxes(layer_class):
    layer, input, boxes = make_layer(layer_class), make_input(), make_boxes()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(input, boxes), layer(input, boxes))
    dynamic = ({}, {0: torch.export.Dim.DYNAMIC})
    exported = torch.export.export(layer.eval(), (input, boxes), dynamic_shapes=dynamic).module()
    torch.testing.assert_close(exported(input, boxes[:3]), layer(input, boxes[:3]))


@pytest.mark.parametrize("layer_class", LAYERS)
def test_channels_last_stays_and_changes_nothing(layer_class):
    layer, input = make_layer(layer_class), make_input()
    output = layer(input.contiguous(memory_format=torch.channels_last), make_boxes())
    assert output.is_contiguous(memory_format=torch.channels_last) and not output.is_contiguous()
    assert layer(input, make_boxes()).is_contiguous()
    torch.testing.assert_close(output, layer(input, make_boxes()))


@pytest.mark.parametrize("no_boxes", [torch.zeros(0, 5), [torch.zeros(0, 4)] * 2], ids=["tensor", "list"])
@pytest.mark.parametrize("layer_class", LAYERS)
def test_no_boxes_give_nothing_and_gradients_of_zero(layer_class, no_boxes):
    layer, input = make_layer(layer_class).float(), make_input().float().requires_grad_()
    output = layer(input, no_boxes)
    assert output.shape == (0, 4, 3, 2)
    output.sum().backward()
    assert all(tensor.grad is not None and not tensor.grad.any() for tensor in (input, *layer.parameters()))


def make_sensitive(groups: int = 1) -> tuple[Tensor, Tensor]:
    """Score maps of four output channels and fields of offsets, for six bins."""
    return make_input(4 * 6), make_input(2 * groups * 6).flip(2)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_position_sensitive_offsets_are_pooled_for_each_class(groups):
    scores, fields = make_sensitive(groups)
    boxes = make_boxes()
    offset = 0.3 * ps_roi_align(fields, boxes, *SETTINGS.values()).reshape(len(boxes), groups, 2, 6)
    expected = torch.empty(len(boxes), 4, 3, 2, dtype=torch.float64)
    for channel in range(4):
        moved = pooled_bin_by_bin(
            scores[:, channel * 6 : channel * 6 + 6], boxes, offset[:, channel * groups // 4]
        )
        expected[:, channel] = moved.flatten(2).diagonal(dim1=1, dim2=2).reshape(-1, 3, 2)
    layer = DeformPSRoIPool(**SETTINGS, gamma=0.3)
    torch.testing.assert_close(layer(scores, fields, boxes), expected)


def test_position_sensitive_without_offsets_is_torchvisions():
    scores, fields = make_sensitive()
    expected = ps_roi_align(scores, make_boxes(), *SETTINGS.values())
    torch.testing.assert_close(DeformPSRoIPool(**SETTINGS)(scores, 0 * fields, make_boxes()), expected)


def test_position_sensitive_gradients_reach_both_maps_and_halves_keep_their_type():
    scores, fields = (tensor.requires_grad_() for tensor in make_sensitive(2))
    layer = DeformPSRoIPool(**SETTINGS)
    layer(scores, fields, make_boxes()).square().sum().backward()
    assert scores.grad.abs().max() > 0 and fields.grad.abs().max() > 0
    half = layer(scores.half(), fields.half(), make_boxes().float())
    assert half.dtype == torch.float16
    exact = layer(scores, fields, make_boxes())
    assert (half.double() - exact).abs().max() < 0.01 * exact.abs().max()


def test_each_layer_has_the_learning_rate_of_its_paper():
    network = nn.Sequential(
        DeformConv2d(2, 2, 3),
        ModulatedDeformConv2d(2, 2, 3),
        nn.ModuleDict(dict(pool=DeformRoIPool(2, 1), head=nn.Linear(2, 2))),
        ModulatedDeformRoIPool(2, 1, hidden_channels=(3,)),
    )
    network[3].offset_lr_scale = 0.5  # of one's own
    names = {
        "0.conv_offset": 1.0,
        "1.conv_offset": 0.1,
        "2.pool.offset_fc.0": 0.01,
        "3.offset_fc.0": 0.5,
        "3.offset_fc.2": 0.5,
    }
    expected = {f"{name}.{kind}": scale for name, scale in names.items() for kind in ("weight", "bias")}
    assert offset_lr_scales(network) == expected
    assert ModulatedDeformRoIPool.offset_lr_scale == 1.0
    assert offset_lr_scales(DeformRoIPool(2, 1)) == {"offset_fc.0.weight": 0.01, "offset_fc.0.bias": 0.01}


def test_the_printed_form_names_what_differs_from_the_defaults():
    assert DeformRoIPool(4, 7).extra_repr() == "4, output_size=(7, 7)"
    printed = DeformRoIPool(4, (3, 2), spatial_scale=0.25, gamma=0.2).extra_repr()
    assert printed == "4, output_size=(3, 2), spatial_scale=0.25, gamma=0.2"
