from pathlib import Path

import pytest

from train.detection.checks import check_recipe
from train.detection.detectors import detector_settings, make_detector
from train.detection.learner import loss_names
from train.optim import parameter_groups
from train.recipe import load_recipe, make_recipe

RECIPES = sorted((Path(__file__).parents[3] / "train" / "recipes" / "detection").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_builds_its_detector(path):
    recipe = load_recipe(path, ["device=cpu"], "detection")
    check_recipe(recipe)
    detector = make_detector(recipe, num_classes=4)
    assert f"train/recipes/detection/{path.name}" in path.read_text(encoding="utf-8")
    assert recipe.backbone in path.stem
    assert ("loss_mask" in loss_names(detector.settings)) == path.stem.startswith("mask")
    assert ("loss_mimic" in loss_names(detector.settings)) == (recipe.mimic != "")


@pytest.mark.parametrize(("detector", "neck"), [("faster_rcnn", "c5"), ("mask_rcnn", "fpn")])
def test_neck_is_the_papers_unless_the_recipe_says(detector, neck):
    recipe = make_recipe({"task": "detection", "detector": detector})
    assert recipe.neck == detector_settings(recipe).neck == neck
    assert make_recipe({"task": "detection", "detector": detector, "neck": "c5"}).neck == "c5"


def test_papers_schedule_is_that_of_the_default_recipe():
    recipe = load_recipe(next(path for path in RECIPES if path.stem.startswith("faster")), task="detection")
    assert (recipe.epochs, recipe.decay_milestones, recipe.decay_rate) == (16, [10, 14], 0.1)
    assert (recipe.opt, recipe.momentum, recipe.weight_decay) == ("momentum", 0.9, 1e-4)
    assert recipe.lr == 0.02 and recipe.batch_size * recipe.accumulate * 8 == 16


@pytest.mark.parametrize(
    ("backbone", "box_pool", "scales"),
    [
        ("dcnv2_resnet18", "modulated", {"conv_offset": 0.1, "offset_fc": 1.0}),
        ("dcnv1_resnet18", "deform", {"conv_offset": 0.1, "offset_fc": 0.01}),
    ],
)
def test_offset_branches_have_the_papers_rates(backbone, box_pool, scales, detection_recipe):
    recipe = detection_recipe(backbone=backbone, box_pool=box_pool)
    detector = make_detector(recipe, num_classes=3)
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    found = {}
    for group in parameter_groups(detector, recipe):
        for parameter in group["params"]:
            found[names[id(parameter)]] = group["lr_scale"]
    for part, scale in scales.items():
        assert {value for name, value in found.items() if part in name} == {scale}
    assert {value for name, value in found.items() if not any(part in name for part in scales)} == {1.0}


def test_recipe_of_another_task_is_one_sentence():
    with pytest.raises(ValueError, match="is a recipe of task 'detection', expected one of 'classification'"):
        load_recipe(RECIPES[0])
    with pytest.raises(
        ValueError, match="recipe key 'task' is 'posing', expected one of classification, det"
    ):
        load_recipe(RECIPES[0], ["task=posing"], task=None)
