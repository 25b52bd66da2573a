from collections import Counter

import pytest
import torch
from torchvision.transforms.functional import to_pil_image

from train.data import create_train_loader, create_val_loader, open_dataset
from train.data.subsets import held_out, training_share


@pytest.fixture
def source(tmp_path):
    """20 cats and 12 dogs."""
    for name, count in (("cat", 20), ("dog", 12)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(count):
            image = to_pil_image(torch.full((3, 4, 4), 0.01 * number))
            image.save(tmp_path / "train" / name / f"{number:02d}.png")
    return open_dataset(str(tmp_path), "train")


def test_shares_have_every_class_and_smaller_ones_are_in_larger_ones(source):
    quarter, half = (training_share(source, share, 0.0, seed=3) for share in (0.25, 0.5))
    assert Counter(label for _, label in quarter) == {0: 5, 1: 3}
    assert Counter(label for _, label in half) == {0: 10, 1: 6}
    assert set(quarter.indices) < set(half.indices)
    assert set(training_share(source, 0.5, 0.0, seed=4).indices) != set(half.indices)


def test_smallest_share_keeps_an_image_of_every_class(source):
    assert [label for _, label in training_share(source, 0.001, 0.0, seed=0)] == [0, 1]


def test_all_images_are_the_source_itself(source):
    assert training_share(source, 1.0, 0.0, seed=0) is source


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_held_out_images_are_not_trained_on(share, source):
    training, choices = training_share(source, share, 0.25, seed=1), held_out(source, 0.25, seed=1)
    assert Counter(label for _, label in choices) == {0: 5, 1: 3}
    assert not set(training.indices) & set(choices.indices)
    assert len(training) == share * 24
    (image, label), opened = choices[0], source[choices.indices[0]]
    assert image.tobytes() == opened[0].tobytes() and label == opened[1]


def test_run_on_a_share_evaluates_the_images_held_out(small_recipe):
    recipe = small_recipe(holdout=0.34, train_share=0.5, batch_size=1)
    training, validation = create_train_loader(recipe), create_val_loader(recipe)
    source = open_dataset(recipe.data_dir, "train")
    assert len(training) == len(training_share(source, 0.5, 0.34, recipe.seed)) == 3
    assert sum(len(labels) for _, labels in validation) == len(held_out(source, 0.34, recipe.seed)) == 3


def test_stream_has_no_shares(small_recipe):
    with pytest.raises(ValueError, match="is a stream, expected train_share=1 and holdout=0"):
        create_train_loader(small_recipe(data_dir="wds/nowhere", train_share=0.5))
