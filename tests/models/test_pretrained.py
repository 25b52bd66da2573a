"""Every way in which weights reach a model: the Hub, files, folders, plain networks' and our own."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, save_for_hf
from torch import nn

import dcn_backbones
from dcn_backbones.models.pretrained_cfgs import zoo_cfgs

HUB_REVISION = "0" * 40
NAMES = ("dcnv1_resnet18", "dcnv2_resnet18")


@pytest.fixture(scope="module")
def plain(plain_network) -> nn.Module:
    return plain_network("resnet18")


@pytest.fixture(scope="module")
def plain_file(plain, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "model.safetensors"
    save_file(plain.state_dict(), path)
    return path


@torch.no_grad()
def assert_same_output(network: nn.Module, expected: nn.Module, images: torch.Tensor) -> None:
    torch.testing.assert_close(network.eval()(images), expected.eval()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_pretrained_from_a_plain_file_and_logged_once(name, plain, plain_file, photographs, caplog):
    overlay = dict(file=str(plain_file), num_classes=1000)
    with caplog.at_level(logging.INFO, logger="dcn_backbones"):
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    assert [record.message.count("layer") > 0 for record in caplog.records] == [True]
    assert_same_output(network, plain, photographs)


@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_path(name, plain, plain_file, photographs):
    network = timm.create_model(name, num_classes=1000, checkpoint_path=str(plain_file))
    assert_same_output(network, plain, photographs)


@pytest.mark.parametrize("name", NAMES)
def test_a_local_folder_of_plain_weights(name, plain, plain_file, photographs):
    config = {
        "architecture": name,
        "num_classes": 1000,
        "pretrained_cfg": {"classifier": "fc", "first_conv": "conv1"},
    }
    plain_file.with_name("config.json").write_text(json.dumps(config))
    network = timm.create_model(f"local-dir:{plain_file.parent}", pretrained=True)
    assert_same_output(network, plain, photographs)


def test_another_number_of_classes_and_channels(plain, plain_file, photographs):
    overlay = dict(file=str(plain_file), num_classes=1000)
    options = dict(pretrained=True, pretrained_cfg_overlay=overlay)
    network = timm.create_model("dcnv2_resnet18", num_classes=7, **options).eval()
    assert network.fc.out_features == 7
    with torch.no_grad():
        torch.testing.assert_close(
            network.forward_features(photographs), plain.forward_features(photographs), rtol=1e-4, atol=1e-4
        )
    grey = timm.create_model("dcnv2_resnet18", num_classes=1000, in_chans=1, **options)
    torch.testing.assert_close(grey.conv1.weight, plain.conv1.weight.sum(1, keepdim=True))


def test_features_only(plain, plain_file, photographs):
    network = timm.create_model(
        "dcnv2_resnet18",
        pretrained=True,
        features_only=True,
        out_indices=(2, 4),
        pretrained_cfg_overlay=dict(file=str(plain_file), num_classes=1000),
    ).eval()
    with torch.no_grad():
        expected = plain.forward_intermediates(photographs, (2, 4), intermediates_only=True)
        for feature, reference in zip(network(photographs), expected, strict=True):
            torch.testing.assert_close(feature, reference, rtol=1e-4, atol=1e-4)


def test_a_saved_model_comes_back_with_its_placement(tmp_path, photographs):
    torch.manual_seed(0)
    options = dict(deform_last=3, offset_groups=2, num_classes=5)
    saved = timm.create_model("dcnv2_resnet18", zero_init_last=False, **options)
    for name, parameter in saved.named_parameters():
        if "conv_offset" in name:
            nn.init.normal_(parameter, std=0.1)
    save_for_hf(saved, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    assert_same_output(loaded, saved, photographs)


HUB_SCRIPT = """
import timm, torch
import dcn_backbones
torch.manual_seed(0)
images = torch.randn(2, 3, 64, 64)
plain = timm.create_model("resnet18.tv_in1k", pretrained=True).eval()
def assert_close(network, expected, options={"rtol": 1e-4, "atol": 1e-4}):
    torch.testing.assert_close(network.eval()(images), expected, **options)
with torch.no_grad():
    for generation in ("dcnv1", "dcnv2"):
        name = f"{generation}_resnet18.warm_tv_in1k"
        assert_close(timm.create_model(name, pretrained=True), plain(images))
        headless = timm.create_model(name, pretrained=True, num_classes=0)
        assert_close(headless, plain.forward_head(plain.forward_features(images), pre_logits=True))
        assert timm.create_model(name, pretrained=True, num_classes=7).fc.out_features == 7
        features = timm.create_model(name, pretrained=True, features_only=True, out_indices=(4,)).eval()
        torch.testing.assert_close(features(images)[0], plain.forward_features(images), rtol=1e-4, atol=1e-4)
    network = timm.create_model("hf-hub:someone/deformable", pretrained=True)
    assert network.pretrained_cfg["architecture"] == "dcnv2_resnet18"
    assert sum("conv_offset.weight" in key for key in network.state_dict()) == 4
    assert_close(network, plain(images))
