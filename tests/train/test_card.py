"""What the card of published weights says of their runs, and what it leaves out."""

import pytest

from train.card import model_card
from train.history import Phase, TrainingHistory
from train.recipe import Recipe

RATE = 4e-4  # of the last step, as the log has it


def card(*recipes: Recipe, img_size: int = 224, **record) -> str:
    """The card of weights that these runs made; `record` is added to the last line of each log."""
    last = {"epoch": 90, "train_images_per_second": 5.0, "val_top1": 70.0, "val_top5": 90.0, **record}
    result = {"images": 10, "top1": 70.0, "top5": 90.0}
    phases = [Phase(recipe, [last]) for recipe in recipes]
    return model_card("name.tag", TrainingHistory(phases, "float16", img_size, result))


def test_the_last_rate_is_the_one_of_the_log():
    recipe = Recipe(sched="multistep", lr=0.4, min_lr=0.0)
    assert "| 0.4 to 0.0004 |" in card(recipe, lr=RATE)
    assert "| 0.4 |" in card(recipe)  # a log that did not keep it


@pytest.mark.parametrize("opt, has_momentum", [("sgd", True), ("lookahead_sgd", True), ("lamb", False)])
def test_momentum_is_that_of_optimizers_that_take_it(opt, has_momentum):
    text = card(Recipe(opt=opt, momentum=0.75))
    assert f"- Optimizer: {opt}" in text and ("momentum 0.75" in text) == has_momentum


def test_the_size_was_chosen_only_where_the_recipe_did_not_set_it():
    chosen = "the size for use was chosen on these validation images"
    assert chosen in card(Recipe(), img_size=288)
    text = card(Recipe(eval_img_size=288), img_size=288)
    assert chosen not in text and "Training ended at 224 px.\n" in text
    assert chosen in card(Recipe(eval_img_size=288), img_size=320)
    assert "Training ended" not in card(Recipe())


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_flips_are_told_where_images_were_flipped(share):
    assert ("horizontal flips" in card(Recipe(hflip=share))) == (share > 0)


def test_a_plain_network_has_no_word_about_offsets():
    assert "offset" not in card(Recipe(model="resnet18"), Recipe(model="resnet18"))
    assert "0.1x in the branches that predict the offsets" in card(Recipe(model="dcnv1_resnet18"))


@pytest.mark.parametrize("model, said", [("dcnv2_resnet18", True), ("dcnv1_resnet18", False)])
def test_another_rate_of_modulated_weights_is_told(model, said):
    assert (
        "offsets, 4.0x in the modulated weights\n" in card(Recipe(model=model, modulated_lr_scale=4.0))
    ) is said
    assert "modulated weights" not in card(Recipe(model=model))


@pytest.mark.parametrize(
    "first, last, converted",
    [
        (Recipe(model="resnet18"), Recipe(), True),
        (Recipe(), Recipe(), False),
        (Recipe(deform_from_epoch=1), Recipe(), True),
        (Recipe(model="resnet18"), Recipe(model="resnet18"), False),
    ],
)
def test_a_conversion_is_told_where_plain_weights_became_deformable(first, last, converted):
    text = card(first, last)
    assert "Each phase starts from the one before." in text
    assert ("Plain weights are converted exactly" in text) == converted
