from pathlib import Path

import pytest
import timm

import dcn_backbones  # noqa: F401  (registers the models)
from train.recipe import load_recipe, make_recipe, save_recipe

RECIPES = sorted((Path(__file__).parents[2] / "train" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_builds_its_model(path):
    recipe = load_recipe(path)
    model = timm.create_model(recipe.model, num_classes=recipe.num_classes, **recipe.model_kwargs)
    assert model.num_classes == recipe.num_classes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_tells_its_command_and_no_absolute_path(path):
    text = path.read_text(encoding="utf-8")
    assert f"--config train/recipes/{path.name}" in text
    assert not Path(load_recipe(path).data_dir).is_absolute()
    assert not Path(load_recipe(path).init_from).is_absolute()


def test_unknown_key_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown recipe key 'learning_rate'.*offset_lr_scale"):
        make_recipe({"learning_rate": 0.1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", "many"),
        ("epochs", 1.5),
        ("epochs", True),
        ("lr", "fast"),
        ("amp", 1),
        ("mean", [1, "x", 3]),
    ],
)
def test_value_of_another_type_is_an_error_naming_the_key(key, value):
    with pytest.raises(ValueError, match=f"recipe key '{key}'"):
        make_recipe({key: value})


def test_overrides_are_typed(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: resnet18\nlr: 1e-3\n")
    recipe = load_recipe(path, ["epochs=3", "lr=2e-1", "amp=false", "mean=[0, 0.5, 1]", "init_from="])
    assert (recipe.model, recipe.epochs, recipe.lr, recipe.amp) == ("resnet18", 3, 0.2, False)
    assert recipe.mean == [0.0, 0.5, 1.0]
    assert load_recipe(path).lr == 0.001


def test_override_without_equals_sign_is_an_error(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: resnet18\n")
    with pytest.raises(ValueError, match="override 'epochs' has no '='"):
        load_recipe(path, ["epochs"])


def test_saved_recipe_loads_as_the_same(tmp_path):
    recipe = make_recipe({"model": "resnet18", "model_kwargs": {"drop_path_rate": 0.1}})
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
