"""The command: what it prints, draws and refuses."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
import timm
from PIL import Image
from timm.models import save_for_hf

from dcn_backbones.predict import main

PHOTOGRAPHS = [str(Path(skimage.__file__).parent / "data" / name) for name in ("chelsea.png", "coffee.png")]
WORDS = ("tabby cat", "espresso", "rocket", "astronaut", "retina", "brick wall")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Name of an untrained model with words for its six classes."""
    folder = tmp_path_factory.mktemp("model")
    names = [f"n{index}" for index in range(len(WORDS))]
    network = timm.create_model("dcnv2_resnet18", num_classes=len(WORDS))
    labels = {"label_names": names, "label_descriptions": dict(zip(names, WORDS, strict=True))}
    data_config = {"input_size": (3, 64, 64), "crop_pct": 1.0}
    save_for_hf(network, folder, labels, safe_serialization=True, data_config=data_config)
    return f"local-dir:{folder}"


def test_the_top_five_of_every_image_in_words(model, capsys):
    assert main([*PHOTOGRAPHS, "--model", model]) == 0
    output, errors = capsys.readouterr()
    lines = output.splitlines()
    assert not errors and len(lines) == 2 * 6
    for photograph, (title, *best) in zip(PHOTOGRAPHS, (lines[:6], lines[6:]), strict=True):
        assert title == photograph
        matches = [re.fullmatch(r" +(\d+\.\d)%  (.+)", line) for line in best]
        assert {match[2] for match in matches} < set(WORDS)
        probabilities = [float(match[1]) for match in matches]
        assert probabilities == sorted(probabilities, reverse=True) and 80 < sum(probabilities) <= 100.5


def test_top(model, capsys):
    assert main([PHOTOGRAPHS[0], "--model", model, "--top", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_sampling_draws_the_point_of_the_first_image(model, capsys, tmp_path):
    picture = tmp_path / "sampling.png"
    arguments = ["--model", model, "--sampling", str(picture), "--point", "200,150"]
    assert main([*PHOTOGRAPHS, *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"sampling locations in {PHOTOGRAPHS[0]}: {picture}"
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert min(pixels.shape[:2]) > 500
    orange = (abs(pixels - [230, 159, 0]) < 12).all(-1)
    assert orange.sum() > 500


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["absent.jpg"], "absent.jpg is not a file"),
        ([__file__], "test_predict.py is not an image"),
        (
            [PHOTOGRAPHS[0], "--sampling", "x.png", "--point", "9999,3"],
            r"point \(9999, 3\) is outside",
        ),
        ([PHOTOGRAPHS[0], "--sampling", "absent/x.png"], "absent is not a folder"),
    ],
)
def test_errors_are_one_sentence(model, arguments, message, capsys):
    assert main([*arguments, "--model", model]) == 2
    errors = capsys.readouterr().err
    assert re.match(f"error: .*{message}", errors) and len(errors.splitlines()) == 1


def test_a_plain_network_has_nothing_to_draw(capsys, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    save_for_hf(timm.create_model("resnet18", num_classes=2), folder, safe_serialization=True)
    picture = tmp_path / "x.png"
    assert main([PHOTOGRAPHS[0], "--model", f"local-dir:{folder}", "--sampling", str(picture)]) == 2
    assert "no deformable layers" in capsys.readouterr().err
    assert not picture.exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--top", "0"], "'0' is not a number of classes"),
        (["--sampling", "x.png", "--point", "12"], "'12' is not a point"),
        (["--point", "1,2"], "needs --sampling"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        main([PHOTOGRAPHS[0], *arguments])
    assert exit.value.code == 2 and message in capsys.readouterr().err


def test_as_a_command_without_a_traceback():
    command = [sys.executable, "-m", "dcn_backbones.predict", PHOTOGRAPHS[0], "--model", "dcnv9_resnet18"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.startswith("error: unknown model 'dcnv9_resnet18'")
    assert len(result.stderr.splitlines()) == 1
