import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from train.export_weights import export, trained_model
from train.train import run


@pytest.fixture
def finished_run(small_recipe, image_folder, tmp_path):
    (image_folder / "class_names.json").write_text(
        json.dumps({"cat": "house cat", "dog": "good dog", "owl": "barn owl"})
    )
    plain = small_recipe(model="resnet18", epochs=1)
    run(plain, tmp_path / "plain")
    init_from = str(tmp_path / "plain" / "model.safetensors")
    recipe = small_recipe(model="dcnv2_resnet18", epochs=1, init_from=init_from, data_terms="ours")
    run(recipe, tmp_path / "fine")
    return tmp_path / "fine"


def test_exported_folder_is_what_timm_loads(finished_run, image_folder, tmp_path):
    output = tmp_path / "dcnv2_resnet18.test"
    result = export(finished_run, output, str(image_folder), img_size=40)
    assert {file.name for file in output.iterdir()} == {
        "model.safetensors",
        "config.json",
        "training.json",
        "README.md",
    }
    tensors = load_file(output / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16, torch.int64}

    model = timm.create_model(f"local-dir:{output}", pretrained=True)
    trained = load_file(finished_run / "model.safetensors")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, trained[name].to(tensor.dtype), rtol=1e-3, atol=1e-6)
    config = model.pretrained_cfg
    assert config["input_size"] == (3, 40, 40) or config["input_size"] == [3, 40, 40]
    assert (config["crop_pct"], config["interpolation"], config["tag"]) == (1.0, "bilinear", "test")
    assert config["label_names"] == ["cat", "dog", "owl"]
    assert config["label_descriptions"]["owl"] == "barn owl"
    assert "ours" in config["description"] and not config.get("origin_url")  # timm's, of another recipe
    assert (output / "model.safetensors").stat().st_mode & 0o777 == 0o644

    card = (output / "README.md").read_text()
    assert f"**{result['top1']:.2f} % top-1" in card and "Data: ours." in card
    assert "Training ended at 32 px" in card
    assert "| 1 | resnet18 | 1 | 32 px" in card and "| 2 | dcnv2_resnet18 | 1 | 32 px" in card


def test_value_beyond_float16_is_an_error(small_recipe, tmp_path):
    recipe = small_recipe()
    model = timm.create_model(recipe.model, num_classes=recipe.num_classes)
    model.get_classifier().bias.data[0] = 1e5
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="bias .* does not fit float16"):
        trained_model(recipe, tmp_path / "model.safetensors")


def test_weights_that_cannot_be_exported_are_one_sentence(small_recipe, tmp_path):
    recipe, file = small_recipe(), tmp_path / "model.safetensors"
    save_file({"fc.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="model.safetensors holds the weights of another network") as other:
        trained_model(recipe, file)
    file.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="model.safetensors cannot be read as tensors alone") as damaged:
        trained_model(recipe, file)
    assert "\n" not in f"{other.value}{damaged.value}"


def test_average_is_exported_and_the_card_tells_how_it_was_made(deformable_recipe, tmp_path):
    recipe = deformable_recipe(ema_decay=0.5, epochs=1, loss="bce", cutmix=1.0, data_terms="ours")
    run(recipe, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "dcnv2_resnet18.mean", recipe.data_dir, averaged=True)
    exported = load_file(tmp_path / "dcnv2_resnet18.mean" / "model.safetensors")
    averaged = load_file(tmp_path / "run" / "model_ema.safetensors")
    assert all(torch.equal(tensor, averaged[name].to(tensor.dtype)) for name, tensor in exported.items())
    assert not torch.equal(
        averaged["fc.weight"], load_file(tmp_path / "run" / "model.safetensors")["fc.weight"]
    )
    card = (tmp_path / "dcnv2_resnet18.mean" / "README.md").read_text()
    assert "binary cross-entropy" in card and "cutmix 1.0" in card and "2 of them a step" in card
