"""Photographs in: files of every kind, and where the network's input lies on them."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from dcn_backbones.analysis import Preprocessing, read_image
from dcn_backbones.analysis.photograph import image_centre, input_point

SIZE = 64


def make_preprocessing(**data_config) -> Preprocessing:
    overlay = {"input_size": (3, SIZE, SIZE), "test_input_size": None, "test_crop_pct": None, **data_config}
    return Preprocessing(timm.create_model("resnet18", pretrained_cfg_overlay=overlay))


def test_read_image_gives_rgb_and_turns_it_upright(tmp_path):
    image = Image.new("L", (4, 2))
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    upright = read_image(tmp_path / "turned.png")
    assert upright.mode == "RGB" and upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff"])
def test_read_image_keeps_the_greys_of_sixteen_bits(tmp_path, name):
    Image.fromarray(np.array([[0, 25_700, 65_535]], np.uint16)).save(tmp_path / name)
    shown = np.asarray(read_image(tmp_path / name))
    assert shown[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]


def test_read_image_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.png is not a file; expected the path of an image"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(OSError, match=r"text.png is not an image that Pillow can decode\.$"):
        read_image(tmp_path / "text.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1000])
    with pytest.raises(OSError, match="cut.png is not an image .* decode: image file is truncated"):
        read_image(tmp_path / "cut.png")


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(300, 200), (201, 333), (40, 50)])
def test_geometry_says_where_a_spot_of_the_photograph_goes(crop_mode, size):
    preprocessing = make_preprocessing(crop_mode=crop_mode, crop_pct=0.9)
    x, y = size[0] * 0.55, size[1] * 0.45
    rows, columns = torch.meshgrid(torch.arange(size[1]), torch.arange(size[0]), indexing="ij")
    width = min(size) / 20
    spot = (-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2)).exp()
    image = Image.fromarray((124 + 131 * spot).byte().numpy()).convert("RGB")  # as grey as a border
    light = preprocessing(image)[0, 0].double()
    light = (light - light.median()).clamp(min=0)
    light = light * (light > 0.2 * light.max())
    found = torch.stack([(light.sum(axis) * torch.arange(SIZE)).sum() for axis in (0, 1)]) / light.sum()
    expected = preprocessing.geometry(image).to_input(torch.tensor([x, y], dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)


def test_geometry_there_and_back():
    geometry = make_preprocessing(crop_pct=0.8).geometry(Image.new("RGB", (301, 203)))
    positions = torch.rand(20, 2, dtype=torch.float64) * 200
    torch.testing.assert_close(geometry.to_input(geometry.to_photograph(positions)), positions)
    assert geometry.size == (SIZE, SIZE)


def test_the_input_goes_to_the_models_type():
    model = timm.create_model("resnet18").to(torch.float64)
    input = Preprocessing(model)(Image.new("RGB", (50, 40)))
    assert input.dtype == torch.float64 and input.shape[:2] == (1, 3)


def test_points_that_the_network_does_not_see_are_refused():
    image = Image.new("RGB", (300, 100))
    geometry = make_preprocessing(crop_pct=1.0).geometry(image)
    torch.testing.assert_close(
        input_point(image, geometry, image_centre(image)), (31.5, 31.5), rtol=0, atol=0.01
    )
    with pytest.raises(ValueError, match=r"point \(300, 5\) is outside .* x from 0 to 299 and y from 0 to"):
        input_point(image, geometry, (300, 5))
    with pytest.raises(ValueError, match=r"point \(20, 5\) is cut off .* x from 100 to 199 and y from 0"):
        input_point(image, geometry, (20, 5))
    for x in (100, 199):
        input_point(image, geometry, (x, 5))
    for x in (99, 200):
        with pytest.raises(ValueError, match="is cut off"):
            input_point(image, geometry, (x, 5))
