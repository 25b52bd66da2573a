"""Runs of a detector: what they write, learn, refuse, and how they go on."""

import json
import random
import time

import pytest
import torch
from conftest import draw
from safetensors.torch import load_file
from spawning import finish, start_processes, start_run, wait_for_checkpoints

from dcn_backbones.detection import load_detector
from train.checkpoint import WEIGHTS, list_checkpoints, load_state
from train.detect import run
from train.detection.data import DetectionSource, create_train_loader
from train.detection.detectors import make_detector
from train.detection.learner import DetectionLearner
from train.detection.splits import open_splits
from train.distribution import World
from train.random_state import seed_epoch
from train.recipe import load_recipe
from train.results import read_log
from train.validate_detector import validate

MEASURED = ("train_loss", "train_loss_box_reg", "val_AP", "val_voc_AP50", "val_offset_mean", "lr")


def assert_same_run(one, other):
    expected, found = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert expected.keys() == found.keys()
    assert not [key for key in expected if not torch.equal(expected[key], found[key])]
    for record, again in zip(read_log(one / "log.jsonl"), read_log(other / "log.jsonl"), strict=True):
        assert [record.get(key) for key in MEASURED] == [again.get(key) for key in MEASURED]


def test_run_writes_a_detector_that_measures_the_same_again(detection_recipe, tmp_path):
    output = tmp_path / "run"
    result = run(detection_recipe(epochs=1, box_pool="modulated", ema_decay=0.5), output)
    (record,) = read_log(output / "log.jsonl")
    assert result["images"] == 4 and record["val_AP"] == result["AP"]
    parts = [record[f"train_loss_{name}"] for name in ("objectness", "rpn_box_reg", "classifier", "box_reg")]
    assert record["train_loss"] == pytest.approx(sum(parts)) and min(parts) > 0
    assert record["val_offset_mean"] > 0
    assert load_detector(output)[1] == json.loads((output / "categories.json").read_text()) == ["red", "blue"]
    recipe = load_recipe(output / "recipe.yaml", task="detection")
    for folder, prefix in ((output, ""), (output / "ema", "ema_")):
        again = validate(recipe, folder)
        names = [name for name in again if name != "images_per_second"]
        assert {name: again[name] for name in names} == {name: result[prefix + name] for name in names}


def test_rectangles_are_learned(detection_recipe, tmp_path):
    data = tmp_path / "more"
    draw(data, "train", 16, seed=0)
    draw(data, "val", 8, seed=1)
    recipe = detection_recipe(
        data_dir=str(data),
        detector_kwargs={"backbone_args": {}},
        trainable_backbone_layers=0,
        init_from="dcnv2_resnet18.tin100",
        batch_size=4,
        accumulate=1,
        epochs=10,
        val_interval=10,
        opt="adamw",
        lr=0.0005,
    )
    run(recipe, tmp_path / "run")
    start, *_, end = (record for record in read_log(tmp_path / "run" / "log.jsonl") if "val_AP" in record)
    assert start["epoch"] == 0 and start["val_AP50"] < 10
    assert end["val_AP50"] > 25


