"""The command: files in, files out, sentences, and what it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from timm.models import save_for_hf
from torch import Tensor, nn

from dcn_backbones.convert import main


@pytest.fixture(scope="module")
def source() -> nn.Module:
    """Six classes, offsets of about a pixel."""
    torch.manual_seed(0)
    network = timm.create_model("dcnv2_resnet18", num_classes=6, offset_groups=2, zero_init_last=False).eval()
    for name, parameter in network.named_parameters():
        if "conv_offset" in name:
            nn.init.normal_(parameter, std=1 if name.endswith("bias") else 0.02)
    return network


@pytest.fixture(scope="module")
def detector(source, tmp_path_factory) -> Path:
    """A file as mmdetection 1 writes it, of a network that takes blue, green and red."""
    state = {key.replace(".conv_offset.", "_offset."): value for key, value in source.state_dict().items()}
    state["conv1.weight"] = state["conv1.weight"].flip(1)
    backbone = {f"backbone.{key}": value for key, value in state.items() if not key.startswith("fc.")}
    rest = {
        "neck.convs.0.weight": torch.ones(1),
        "neck.convs.0.bias": torch.ones(1),
        "rpn_head.w": torch.ones(1),
    }
    config = "norm = dict(mean=[103.53, 116.28, 123.675], std=[51.0, 102.0, 25.5], to_rgb=False)"
    path = tmp_path_factory.mktemp("mmdetection") / "detector.pth"
    torch.save({"state_dict": {**backbone, **rest}, "meta": {"config": config}}, path)
    return path


@torch.no_grad()
def features(network: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return network.forward_features(torch.randn(1, 3, 64, 64, generator=generator))


def run(*arguments, capsys) -> tuple[int, list[str], str]:
    code = main([str(argument) for argument in arguments])
    output, errors = capsys.readouterr()
    return code, output.splitlines(), errors


def test_a_detector_becomes_a_folder_for_timm(detector, source, tmp_path, capsys):
    target = tmp_path / "mdconv"
    code, lines, errors = run(detector, target, capsys=capsys)
    assert code == 0 and not errors
    assert re.fullmatch(r"\d+ tensors of mmdetection are dcnv2_resnet18", lines[0])
    assert lines[1] == "left out, as no part of the network: neck (2), rpn_head (1)"
    assert lines[2:] == [f"{target} is written; it needs:", f"local-dir:{target}"]
    loaded = timm.create_model(lines[-1], pretrained=True).eval()
    assert loaded.num_classes == 0 and loaded.layer2[0].conv1.offset_groups == 2
    torch.testing.assert_close(features(loaded), features(source), rtol=0, atol=0)
    cfg = loaded.pretrained_cfg
    np.testing.assert_allclose(cfg["mean"], [0.485, 0.456, 0.406])
    np.testing.assert_allclose(cfg["std"], [0.1, 0.4, 0.2])
    assert cfg["license"] == "other" and "mmdetection" in cfg["description"]
    assert not cfg.get("label_names") and not cfg.get("hf_hub_id")
    assert sorted(file.name for file in target.iterdir()) == ["config.json", "model.safetensors"]
    assert not list(tmp_path.glob(".*"))


def test_a_plain_network_becomes_the_start_of_a_deformable_one(tmp_path, capsys):
    plain = timm.create_model("resnet18", num_classes=4, zero_init_last=False).eval()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    code, lines, _ = run(
        tmp_path / "plain.pth", tmp_path / "warm", "--model", "dcnv2_resnet18", capsys=capsys
    )
    assert code == 0
    assert lines[1].startswith("plain there, so they start without offsets: layer2.0.conv1, layer2.0.conv2, ")
    assert lines[2] == (
        "nothing says how its pixels are normalised: ImageNet's mean and standard deviation are assumed"
    )
    loaded = timm.create_model(f"local-dir:{tmp_path / 'warm'}", pretrained=True).eval()
    torch.testing.assert_close(features(loaded), features(plain))


def test_arrays_around_torchvisions_layer(source, tmp_path, capsys):
    arrays = dict(source.state_dict())
    for key in [key for key in arrays if ".conv_offset." in key]:
        conv, _, name = key.partition(".conv_offset.")
        branch = arrays.pop(key)
        arrays[f"{conv}.offsets.{name}"], arrays[f"{conv}.masks.{name}"] = branch[:36], branch[36:]
        if name == "weight":
            arrays[f"{conv}.deform.weight"] = arrays.pop(f"{conv}.weight") / 2  # the mask's scale is 2
    np.savez(tmp_path / "mine.npz", **arrays)
    names = [
        "--weight-name",
        "{conv}.deform",
        "--offset-name",
        "{conv}.offsets",
        "--mask-name",
        "{conv}.masks",
    ]
    options = [
        "--from",
        "torchvision",
        *names,
        "--mask-scale",
        "2",
        "--mean",
        "0,0,0",
        "--std",
        "255,255,255",
    ]
    code, lines, _ = run(tmp_path / "mine.npz", tmp_path / "ours", *options, capsys=capsys)
    assert code == 0 and "of torchvision are dcnv2_resnet18" in lines[0] and len(lines) == 3
    loaded = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    torch.testing.assert_close(loaded.state_dict(), source.state_dict(), rtol=0, atol=0)
    assert tuple(loaded.pretrained_cfg["mean"]) == (0, 0, 0) and tuple(loaded.pretrained_cfg["std"]) == (
        1,
        1,
        1,
    )


@pytest.mark.parametrize("layout", ["mmdetection", "detectron2"])
def test_ours_goes_out_and_comes_back(layout, tmp_path, capsys):
    network = timm.create_model("dcnv1_resnet50", num_classes=3, zero_init_last=False).eval()
    pixels = {"mean": (0.2, 0.4, 0.6), "std": (0.1, 0.2, 0.4)}
    save_for_hf(network, tmp_path / "ours", safe_serialization=True, data_config=pixels)
    out = tmp_path / f"{layout}.pth"
    code, lines, _ = run(f"local-dir:{tmp_path / 'ours'}", out, "--to", layout, capsys=capsys)
    assert code == 0 and lines[0] == f"{out} is written; it needs:"
    if layout == "detectron2":
        settings = yaml.safe_load("\n".join(lines[1:]))
        assert settings["MODEL"]["WEIGHTS"] == str(out) and settings["MODEL"]["RESNETS"]["DEPTH"] == 50
    else:
        assert f"checkpoint='{out}'" in lines[-1]
    code, lines, _ = run(out, tmp_path / "again", "--style", "pytorch", capsys=capsys)
    assert code == 0 and f"of {layout} are dcnv1_resnet50" in lines[0]
    loaded = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    torch.testing.assert_close(features(loaded), features(network), rtol=0, atol=0)
    told = any(line.startswith("nothing says how its pixels are normalised") for line in lines)
    assert told == (layout == "detectron2")
    if layout == "mmdetection":
        np.testing.assert_allclose(loaded.pretrained_cfg["mean"], pixels["mean"])
        np.testing.assert_allclose(loaded.pretrained_cfg["std"], pixels["std"])


def test_a_weight_file_of_ours_is_named_with_its_model(source, tmp_path, capsys):
    torch.save(source.state_dict(), tmp_path / "ours.pth")
    code, lines, _ = run(tmp_path / "ours.pth", tmp_path / "x", capsys=capsys)
    assert code == 0 and lines[0].endswith("tensors of mmdetection are dcnv2_resnet18")


REFUSALS = [
    (["absent.pth", "out"], "absent.pth"),
    (["detector.pth", "detector.pth"], "detector.pth exists; expected a new folder"),
    (["detector.pth", "no/such/out"], "no/such is not a folder"),
    (
        ["detector.pth", "out", "--model", "dcnv9_resnet18"],
        "unknown model 'dcnv9_resnet18'; expected one of dcnv1",
    ),
    (["detector.pth", "out", "--model", "resnet18"], "unknown model 'resnet18'"),
    (
        ["detector.pth", "out", "--model", "dcnv1_resnet18"],
        r"of another shape: layer2\.0\.conv1_offset\.weight",
    ),
    (["detector.pth", "out", "--input-order", "rgb"], "input_order='rgb' was given, but .* says 'bgr'"),
    (
        ["detector.pth", "out", "--mean", "1,2,3", "--std", "1,1,1"],
        r"pixel_mean=\(1\.0, 2\.0, 3\.0\) was given",
    ),
    (
        ["detector.pth", "out", "--to", "detectron2"],
        "detectron2 cannot build this network: its blocks are basic",
    ),
    (["torn.pth", "out"], r"nothing was loaded; missing: layer1\.0\.bn1\.weight; unknown: layer1\.0\.se\.w"),
    (["dcnv9_resnet18", "out"], "unknown model 'dcnv9_resnet18'"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSALS, ids=[refusal[1][:30] for refusal in REFUSALS])
def test_refusals_are_one_sentence_and_leave_nothing(arguments, message, detector, capsys, monkeypatch):
    monkeypatch.chdir(detector.parent)
    content = torch.load("detector.pth", weights_only=True)
    del content["state_dict"]["backbone.layer1.0.bn1.weight"]
    torch.save({"state_dict": {**content["state_dict"], "backbone.layer1.0.se.w": torch.ones(1)}}, "torn.pth")
    before = sorted(Path().iterdir())
    code, lines, errors = run(*arguments, capsys=capsys)
    assert code == 2 and not lines
    assert re.match(f"error: .*{message}", errors) and len(errors.splitlines()) == 1
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mean", "1,2,3"], "--mean and --std go together"),
        (["--mean", "grey", "--std", "1"], "'grey' is not a list of numbers"),
        (["--from", "caffe2"], "invalid choice: 'caffe2'"),
        (["--offset-name", "{block}.offset2"], "need --from torchvision"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["in.pth", "out", *arguments])
    assert exit.value.code == 2 and message in capsys.readouterr().err


def test_as_a_command(source, tmp_path):
    torch.save(source.state_dict(), tmp_path / "ours.pth")
    command = [sys.executable, "-m", "dcn_backbones.convert", tmp_path / "ours.pth", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert result.returncode == 0 and not result.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "dcnv2_resnet18" and config["num_classes"] == 6
