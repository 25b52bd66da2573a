import logging

import pytest
import torch

from train.data import create_train_loader, create_val_loader
from train.data.sources import DamagedImageError

AUGMENTED = {
    "auto_augment": "rand-m7-mstd0.5-inc1",
    "random_erasing": 0.9,
    "color_jitter": 0.4,
    "interpolation": "random",
}
MIXED = {"mixup": 0.2, "cutmix": 1.0}


def batches(loader, epoch=1, first_batch=0):
    loader.set_epoch(epoch, first_batch)
    return [(images.clone(), targets.clone()) for images, targets in loader]


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for (images, targets), (expected_images, expected_targets) in zip(found, expected, strict=True):
        assert torch.equal(images, expected_images) and torch.equal(targets, expected_targets)


def damage(image_folder, split="train"):
    """Damage one image of three classes' nine; returns its class and name."""
    file = image_folder / split / "dog" / "4.png"
    file.write_bytes(file.read_bytes()[:100])
    return "dog/4.png"


@pytest.mark.parametrize(
    "settings", [{}, AUGMENTED, MIXED, AUGMENTED | MIXED, {"auto_augment": "augmix-m3-w3"}]
)
def test_batches_depend_on_neither_workers_nor_history(settings, small_recipe):
    expected = batches(create_train_loader(small_recipe(workers=0, **settings)))
    torch.rand(5)
    loader = create_train_loader(small_recipe(workers=2, **settings))
    batches(loader, epoch=0)
    assert_same(batches(loader), expected)
    assert_same(batches(loader, first_batch=1), expected[1:])


def test_epochs_and_seeds_differ(small_recipe):
    first = batches(create_train_loader(small_recipe()))
    assert not torch.equal(first[0][0], batches(create_train_loader(small_recipe()), epoch=2)[0][0])
    assert not torch.equal(first[0][0], batches(create_train_loader(small_recipe(seed=1)))[0][0])


def test_iterating_leaves_the_random_state_alone(small_recipe):
    state = torch.get_rng_state()
    batches(create_train_loader(small_recipe(workers=1, **AUGMENTED, **MIXED)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("settings", [{}, AUGMENTED])
def test_two_ranks_see_the_halves_of_one(settings, small_recipe):
    whole = batches(create_train_loader(small_recipe(**settings)))
    halves = [batches(create_train_loader(small_recipe(batch_size=2, **settings), r, 2)) for r in range(2)]
    joined = [
        tuple(torch.cat(pair) for pair in zip(*parts, strict=True)) for parts in zip(*halves, strict=True)
    ]
    assert_same(joined, whole)


def test_ranks_mix_as_one_process_that_accumulates_their_batches(small_recipe):
    recipe = small_recipe(batch_size=2, **MIXED)
    accumulated = batches(create_train_loader(recipe))
    ranks = [batches(create_train_loader(recipe, rank, 2)) for rank in range(2)]
    assert_same([batch for step in zip(*ranks, strict=True) for batch in step], accumulated)


def test_images_are_normalised_and_mixed_labels_are_shares(small_recipe):
    plain = small_recipe(train_scale=[1.0, 1.0], hflip=0.0, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    images, targets = batches(create_train_loader(plain))[0]
    assert images.shape == (4, 3, 32, 32) and images.dtype == torch.float32
    assert images.min() >= -2 and images.max() <= 2 and images.min() < -1.9 and images.max() > 1.9
    assert targets.dtype == torch.int64
    _, soft = batches(create_train_loader(small_recipe(mixup=1.0, label_smoothing=0.0)))[0]
    torch.testing.assert_close(soft.sum(1), torch.ones(4))
    assert soft.shape == (4, 3) and (soft.max(1).values < 1).any()


def test_erased_images_are_normalised_like_others(small_recipe):
    settings = {"train_scale": [1.0, 1.0], "hflip": 0.0}
    plain = batches(create_train_loader(small_recipe(**settings)))[0][0]
    erased = batches(create_train_loader(small_recipe(random_erasing=0.9, **settings)))[0][0]
    same = (plain - erased).abs().amax(1) < 1e-5  # (B, H, W)
    assert 0.5 < same.float().mean() < 1


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_image_is_named_once_and_replaced(workers, small_recipe, image_folder, caplog):
    name = damage(image_folder)
    loader = create_train_loader(small_recipe(workers=workers, max_damaged=1, batch_size=3))
    with caplog.at_level(logging.WARNING):
        sizes = [len(targets) for epoch in range(3) for _, targets in batches(loader, epoch)]
    assert sizes == [3] * 9
    assert [name in record.message and "(1 of at most 1)" in record.message for record in caplog.records] == [
        True
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_more_damaged_images_than_allowed_end_in_their_list(workers, small_recipe, image_folder):
    name = damage(image_folder)
    loader = create_train_loader(small_recipe(workers=workers, max_damaged=0, batch_size=3))
    with pytest.raises(DamagedImageError, match=f"^1 damaged images, expected at most 0: .*{name}"):
        batches(loader)


def test_validation_leaves_damaged_images_out(small_recipe, image_folder):
    damage(image_folder, "validation")
    assert sum(len(targets) for _, targets in create_val_loader(small_recipe(max_damaged=1))) == 6
    with pytest.raises(DamagedImageError, match="4.png"):
        list(create_val_loader(small_recipe(max_damaged=0)))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_has_each_image_once_over_all_ranks(world_size, small_recipe):
    expected = torch.cat([images for images, _ in create_val_loader(small_recipe())])
    ranks = [create_val_loader(small_recipe(batch_size=1), rank, world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat([images for rank in ranks for images, _ in rank]), expected)


def test_validation_may_have_a_size_of_its_own(small_recipe):
    images, _ = next(iter(create_val_loader(small_recipe(eval_img_size=48))))
    assert images.shape[2:] == (48, 48)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 2}, "labels up to 2"),
        ({"batch_size": 10}, "fill no batch, expected at least 10"),
        ({"batch_size": 3, "mixup": 0.1}, "batch_size is 3, expected an even one"),
        ({"cache": "disk"}, "cache is 'disk', expected 'memory'"),
    ],
)
def test_recipe_that_the_data_cannot_serve_is_refused(settings, message, small_recipe):
    with pytest.raises(ValueError, match=message):
        create_train_loader(small_recipe(**settings))


@pytest.mark.parametrize(
    ("name", "split", "classes"), [("tiny-imagenet-100", "validation", 100), ("caltech-101", "test", 101)]
)
def test_photographs_load(name, split, classes, shared_data, small_recipe):
    data = {"data_dir": str(shared_data(name)), "val_split": split, "num_classes": classes, "batch_size": 32}
    recipe = small_recipe(workers=1, **data, **AUGMENTED)
    for loader in (create_train_loader(recipe), create_val_loader(recipe)):
        images, targets = next(iter(loader))
        assert images.isfinite().all() and targets.min() >= 0 and targets.max() < classes
