"""The picture: where its marks are, what its titles say, and how it reaches the disk."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dcn_backbones.analysis import draw_sampling, plot_sampling, record_sampling, sampling_locations
from dcn_backbones.analysis.plot.figure import new_figure, set_title

INPUT = torch.zeros(1, 3, 128, 128)
GREY = Image.new("RGB", (128, 128), (128, 128, 128))


def count(picture: np.ndarray, colour: str) -> int:
    red, green, blue = picture[..., :3].astype(int).transpose(2, 0, 1)
    strong = {"orange": red - blue, "blue": blue - red}[colour]
    return int((strong > 100).sum())


@pytest.fixture
def record(make_network):
    return record_sampling(make_network(), INPUT)


def draw(path, *rows, **options) -> np.ndarray:
    plot_sampling(GREY, rows, path, **options)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def test_marks_are_orange_and_blue_and_more_samples_mean_more_orange(record, tmp_path):
    panels = [sampling_locations(record, (64, 64), "layer2.1.conv2", n) for n in (1, 2, 3)]
    pictures = [draw(tmp_path / "panel.png", [panel]) for panel in panels]
    assert min(pictures[0].shape[:2]) > 400
    assert 100 < count(pictures[0], "orange") < count(pictures[1], "orange")
    assert all(count(picture, "blue") > 100 for picture in pictures)


def test_samples_outside_are_not_drawn(record, tmp_path):
    centre = draw(tmp_path / "centre.png", [sampling_locations(record, (64, 64))])
    corner = draw(tmp_path / "corner.png", [sampling_locations(record, (0, 0))])
    assert count(corner, "orange") < 0.7 * count(centre, "orange")


def test_a_unit_whose_samples_are_all_outside_is_drawn_without_them(record, tmp_path):
    centre = sampling_locations(record, (64, 64))
    picture = draw(tmp_path / "none.png", [replace(centre, inside=torch.zeros_like(centre.inside))])
    assert count(picture, "blue") > 100
    assert count(picture, "orange") < 0.2 * count(draw(tmp_path / "all.png", [centre]), "orange")


def test_marks_are_where_the_positions_say(record, tmp_path):
    """The lower half of the picture is more orange for a unit in the lower half, and likewise the left."""
    picture = draw(tmp_path / "low.png", [sampling_locations(record, (24, 104), "layer2.1.conv2")])
    height, width = picture.shape[0] - 40, picture.shape[1]  # without the legend
    upper, lower = picture[: height // 2], picture[height // 2 : height]
    assert count(lower, "orange") > 100 and count(upper, "orange") == 0
    left, right = lower[:, : width // 2], lower[:, width // 2 :]
    assert count(left, "orange") > 10 * (1 + count(right, "orange"))


def test_what_the_network_does_not_see_is_dimmed(record, tmp_path):
    rows = [sampling_locations(record, (64, 64))]
    picture = draw(tmp_path / "dim.png", rows, seen=(31.5, -0.5, 95.5, 127.5))
    row = picture[60, :, :3].mean(-1)
    assert set(np.unique(row[50:-50].round())) >= {51.0, 128.0}


def test_a_photograph_from_end_to_end(make_network, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 80, (90, 160, 3), dtype=np.uint8))
    overlay = {"input_size": (3, 64, 64), "test_input_size": None}
    model = make_network(pretrained_cfg_overlay=overlay)
    draw_sampling(model, image, tmp_path / "centre.png")
    with Image.open(tmp_path / "centre.png") as picture:
        assert picture.width > 1200 and picture.height > 700  # three strides, three levels
        assert count(np.asarray(picture), "orange") > 1000
    draw_sampling(model, image, tmp_path / "low.png", point=(100, 80), levels=1)
    with Image.open(tmp_path / "low.png") as picture:
        assert picture.width < 800
    with pytest.raises(ValueError, match="cut off"):
        draw_sampling(model, image, tmp_path / "never.png", point=(0, 0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["centre.png", "low.png"]


def test_errors_leave_no_file_behind(record, tmp_path, monkeypatch):
    panel = [sampling_locations(record, (64, 64))]
    with pytest.raises(ValueError, match="'nonsense' is not supported"):
        plot_sampling(GREY, [panel], tmp_path / "picture.nonsense")
    with pytest.raises(FileNotFoundError, match="absent is not a folder"):
        plot_sampling(GREY, [panel], tmp_path / "absent" / "picture.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'dcn_backbones\[plot\]'"):
        plot_sampling(GREY, [panel], tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


def test_a_long_title_is_wrapped_and_whole():
    figure = new_figure(1, 1, 1.0)
    axes, title = figure.subplots(), f"local-dir:/{'folder/' * 12}best"
    set_title(axes, title)
    lines = axes.get_title().split("\n")
    assert len(lines) > 1 and max(map(len, lines)) <= 42 and "".join(lines) == title
