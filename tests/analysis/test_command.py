"""The command: the page that it writes, and what it refuses."""

import json
import re
import sys
from pathlib import Path

import pytest
import timm
from timm.models import save_for_hf

from dcn_backbones.analysis.__main__ import main

ROOT = Path(__file__).parents[2]
PHOTOGRAPH = str(ROOT / "hub" / "space" / "chelsea.png")  # 451x300


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    """Names of a regular, a DCNv1 and a DCNv2 network of 64 pixels."""
    names = []
    for name in ("resnet18", "dcnv1_resnet18", "dcnv2_resnet18"):
        folder = tmp_path_factory.mktemp(name)
        network = timm.create_model(name, num_classes=5)
        save_for_hf(
            network, folder, safe_serialization=True, data_config={"input_size": (3, 64, 64), "crop_pct": 1.0}
        )
        names.append(f"local-dir:{folder}")
    return names


@pytest.fixture
def annotations(tmp_path) -> str:
    image = {"id": 1, "file_name": "chelsea.png", "width": 451, "height": 300}
    (tmp_path / "chelsea.png").write_bytes(Path(PHOTOGRAPH).read_bytes())
    path = tmp_path / "boxes.json"
    box = {"image_id": 1, "bbox": [100, 20, 200, 250]}
    path.write_text(json.dumps({"images": [image], "annotations": [box]}))
    return str(path)


def test_regular_dcnv1_and_dcnv2_side_by_side(models, annotations, tmp_path, capsys, terminal):
    out = tmp_path / "looking"
    chosen = [text for name in models for text in ("--model", name)]
    options = ["--points", "225,150", "--layer", "layer3", "--bound", "0.9", "--out", str(out)]
    with terminal as screen:
        status = main([PHOTOGRAPH, *chosen, *options, "--annotations", annotations, "--short-side", "64"])
    assert status == 0 and capsys.readouterr().out == f"wrote {out / 'index.html'}\n"
    assert f"looking with {models[2]}" in screen.getvalue() and "masked images" in screen.getvalue()
    page = (out / "index.html").read_text()
    assert page.count("<h2>Node ") == 1 and "unit (2, 2) of layer3" in page
    pictures = re.findall(r'(?:src|href|srcset)="([^"]+)"', page)
    assert set(pictures) == {path.name for path in out.iterdir()} - {"index.html"}
    assert page.count("<img src") == 4 * 3 and page.count("<picture>") == 2
    assert not re.search("https?://", page)
    assert page.count("Effective dilation by object size") == 2  # the plain network has none
    assert page.count("<h2>Offsets and modulation") == 2
    assert "prefers-color-scheme: dark" in page


def test_a_logit_on_the_page(models, tmp_path):
    out = tmp_path / "logit"
    assert main([PHOTOGRAPH, "--model", models[0], "--classes", "3", "--out", str(out)]) == 0
    page = (out / "index.html").read_text()
    assert page.count("<h2>Node ") == 1 and "logit of class 3" in page and "not of a logit" in page


def test_the_centre_of_the_embedded_network_is_the_default(tmp_path):
    assert main([PHOTOGRAPH, "--out", str(tmp_path / "a"), "--bound", "0.95", "--levels", "1"]) == 0
    page = (tmp_path / "a" / "index.html").read_text()
    assert "dcnv2_resnet18" in page and "of layer4" in page and "9 samples of layer4.1.conv2" in page


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["absent.jpg"], "absent.jpg is not a file; expected the path of an image."),
        ([str(ROOT / "README.md")], "README.md is not an image that Pillow can decode"),
        ([PHOTOGRAPH, "--model", "dcnv9"], "unknown model 'dcnv9'"),
        (
            [PHOTOGRAPH, "--points", "451,10"],
            "point (451, 10) is outside the image; expected x from 0 to 450",
        ),
        (
            [PHOTOGRAPH, "--points", "2,150"],
            "the network sees the image; expected x from 75 to 375 and y from 0 to 299.",
        ),
        ([PHOTOGRAPH, "--layer", "layer7"], "ResNet has no layer 'layer7'; expected one of conv1, "),
        ([PHOTOGRAPH, "--layer", "fc"], "layer 'fc' gives (1, 100); expected one with a feature map"),
        ([PHOTOGRAPH, "--classes", "100"], "100 is none of the classes; expected 0 to 99"),
        ([PHOTOGRAPH, "--bound", "2"], "bound is 2; expected a relative error above 0 and below 1"),
        ([PHOTOGRAPH, "--annotations", "absent.json"], "absent.json is not a file; expected a COCO JSON"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(arguments, sentence, tmp_path, capsys):
    out = tmp_path / "looking"
    assert main([*arguments, "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and sentence in errors and errors.count("\n") == 1
    assert not out.exists()


def test_a_folder_that_cannot_be_is_said_before_anything_takes_long(tmp_path, capsys):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "looking"):
        assert main([PHOTOGRAPH, "--model", "dcnv9", "--out", str(out)]) == 2
        assert capsys.readouterr().err == (
            f"error: {out} cannot be written: {tmp_path / 'file'} is no folder that may be written into.\n"
        )


def test_a_dilation_of_nothing_is_refused(models, annotations, tmp_path, capsys):
    out = tmp_path / "looking"
    plain = [PHOTOGRAPH, "--model", models[0], "--annotations", annotations, "--out", str(out)]
    assert main(plain) == 2 and "and no model has any; expected one such as" in capsys.readouterr().err
    Path(annotations).write_text('{"images": [], "annotations": []}')
    assert main(plain) == 2 and "boxes.json has no images; expected at least one" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "the following arguments are required: --out"),
        (["--out", "a", "--points", "1;2"], "'1;2' is not a point; expected X,Y in pixels, as 120,80"),
        (["--out", "a", "--levels", "0"], "'0' is not a number of them; expected 1 or more"),
        (["--out", "a", "--images", "3"], "--images and --short-side are of --annotations JSON"),
    ],
)
def test_a_wrong_call_is_one_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        main([PHOTOGRAPH, *arguments])
    errors = capsys.readouterr().err
    assert end.value.code == 2 and sentence in errors and errors.count("\n") == 1


def test_without_matplotlib_it_ends_before_the_work(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr("dcn_backbones.analysis.__main__.load_model", lambda name: pytest.fail("has begun"))
    assert main([PHOTOGRAPH, "--model", models[0], "--out", str(tmp_path / "looking")]) == 2
    assert "pip install 'dcn_backbones[plot]'" in capsys.readouterr().err