@pytest.mark.parametrize("seed", [0])
def test_killed_at_a_random_moment_and_resumed_is_the_run_left_alone(seed, detection_recipe, tmp_path):
    settings = {"mimic": "foreground", "mimic_regions": 1, "min_size": [48, 64]}
    recipe = detection_recipe(**settings, workers=2, checkpoint_every_steps=1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    alone = start_run(detection_recipe(**settings), whole)
    moments = random.Random(seed)
    process = start_run(recipe, killed)
    wait_for_checkpoints(killed, moments.choice([1, 3]), process)
    time.sleep(moments.uniform(0.0, 0.2))
    assert process.is_alive(), "the run has ended before it could be killed"
    process.kill()
    process.join()
    assert not load_state(list_checkpoints(killed)[-1])["progress"]["trained"]
    assert finish(start_run(recipe, killed), alone) == [0, 0], killed.with_suffix(".stderr").read_text()
    assert_same_run(whole, killed)


def train_alone(recipe):
    """The weights that a plain loop over the loader of one process gives."""
    training, _ = open_splits(recipe)
    loader = create_train_loader(recipe, DetectionSource(training, recipe.detector == "mask_rcnn"))
    seed_epoch(recipe.seed, 0, rank=0)
    detector = make_detector(recipe, len(training.categories) + 1)
    steps = len(loader) // recipe.accumulate
    learner = DetectionLearner(detector, recipe, World(), steps)
    for epoch in range(recipe.epochs):
        loader.set_epoch(epoch)
        learner.train()
        batches = iter(loader)
        for step in range(steps):
            learner.step([next(batches) for _ in range(recipe.accumulate)], epoch * steps + step)
    return learner.model.state_dict()


def test_two_processes_are_one_that_accumulates_their_batches(detection_recipe, tmp_path):
    """Batch norm is frozen, as in the papers, and proposals are drawn by the batch, not by the process."""
    settings = {"detector": "mask_rcnn", "neck": "fpn", "epochs": 1}
    settings["detector_kwargs"] = {"anchor_sizes": [8, 16, 24, 32, 64]}
    recipe = detection_recipe(**settings, accumulate=1)
    assert finish(*start_processes(2, recipe, tmp_path / "two")) == [0, 0]
    found = load_file(tmp_path / "two" / WEIGHTS)
    expected = train_alone(detection_recipe(**settings, accumulate=2))
    assert not [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
    (record,) = read_log(tmp_path / "two" / "log.jsonl")
    assert record["val_images"] == 4 and "val_mask_AP" in record
    recipe = load_recipe(tmp_path / "two" / "recipe.yaml", task="detection")
    assert validate(recipe, tmp_path / "two")["mask_AP"] == record["val_mask_AP"]


def test_other_categories_than_the_run_or_its_start_has_are_refused(detection_recipe, rectangles, tmp_path):
    recipe = detection_recipe(epochs=1, accumulate=4, val_interval=1)
    run(recipe, tmp_path / "run")
    for name in ("train", "val"):
        file = rectangles / f"{name}.json"
        file.write_text(file.read_text().replace('"blue"', '"green"'))
    expected = r"train.json has 2 categories, expected the 2 of {} in the same order: \['green'\] are unknown"
    with pytest.raises(ValueError, match=expected.format("the run in .*run")):
        run(recipe, tmp_path / "run")
    with pytest.raises(ValueError, match=expected.format(".*run")):
        run(detection_recipe(init_from=str(tmp_path / "run")), tmp_path / "next")
    with pytest.raises(ValueError, match=r"val.json has 2 categories, expected the 2 of .*run in the same"):
        validate(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet19"}, "backbone 'resnet19' cannot be built: "),
        ({"box_pool": "mean"}, "box_pool='mean' is not known"),
        ({"detector_kwargs": {"anchors": 3}}, "detector_kwargs is {.*'anchors': 3}: .*anchors"),
        ({"detector_kwargs": {"anchor_sizes": 3}}, "faster_rcnn with detector_kwargs {.* cannot be built: "),
        ({"max_size": 0}, "max_size is 0, expected at least 1"),
        ({"min_size": []}, r"min_size is \[\], expected numbers of pixels"),
        ({"opt": "sgdd"}, "opt is 'sgdd', expected one of"),
        ({"batch_size": 10}, "the training images fill no batch, expected at least 10"),
        ({"init_from": "absent"}, "init_from 'absent' does not exist"),
        ({"init_from": "dcnv2_resnet18.tin100"}, "the checkpoint does not fit this DeformResNet"),
    ],
)
def test_recipe_that_cannot_be_trained_is_one_sentence(settings, message, detection_recipe, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(detection_recipe(**settings), tmp_path / "run")
