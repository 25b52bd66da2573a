"""All views of one node: that they are those of the single methods, and what is drawn of them."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.ops import MultiScaleRoIAlign

from dcn_backbones.analysis import (
    VIEWS,
    ClassLogit,
    EffectiveLocations,
    Point,
    Preprocessing,
    RoI,
    SupportSettings,
    effective_bin_locations,
    effective_receptive_field,
    offset_distribution,
    plot_bins,
    plot_distribution,
    plot_support,
    plot_view,
    record_sampling,
    saliency_region,
    spatial_support,
)
from dcn_backbones.analysis.offset_distribution import SHARES
from dcn_backbones.analysis.plot.support import draw_effective, draw_receptive_field, draw_saliency

from .conftest import small_detector

SETTINGS = SupportSettings(layer="layer3", levels=2, bound=0.3)
PHOTOGRAPH = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
OVERLAY = {"input_size": (3, 64, 64), "test_input_size": None, "crop_pct": 1.0}


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    names = ("resnet18", "dcnv2_resnet18")
    made = {name: timm.create_model(name, num_classes=4, pretrained_cfg_overlay=OVERLAY, zero_init_last=False).eval() for name in names}  # noqa: E501  # fmt: skip
    for name, parameter in made["dcnv2_resnet18"].named_parameters():
        if "offset" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return made


@pytest.fixture(scope="module")
def supports(models):
    return [spatial_support(name, model, PHOTOGRAPH, (50, 20), SETTINGS) for name, model in models.items()]


def test_the_views_are_those_of_the_methods(models, supports):
    model, support = models["dcnv2_resnet18"], supports[1]
    image = Preprocessing(model)(PHOTOGRAPH)
    # The photograph is enlarged by 64/60, and 16 pixels are cut off on the left: (50, 20) lies on (37, 21).
    assert support.node == Point("layer3", 2, 1) and support.picture.size == (64, 64)
    torch.testing.assert_close(support.receptive_field, effective_receptive_field(model, image, support.node))
    assert torch.equal(support.saliency.mask, saliency_region(model, image, support.node, 0.3).mask)
    assert support.sampling.unit.tolist() == [32, 16]
    assert support.sampling.layers == ("layer3.1.conv2", "layer3.1.conv1")
    assert support.effective.layer == "layer3.1.conv2, layer3.1.conv1"


def test_a_plain_model_samples_the_grid(supports):
    plain, deformable = (support.sampling for support in supports)
    assert plain.layers == deformable.layers and torch.equal(plain.unit, deformable.unit)
    assert (plain.positions % 16 == 0).all() and not (deformable.positions % 16 == 0).all()


def test_a_logit_has_no_sampling_locations(models):
    support = spatial_support("dcnv2_resnet18", models["dcnv2_resnet18"], PHOTOGRAPH, ClassLogit(3))
    assert support.sampling is None and support.node == ClassLogit(3)


def test_a_point_that_the_network_does_not_see(models):
    with pytest.raises(ValueError, match=r"point \(2, 20\) is cut off"):
        spatial_support("resnet18", models["resnet18"], PHOTOGRAPH, (2, 20), SETTINGS)


@pytest.mark.parametrize("background, brightness", [("light", 255), ("dark", 22)])
def test_the_figure_is_light_or_dark_with_words_that_show(supports, tmp_path, background, brightness):
    plot_support(supports, tmp_path / "figure.png", background)
    with Image.open(tmp_path / "figure.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels[0, 0, 0] == brightness and pixels.shape[0] > pixels.shape[1] > 600
    title = pixels[:30]  # above the first panels
    assert abs(title - brightness).max() > 200
    plot_support(supports, tmp_path / "figure.svg", background)
    assert (tmp_path / "figure.svg").read_text().lstrip().startswith("<?xml")
    assert {path.name for path in tmp_path.iterdir()} == {"figure.png", "figure.svg"}


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_alone_is_nothing_but_the_picture(supports, tmp_path, view):
    plot_view(supports[1], view, tmp_path / "view.png")
    with Image.open(tmp_path / "view.png") as picture:
        assert picture.width == picture.height == 480
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 50 and not (colours == 255).all(1).mean() > 0.1


class Axes:
    """Notes what is drawn, in place of matplotlib's."""

    def __init__(self) -> None:
        self.calls: dict[str, list] = {}

    def __getattr__(self, name):
        return lambda *values, **options: self.calls.setdefault(name, []).append((values, options))


