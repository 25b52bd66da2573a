import pytest

from train.checks import check_recipe
from train.train import run


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": "resnet_of_a_dream"}, "model 'resnet_of_a_dream' with .* cannot be built"),
        ({"model_kwargs": {"depth": 3}}, "cannot be built: .*depth"),
        ({"model_kwargs": {"offset_groups": 7}}, "offset_groups=7 does not divide"),
        ({"loss": "hinge"}, "loss is 'hinge', expected one of cross_entropy, bce"),
        ({"amp_dtype": "float8"}, "amp_dtype is 'float8'"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"sched": "sometimes"}, "sched is 'sometimes'"),
        ({"opt": "sdg"}, "opt is 'sdg', expected one of .*sgd"),
        ({"accumulate": 0}, "accumulate is 0, expected at least 1"),
        ({"modulated_lr_scale": 0.0}, "modulated_lr_scale is 0.0, expected at least 1"),
        ({"teacher_weight": 2.0}, "teacher_weight is 2.0, expected 0 to 1"),
        ({"model": "test_resnet", "model_kwargs": {}, "deform_from_epoch": 2}, "has no deformable layers"),
    ],
)
def test_recipe_that_cannot_be_trained_is_refused_in_a_sentence(
    settings, sentence, deformable_recipe, tmp_path
):
    with pytest.raises(ValueError, match=sentence):
        run(deformable_recipe(**settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_good_recipe_passes(deformable_recipe):
    check_recipe(deformable_recipe())


def test_data_that_does_not_fit_is_refused_before_the_first_step(deformable_recipe, tmp_path):
    for settings, sentence in (
        ({"num_classes": 2}, "labels up to 2, expected at most 1"),
        ({"accumulate": 7}, "an epoch has 6 batches, expected 7 for a step"),
        ({"data_dir": "nowhere"}, "data source 'nowhere' does not exist"),
    ):
        with pytest.raises(ValueError, match=sentence):
            run(deformable_recipe(**settings), tmp_path / "run")
    (tmp_path / "more" / "train" / "yak").mkdir()
    with pytest.raises(ValueError, match=r"yak' has no images, expected at least one"):
        run(deformable_recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
