import pytest
import timm
import torch
from safetensors.torch import save_file

from train.checkpoint import load_weights
from train.networks import build_model, start_model

IMAGES = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)


@pytest.fixture
def plain(deformable_recipe):
    torch.manual_seed(0)
    return build_model(deformable_recipe(), deformable=False).eval()


@pytest.mark.parametrize("as_folder", [False, True])
def test_plain_weights_start_a_deformable_network_exactly(as_folder, plain, deformable_recipe, tmp_path):
    save_file(plain.state_dict(), tmp_path / "model.safetensors")
    model = build_model(deformable_recipe()).eval()
    start_model(model, str(tmp_path if as_folder else tmp_path / "model.safetensors"))
    torch.testing.assert_close(model(IMAGES), plain(IMAGES), rtol=1e-4, atol=1e-5)


def test_all_kinds_of_networks_start_as_one_function_with_other_classes(plain, deformable_recipe, tmp_path):
    save_file(plain.state_dict(), tmp_path / "model.safetensors")
    started = []
    for deformable, seed in ((False, 3), (True, 3), (True, 4)):
        started.append(build_model(deformable_recipe(num_classes=5), deformable).eval())
        start_model(started[-1], str(tmp_path), seed)
    regular, deformed, other_seed = started
    assert torch.equal(deformed.conv1.weight, plain.conv1.weight)
    torch.testing.assert_close(deformed(IMAGES), regular(IMAGES), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other_seed(IMAGES), regular(IMAGES), rtol=1e-2)


def test_timm_name_starts_as_pretrained_does(deformable_recipe):
    expected = timm.create_model("dcnv2_resnet18.tin100", pretrained=True).state_dict()
    model = build_model(deformable_recipe(model_kwargs={}, num_classes=100))
    start_model(model, "dcnv2_resnet18.tin100")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["no/such/file.safetensors", "resnet18.no_such_tag", "dreamnet.a1_in1k"])
def test_start_that_does_not_exist_is_an_error(name, plain):
    with pytest.raises(FileNotFoundError, match=f"init_from '{name}' does not exist"):
        start_model(plain, name)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("test_resnet", {}, "does not fit this .*ResNet, and nothing was loaded; missing: conv1.weight"),
        ("resnet18", {"channels": [8, 8, 16, 24]}, "weights are of another model: size mismatch for "),
    ],
)
def test_weights_of_another_network_are_an_error(name, settings, message, plain, tmp_path):
    other = timm.create_model(name, num_classes=3, **settings)
    save_file(other.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        start_model(plain, str(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
@pytest.mark.parametrize("load", [start_model, load_weights])
def test_damaged_weights_are_one_sentence_that_names_their_file(load, name, plain, tmp_path):
    file = tmp_path / name
    file.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=f"{name} cannot be read as tensors alone") as error:
        load(plain, str(file))
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_network_is_one_sentence(plain, tmp_path):
    save_file(timm.create_model("resnet18", num_classes=3).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors holds the weights of another network") as error:
        load_weights(plain, tmp_path / "model.safetensors")
    assert "\n" not in str(error.value)