GREY = Image.new("RGB", (8, 6), (100, 100, 100))


def test_effective_locations_are_drawn_where_they_are_the_strongest_in_front():
    positions = torch.tensor([[1.0, 2.0], [5.0, 4.0]], dtype=torch.float64)
    axes = Axes()
    draw_effective(axes, GREY, EffectiveLocations("a", positions, torch.tensor([2.0, 1.0]).double()))
    ((x, y), options), = axes.calls["scatter"]  # fmt: skip
    assert x.tolist() == [5, 1] and y.tolist() == [4, 2] and options["c"].tolist() == [0.5, 1]
    assert axes.calls["set_ylim"] == [((5.5, -0.5), {})]


def test_a_receptive_field_is_drawn_as_the_root_of_its_share():
    field = torch.zeros(6, 8)
    field[1, 2], field[3, 3] = 4.0, 1.0
    axes = Axes()
    draw_receptive_field(axes, GREY, field)
    (values,), options = axes.calls["imshow"][1]
    assert values[1, 2] == 1 and values[3, 3] == 0.5 and values.sum() == 1.5
    assert options["alpha"][0, 0] == 0 and options["alpha"][3, 3] == 1


def test_outside_of_a_saliency_region_the_picture_is_dim(supports):
    region = supports[0].saliency
    axes = Axes()
    draw_saliency(axes, supports[0].picture, region)
    shown, mask = axes.calls["imshow"][0][0][0], region.mask.numpy()
    assert (shown[mask] == np.asarray(supports[0].picture)[mask]).all()
    assert shown[~mask].max() <= 0.45 * 255


def test_bins_are_drawn(tmp_path):
    detector = small_detector(MultiScaleRoIAlign(["fine", "middle", "coarse"], (3, 2), 2))
    bins = effective_bin_locations(detector, torch.randn(1, 3, 60, 90).double(), RoI((10, 5, 60, 50)))
    plot_bins(PHOTOGRAPH, [("one", bins), ("other", bins)], tmp_path / "bins.png", "dark")
    with Image.open(tmp_path / "bins.png") as picture:
        bright = (np.asarray(picture.convert("RGB")).astype(int) > 240).all(-1)
        assert picture.width > 900 and bright.sum() > 200  # the RoI's outline


def test_distributions_are_quantiles_of_what_is_sampled(models, tmp_path):
    model, images = models["dcnv2_resnet18"], torch.randn(2, 3, 64, 64)
    found = offset_distribution(model, images)
    records = [record_sampling(model, image) for image in images.split(1)]
    assert len(found) == len(records[0]) == 12
    for layer, *entries in zip(found, *records, strict=True):
        x = torch.cat([((e.positions - e.regular)[..., 0] / e.input_stride).flatten() for e in entries])
        torch.testing.assert_close(layer.offsets[0, [0, -1]], torch.stack([x.min(), x.max()]))
        torch.testing.assert_close(layer.offsets[0], x.quantile(torch.tensor(SHARES).double(), interpolation="nearest"))  # noqa: E501  # fmt: skip
        mask = torch.cat([e.weights.flatten() for e in entries])
        torch.testing.assert_close(layer.modulations[[0, -1]], torch.stack([mask.min(), mask.max()]))
    plot_distribution(found, tmp_path / "offsets.svg", "dark")
    assert "layer4.1.conv2" in (tmp_path / "offsets.svg").read_text()


def test_errors_leave_no_file_behind(supports, tmp_path):
    with pytest.raises(ValueError, match="background is 'grey'; expected 'light' or 'dark'"):
        plot_support(supports, tmp_path / "a.png", "grey")
    with pytest.raises(ValueError, match="'nonsense' is not supported"):
        plot_view(supports[0], next(iter(VIEWS)), tmp_path / "a.nonsense")
    with pytest.raises(FileNotFoundError, match="absent is not a folder"):
        plot_support(supports, tmp_path / "absent" / "a.png")
    assert not list(tmp_path.iterdir())
