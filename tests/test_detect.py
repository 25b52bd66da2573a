"""The command: what it prints, draws and refuses."""

import re

import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from torch.hub import get_dir
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, maskrcnn_resnet50_fpn_v2

from dcn_backbones.detect import main
from dcn_backbones.detection import coco_detector, faster_rcnn, save_detector

PHOTOGRAPH = f"{skimage.__path__[0]}/data/chelsea.png"
NAMES = ["cat", "dog"]


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> str:
    """Folder of an untrained detector."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("detector")
    sizes = dict(min_size=64, max_size=96, rpn_post_nms_top_n_test=10)
    save_detector(faster_rcnn("resnet18", 3, box_pool="align", **sizes), folder, NAMES)
    return str(folder)


def test_draws_and_lists_what_is_found(detector, tmp_path, capsys):
    picture = tmp_path / "found.png"
    arguments = [PHOTOGRAPH, "--detector", detector, "--out", str(picture), "--threshold", "0.1"]
    assert main(arguments) == 0
    output, errors = capsys.readouterr()
    *rows, last = output.splitlines()
    assert not errors and len(rows) > 1
    assert last == f"{len(rows)} detections in {PHOTOGRAPH}: {picture}"
    matches = [re.fullmatch(r" +(\d+\.\d)%  (cat|dog)  \d+,\d+ to \d+,\d+", row) for row in rows]
    scores = [float(match[1]) for match in matches]
    assert scores == sorted(scores, reverse=True) and scores[-1] >= 10
    with Image.open(picture) as drawn, Image.open(PHOTOGRAPH) as photograph:
        assert drawn.size == photograph.size
        assert (np.asarray(drawn) != np.asarray(photograph)).any()


def test_nothing_above_the_threshold(detector, tmp_path, capsys):
    picture = tmp_path / "found.png"
    assert main([PHOTOGRAPH, "--detector", detector, "--out", str(picture), "--threshold", "1"]) == 0
    assert capsys.readouterr().out == f"0 detections in {PHOTOGRAPH}: {picture}\n"
    with Image.open(picture) as drawn, Image.open(PHOTOGRAPH) as photograph:
        assert (np.asarray(drawn) == np.asarray(photograph)).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["absent.jpg"], "absent.jpg is not a file"),
        ([__file__], "test_detect.py is not an image"),
        ([PHOTOGRAPH, "--out", "absent/x.png"], "absent is not a folder"),
        ([PHOTOGRAPH, "--detector", "absent"], "detector.json is not a file"),
    ],
)
def test_errors_are_one_sentence(detector, arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--detector", detector, *arguments]) == 2
    errors = capsys.readouterr().err
    assert re.match(f"error: .*{message}", errors) and len(errors.splitlines()) == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("threshold", ["high", "1.5", "nan"])
def test_a_threshold_that_is_none(threshold, capsys):
    with pytest.raises(SystemExit) as exit:
        main([PHOTOGRAPH, "--threshold", threshold])
    assert exit.value.code == 2 and f"'{threshold}' is not a score" in capsys.readouterr().err


def test_without_a_network_the_download_fails_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert main([PHOTOGRAPH, "--out", str(tmp_path / "x.png")]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert re.match("error: https://.* could not be downloaded", error)


def test_torchvisions_detector_comes_from_its_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).half().state_dict()
    state["roi_heads.mask_predictor.mask_fcn_logits.bias"][:] = torch.arange(91)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.url.rpartition("/")[2])
    assert get_dir() == str(tmp_path / "hub")
    detector, categories = coco_detector()
    assert detector.roi_heads.mask_predictor.mask_fcn_logits.bias.tolist() == list(range(91))
    assert len(categories) == 90 and categories[0] == "person" and not detector.training
