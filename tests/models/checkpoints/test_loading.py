"""Into a model: everything or nothing, by our loader and by timm's hook."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import dcn_backbones  # noqa: F401
from dcn_backbones.models.checkpoints import (
    checkpoint_filter_fn,
    import_state,
    load_imported,
    load_own_weights,
)

RENAMES = [
    ("layer2.0.conv2.conv_offset.weight", "layer2.0.conv2.conv_offset.weight"),
    ("module.layer2.0.conv2.weight", "layer2.0.conv2.weight"),
    ("module.backbone.layer2.0.conv2.conv_offset.bias", "layer2.0.conv2.conv_offset.bias"),
    ("backbone.layer4.2.conv2_offset.weight", "layer4.2.conv2.conv_offset.weight"),
    ("layer4.1.conv1_offset.bias", "layer4.1.conv1.conv_offset.bias"),
]


@pytest.mark.parametrize(("theirs", "ours"), RENAMES)
def test_timms_hook_renames(theirs, ours):
    value = torch.ones(1)
    renamed = checkpoint_filter_fn({theirs: value}, nn.Identity())
    assert list(renamed) == [ours] and renamed[ours] is value


@pytest.fixture
def source() -> nn.Module:
    network = timm.create_model("dcnv2_resnet18", num_classes=10)
    for name, parameter in network.named_parameters():
        if "conv_offset" in name:
            nn.init.normal_(parameter)
    return network


def old_mmcv_state(network: nn.Module) -> dict:
    return {
        f"backbone.{key.replace('.conv_offset.', '_offset.')}": value
        for key, value in network.state_dict().items()
        if not key.startswith("fc.")
    } | {f"head.fc.{name}": value for name, value in network.fc.state_dict().items()}


def create(path, **options) -> nn.Module:
    overlay = dict(file=str(path), num_classes=10)
    return timm.create_model("dcnv2_resnet18", pretrained=True, pretrained_cfg_overlay=overlay, **options)


def test_timm_loads_an_old_mmcv_file(source, tmp_path):
    theirs = old_mmcv_state(source)
    assert "backbone.layer2.0.conv1_offset.weight" in theirs
    save_file(theirs, tmp_path / "old.safetensors")
    loaded = create(tmp_path / "old.safetensors")
    torch.testing.assert_close(loaded.state_dict(), source.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options", [{}, {"num_classes": 7}, {"in_chans": 1}, {"features_only": True}], ids=str
)
def test_timm_does_not_load_by_halves(options, source, tmp_path):
    """timm itself only logs what is missing once it adapts the classifier."""
    theirs = old_mmcv_state(source)
    del theirs["backbone.layer3.1.bn2.weight"]
    theirs["backbone.layer9.0.conv1.weight"] = torch.ones(1)
    save_file(theirs, tmp_path / "torn.safetensors")
    with pytest.raises(
        ValueError, match=r"missing: layer3\.1\.bn2\.weight; unknown: layer9\.0\.conv1\.weight"
    ):
        create(tmp_path / "torn.safetensors", **options)


@pytest.mark.parametrize(
    "options", [{"num_classes": 7}, {"in_chans": 1}, {"features_only": True}, {"num_classes": 0}], ids=str
)
def test_timm_still_adapts(options, source, tmp_path):
    save_file(old_mmcv_state(source), tmp_path / "old.safetensors")
    loaded = create(tmp_path / "old.safetensors", **options)
    ours, theirs = loaded.state_dict(), source.state_dict()
    assert torch.equal(ours["layer4.1.conv2.conv_offset.weight"], theirs["layer4.1.conv2.conv_offset.weight"])


def test_timms_hook_asks_for_the_stride_of_detectron2():
    state = {"res3.0.conv3.weight": torch.ones(1)}
    with pytest.raises(ValueError, match="expected style='pytorch' to be given"):
        checkpoint_filter_fn(state, nn.Identity())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("layer4.0.conv2.conv_offset.bias"),
            r"missing: layer4\.0\.conv2\.conv_offset\.bias",
        ),
        (lambda state: state.pop("layer1.0.conv1.weight"), r"missing: layer1\.0\.conv1\.weight"),
        (lambda state: state.pop("fc.bias"), r"missing: fc\.bias"),
        (
            lambda state: state.update({"backbone.se.weight": torch.ones(1)}),
            r"missing: conv1\.weight.* and \d+ more; unknown: se\.weight",
        ),
        (
            lambda state: state.update({"layer2.0.se.weight": torch.ones(1)}),
            r"unknown: layer2\.0\.se\.weight",
        ),
        (
            lambda state: state.update({"fc.weight": torch.ones(7, 512)}),
            r"of another shape: fc\.weight 7x512 instead of 10x512",
        ),
        (
            lambda state: state.update({"layer2.0.conv1.conv_offset.weight": torch.ones(54, 64, 3, 3)}),
            r"of another shape: layer2\.0\.conv1\.conv_offset\.weight 54x64x3x3 instead of 27x64x3x3",
        ),
    ],
)
def test_a_model_is_loaded_whole_or_not_at_all(change, message, source):
    model = timm.create_model("dcnv2_resnet18", num_classes=10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = dict(source.state_dict())
    change(state)
    with pytest.raises(
        ValueError, match=rf"does not fit this DeformResNet, and nothing was loaded; {message}"
    ):
        load_imported(model, import_state(state))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_unknown_keys_are_listed_by_their_own_names(source):
    state = {**source.state_dict(), "layer2.0.conv3_offset.weight": torch.ones(18, 64, 3, 3)}
    with pytest.raises(ValueError, match=r"unknown: layer2\.0\.conv3_offset\.weight\.$"):
        load_imported(timm.create_model("dcnv2_resnet18", num_classes=10), import_state(state))


def test_own_weights_come_back(tmp_path):
    saved, module = nn.Linear(2, 3), nn.Linear(2, 3)
    save_file(saved.state_dict(), tmp_path / "own.safetensors")
    load_own_weights(module, tmp_path / "own.safetensors")
    assert torch.equal(module.weight, saved.weight) and torch.equal(module.bias, saved.bias)


@pytest.mark.parametrize(
    ("other", "reason"),
    [(nn.Linear(2, 4), "size mismatch for weight"), (nn.Linear(2, 3, bias=False), 'Missing key.*"bias"')],
)
def test_weights_of_another_module_are_one_sentence_that_names_the_file(other, reason, tmp_path):
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    message = (
        f"other.safetensors holds the weights of another network, expected those of this Linear: {reason}"
    )
    with pytest.raises(ValueError, match=message) as error:
        load_own_weights(nn.Linear(2, 3), tmp_path / "other.safetensors")
    assert "\n" not in str(error.value)
