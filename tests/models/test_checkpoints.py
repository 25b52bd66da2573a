"""Names of parameters elsewhere, turned into ours."""

import pytest
import timm
import torch
from safetensors.torch import save_file

import dcn_backbones  # noqa: F401
from dcn_backbones.models.checkpoints import checkpoint_filter_fn


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("layer2.0.conv2.conv_offset.weight", "layer2.0.conv2.conv_offset.weight"),
        ("module.layer2.0.conv2.weight", "layer2.0.conv2.weight"),
        ("module.backbone.layer2.0.conv2.conv_offset.bias", "layer2.0.conv2.conv_offset.bias"),
        ("backbone.layer4.2.conv2_offset.weight", "layer4.2.conv2.conv_offset.weight"),
        ("layer4.1.conv1_offset.bias", "layer4.1.conv1.conv_offset.bias"),
    ],
)
def test_names(theirs, ours):
    value = torch.ones(1)
    renamed = checkpoint_filter_fn({theirs: value}, torch.nn.Identity())
    assert list(renamed) == [ours]
    assert renamed[ours] is value


def test_an_old_mmcv_file_loads_strictly(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("dcnv2_resnet18", num_classes=10)
    for name, parameter in source.named_parameters():
        if "conv_offset" in name:
            torch.nn.init.normal_(parameter)
    theirs = {
        f"backbone.{key.replace('.conv_offset.', '_offset.')}": value
        for key, value in source.state_dict().items()
    }
    assert "backbone.layer2.0.conv1_offset.weight" in theirs
    save_file(theirs, tmp_path / "old.safetensors")
    overlay = dict(file=str(tmp_path / "old.safetensors"), num_classes=10)
    loaded = timm.create_model("dcnv2_resnet18", pretrained=True, pretrained_cfg_overlay=overlay)
    torch.testing.assert_close(loaded.state_dict(), source.state_dict(), rtol=0, atol=0)