print("ok")
"""


def test_the_hub_by_its_real_client_offline(plain_file, tmp_path):
    config = {
        "architecture": "dcnv2_resnet18",
        "num_classes": 1000,
        "pretrained_cfg": {"classifier": "fc", "first_conv": "conv1"},
        "model_args": {"deform_stages": [5]},
    }
    for repository in ("models--timm--resnet18.tv_in1k", "models--someone--deformable"):
        snapshot = tmp_path / repository / "snapshots" / HUB_REVISION
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").symlink_to(plain_file)
        (snapshot / "config.json").write_text(json.dumps(config))
        (tmp_path / repository / "refs").mkdir()
        (tmp_path / repository / "refs" / "main").write_text(HUB_REVISION)
    environment = dict(
        os.environ,
        HF_HUB_CACHE=str(tmp_path),
        HF_HUB_OFFLINE="1",
        PYTHONPATH=str(Path(dcn_backbones.__file__).parent.parent),
    )
    finished = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT], env=environment, capture_output=True, text=True
    )
    assert finished.stdout.strip() == "ok", finished.stderr


def test_warm_tags_are_timms_own_files_and_preprocessing(model_name):
    backbone = model_name.split("_", 1)[1]
    sources = get_arch_pretrained_cfgs(backbone)
    warm = {name: cfg for name, cfg in get_arch_pretrained_cfgs(model_name).items() if ".warm_" in name}
    assert len(warm) >= 3
    for name, cfg in warm.items():
        source = sources[name.replace(f"{model_name}.warm_", f"{backbone}.")]
        assert cfg.hf_hub_id == f"timm/{backbone}.{source.tag}"
        assert (cfg.architecture, cfg.url) == (model_name, None)
        same = (
            "mean",
            "std",
            "input_size",
            "test_input_size",
            "crop_pct",
            "test_crop_pct",
            "interpolation",
            "license",
        )
        assert all(getattr(cfg, field) == getattr(source, field) for field in same)


@pytest.mark.parametrize("generation", ["dcnv1", "dcnv2"])
@pytest.mark.parametrize(
    ("backbone", "default"),
    [("resnet50", "a1_in1k"), ("resnet101", "a1h_in1k"), ("resnext101_32x4d", "gluon_in1k")],
)
def test_default_tags(generation, backbone, default):
    assert get_pretrained_cfg(f"{generation}_{backbone}").tag == f"warm_{default}"


def test_every_listed_model_has_weights_to_load(model_name):
    listed = timm.list_models(f"{model_name}.*", pretrained=True)
    assert set(listed) == get_arch_pretrained_cfgs(model_name).keys()
    assert timm.models.is_model_pretrained(model_name)


def test_a_folder_of_embedded_weights_is_the_default_and_carries_its_labels(tmp_path):
    source = timm.create_model("dcnv2_resnet18", num_classes=3).half()
    labels = {
        "label_names": ["n01", "n02", "n03"],
        "label_descriptions": {"n01": "cat", "n02": "dog", "n03": "owl"},
    }
    fields = {"license": "other", "mean": (0.4, 0.5, 0.6)}
    assert "dcnv2_resnet18.tin100" not in zoo_cfgs(tmp_path)
    save_for_hf(
        source,
        tmp_path / "dcnv2_resnet18.tin100",
        {**labels, "pretrained_cfg": fields},
        safe_serialization=True,
        data_config={"input_size": (3, 64, 64)},
    )
    tags = zoo_cfgs(tmp_path)
    assert next(tag for tag in tags if tag.startswith("dcnv2_resnet18.")) == "dcnv2_resnet18.tin100"
    cfg = tags["dcnv2_resnet18.tin100"]
    assert (cfg.num_classes, cfg.license, tuple(cfg.input_size)) == (3, "other", (3, 64, 64))
    assert cfg.label_descriptions == labels["label_descriptions"]
    network = timm.create_model("dcnv2_resnet18", pretrained=True, pretrained_cfg=cfg.to_dict())
    torch.testing.assert_close(network.state_dict(), source.float().state_dict())


@pytest.mark.parametrize("name", [name for name in zoo_cfgs() if ".warm_" not in name])
def test_the_embedded_weights_load_by_the_models_name(name):
    network = timm.create_model(name.partition(".")[0], pretrained=True)
    cfg = network.pretrained_cfg
    assert cfg["tag"] == name.partition(".")[2]
    assert network.fc.out_features == cfg["num_classes"] == len(cfg["label_names"])
    assert cfg["label_descriptions"].keys() == set(cfg["label_names"])
    assert any(value.any() for key, value in network.state_dict().items() if "conv_offset.weight" in key)
