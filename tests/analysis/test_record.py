"""Where layers sample: known offsets in networks of known strides, and what autograd says about it."""

import pytest
import timm
import torch
from torch import nn

from dcn_backbones.analysis import record_sampling
from dcn_backbones.layers import DeformConv2d, ModulatedDeformConv2d

from .conftest import SAMPLES, grid

MODELS = [f"dcnv{v}_{b}" for v in (1, 2) for b in ("resnet18", "resnet50", "resnet101", "resnext101_32x4d")]
STRIDES = {"layer2": 8, "layer3": 16, "layer4": 32}
ODD_IMAGE = torch.zeros(1, 3, 65, 33)
IMAGE = torch.zeros(1, 3, 64, 64)


def regular_positions(entry, input_stride: int) -> torch.Tensor:
    width, height = entry.grid.tolist()
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    units = torch.stack([x, y], dim=-1)[:, :, None] * entry.stride
    return units + grid(input_stride, input_stride)


@pytest.mark.parametrize("name", MODELS)
def test_without_offsets_every_model_samples_the_regular_grid(name):
    model = timm.create_model(name)
    record = record_sampling(model, ODD_IMAGE)
    deformable = {n: m for n, m in model.named_modules() if isinstance(m, DeformConv2d)}
    assert [entry.name for entry in record] == list(deformable)
    for entry in record:
        layer = deformable[entry.name]
        assert entry.stride == STRIDES[entry.name.split(".")[0]]
        assert torch.equal(entry.positions, regular_positions(entry, entry.stride // layer.stride[0]))
        assert entry.image_size == (33, 65)
        expected = 0.5 if isinstance(layer, ModulatedDeformConv2d) else 1.0
        assert entry.weights.shape == entry.positions.shape[:-1] and (entry.weights == expected).all()


def test_dilation_spreads_the_samples(make_network):
    last = record_sampling(make_network("dcnv1_resnet50", output_stride=8), IMAGE)[-1]
    assert last.stride == 8
    assert torch.equal(last.positions[4, 3] - torch.tensor([24, 32]), grid(4 * 8, 4 * 8))


@pytest.mark.parametrize(
    "offset, pixels", [((1.0, 0.0), (0, 1)), ((0.0, 1.0), (1, 0)), ((-0.5, 2.0), (2, -0.5))]
)
def test_an_offset_is_y_before_x_and_counts_in_units_of_the_layers_input(make_network, offset, pixels):
    for entry in record_sampling(make_network(offset=offset), IMAGE):
        input_stride = entry.stride // (
            2 if entry.name in ("layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1") else 1
        )
        moved = entry.positions - regular_positions(entry, input_stride)
        assert (moved == input_stride * torch.tensor(pixels)).all(), entry.name


def test_offset_groups_follow_each_other(make_network):
    offset = torch.arange(4.0 * SAMPLES).view(2 * SAMPLES, 2)
    logits = torch.linspace(-2, 2, 2 * SAMPLES)
    last = record_sampling(make_network(offset=offset, logits=logits, offset_groups=2), IMAGE)[-1]
    assert last.positions.shape == (2, 2, 2 * SAMPLES, 2)
    expected = grid(32, 32).repeat(2, 1) + 32 * offset.flip(-1)
    assert torch.equal(last.positions[0, 0], expected)
    torch.testing.assert_close(last.weights[1, 1], logits.double().sigmoid())


@pytest.mark.parametrize("layer_class", [DeformConv2d, ModulatedDeformConv2d])
def test_pixels_that_influence_a_unit_are_the_ones_around_its_samples(layer_class):
    layer = layer_class(2, 3, (3, 2), stride=2, padding=(2, 0), dilation=(2, 1), offset_groups=2)
    nn.init.normal_(layer.conv_offset.bias, std=1.5)
    image = torch.rand(1, 2, 16, 16, requires_grad=True)
    y, x = 3, 5
    layer(image)[0, :, y, x].sum().backward()
    (entry,) = record_sampling(nn.Sequential(layer), image)
    assert entry.stride == 2
    for group, gradient in enumerate(image.grad[0]):
        expected = torch.zeros(16, 16, dtype=torch.bool)
        for sample_x, sample_y in entry.positions[y, x, 6 * group : 6 * group + 6].tolist():
            for row in (int(sample_y // 1), int(sample_y // 1) + 1):
                for column in (int(sample_x // 1), int(sample_x // 1) + 1):
                    if 0 <= row < 16 and 0 <= column < 16:
                        expected[row, column] = True
        assert torch.equal(gradient != 0, expected)


def test_unit_j_lies_on_pixel_stride_times_j():
    """The pixels that influence a unit of a plain ResNet reach as far to the left as to the right of it."""
    network = timm.create_model("resnet18", features_only=True, out_indices=(2,)).double().eval()
    network.maxpool = nn.AvgPool2d(3, stride=2, padding=1)  # the same geometry, but it selects nothing
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    image = torch.ones(1, 3, 160, 160, dtype=torch.float64, requires_grad=True)
    network(image)[0][0, :, 9, 11].sum().backward()
    rows, columns = image.grad[0].sum(0).nonzero().T
    assert (rows.min() + rows.max(), columns.min() + columns.max()) == (2 * 8 * 9, 2 * 8 * 11)
    assert rows.min() > 0 and columns.max() < 159


def test_the_model_is_left_as_it_was(make_network):
    model = make_network().train()
    model.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    record = record_sampling(model, IMAGE)
    assert model.training and model.layer4.training and not model.layer1.training
    model.eval()(IMAGE)
    assert len(record) == 12, "a hook stayed behind"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_errors(make_network):
    with pytest.raises(ValueError, match="ResNet has no deformable layers"):
        record_sampling(timm.create_model("resnet18"), IMAGE)
    with pytest.raises(ValueError, match=r"\(2, 3, 64, 64\); expected one image"):
        record_sampling(make_network(), IMAGE.repeat(2, 1, 1, 1))
