import dataclasses
import re
from itertools import islice
from pathlib import Path

import pytest
import torch
from timm.models import is_model_pretrained

from train.checks import check_recipe
from train.classification import ClassificationLearner
from train.data import create_train_loader
from train.distribution import World
from train.losses import Criterion
from train.networks import build_model
from train.recipe import load_recipe, make_recipe, save_recipe

FOLDER = Path(__file__).parents[2] / "train" / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
KINDS = ("classic", "modern", "finetune")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_builds_its_model_and_takes_two_steps(path, image_folder):
    overrides = {
        "device": "cpu",
        "data_dir": str(image_folder),
        "img_size": 32,
        "batch_size": 2,
        "workers": 0,
    }
    recipe = dataclasses.replace(load_recipe(path), **overrides, accumulate=1, cache="", amp=False)
    check_recipe(recipe)
    loader = create_train_loader(recipe)
    learner = ClassificationLearner(
        build_model(recipe), Criterion(recipe, torch.device("cpu")), recipe, World(), len(loader)
    )
    before = [parameter.detach().clone() for parameter in learner.model.parameters()]
    learner.train()
    batches = iter(loader)
    totals = sum(learner.step(islice(batches, 1), number) for number in range(2))
    assert totals.isfinite().all() and totals[2] == 4
    after = list(learner.model.parameters())
    assert sum(not torch.equal(old, new) for old, new in zip(before, after, strict=True)) > len(after) / 2


IMAGENET = [path for path in RECIPES if "_in1k_" in path.stem]


def test_imagenet_has_three_recipes_for_each_of_six_models():
    bodies = ("resnet50", "resnet101", "resnext101_32x4d")
    names = {f"{dcn}_{body}_in1k_{kind}" for dcn in ("dcnv1", "dcnv2") for body in bodies for kind in KINDS}
    assert {path.stem for path in IMAGENET} == names


@pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)
def test_header_of_an_imagenet_recipe_agrees_with_its_settings(path):
    recipe, text = load_recipe(path), path.read_text(encoding="utf-8").replace("\n# ", " ")
    assert path.stem.startswith(f"{recipe.model}_in1k")
    images, processes = 1_281_167, 8
    steps = images // (recipe.batch_size * processes) // recipe.accumulate
    assert f"= {recipe.batch_size * processes * recipe.accumulate:,} images, rate {recipe.lr:g}" in text
    assert f"{steps:,} steps an epoch, {steps * recipe.epochs:,} in all" in text
    speed = int(re.search(r"images / ([\d,]+) images/s", text)[1].replace(",", ""))
    hours = recipe.epochs * images / speed / 3600
    assert f"{recipe.epochs} epochs x {images:,} images / {speed:,} images/s = {hours:,.0f} GPU-hours" in text


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_tells_its_command_and_no_absolute_path(path):
    text = path.read_text(encoding="utf-8")
    assert f"--config train/recipes/{path.name}" in text
    assert not Path(load_recipe(path).data_dir).is_absolute()
    assert not Path(load_recipe(path).init_from).is_absolute()


@pytest.mark.parametrize("path", [*RECIPES, *FOLDER.glob("detection/*.yaml")], ids=lambda path: path.stem)
def test_every_start_is_a_run_or_known_to_timm(path):
    start = load_recipe(path, task=None).init_from
    assert not start or start.startswith("runs/") or is_model_pretrained(start)


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


def test_text_that_is_no_yaml_is_one_sentence(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: [resnet18\n")
    with pytest.raises(ValueError, match=r"recipe.yaml is no YAML: while parsing .* line 1") as error:
        load_recipe(path)
    assert "\n" not in str(error.value)
    path.write_text("model: resnet18\n")
    with pytest.raises(ValueError, match=r"override 'mean=\[1' is no YAML"):
        load_recipe(path, ["mean=[1"])


def test_saved_recipe_loads_as_the_same(tmp_path):
    recipe = make_recipe({"model": "resnet18", "model_kwargs": {"drop_path_rate": 0.1}})
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def write(folder, name, text):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_bases_are_read_in_order_and_overridden(tmp_path):
    write(tmp_path, "bases/all.yaml", "lr: 0.1\nepochs: 3\nmodel: resnet18\n")
    write(tmp_path, "bases/long.yaml", "base: all.yaml\nepochs: 9\nseed: 5\n")
    write(tmp_path, "bases/other.yaml", "seed: 6\n")
    recipe = load_recipe(write(tmp_path, "it.yaml", "base: [bases/long.yaml, bases/other.yaml]\nlr: 0.2\n"))
    assert (recipe.lr, recipe.epochs, recipe.seed, recipe.model) == (0.2, 9, 6, "resnet18")


@pytest.mark.parametrize("base", ["it.yaml", "between.yaml", "absent.yaml"])
def test_base_that_is_missing_or_goes_round_is_an_error(base, tmp_path):
    write(tmp_path, "between.yaml", "base: it.yaml\n")
    with pytest.raises(ValueError, match="has base '.*yaml', expected another recipe file that exists"):
        load_recipe(write(tmp_path, "it.yaml", f"base: {base}\n"))


def test_file_that_does_not_exist_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.yaml does not exist, expected a YAML file"):
        load_recipe(tmp_path / "absent.yaml")
