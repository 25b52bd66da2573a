"""Runs that are killed, stopped or out of space, and what is left of them."""

import os
import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file
from spawning import finish, start_processes, start_run, wait_for_checkpoints, wait_until

from train.checkpoint import AVERAGED_WEIGHTS, WEIGHTS, list_checkpoints, load_state
from train.results import read_log

# Everything that draws random numbers or keeps a state between steps.
STATEFUL = {
    "opt": "lamb",
    "ema_decay": 0.9,
    "color_jitter": 0.4,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "random_erasing": 0.5,
    "mixup": 0.2,
    "cutmix": 1.0,
    "model_kwargs": {"channels": [8, 8, 16, 16], "drop_path_rate": 0.2, "drop_rate": 0.2},
    "checkpoint_every_steps": 1,
}
MEASURED = ("train_loss", "train_top1", "val_loss", "val_top1", "val_offset_mean", "lr")


def assert_same_run(one, other):
    for name in (WEIGHTS, AVERAGED_WEIGHTS):
        if not (one / name).exists():
            continue
        expected, found = load_file(one / name), load_file(other / name)
        assert expected.keys() == found.keys()
        different = [key for key in expected if not torch.equal(expected[key], found[key])]
        assert not different, f"{name}: {different}"
    for expected, found in zip(read_log(one / "log.jsonl"), read_log(other / "log.jsonl"), strict=True):
        assert [expected.get(key) for key in MEASURED] == [found.get(key) for key in MEASURED]


@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        (0, {"workers": 0}),
        (1, {"workers": 2, "ema_decay": 0.0, "opt": "sgd"}),
        (2, {"deform_from_epoch": 1, "opt": "adamw"}),
    ],
)
def test_killed_at_random_moments_and_resumed_is_the_run_left_alone(
    seed, settings, deformable_recipe, tmp_path
):
    recipe = deformable_recipe(**{**STATEFUL, **settings})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    alone = start_run(deformable_recipe(**{**STATEFUL, **settings, "workers": 0}), whole)
    moments = random.Random(seed)
    inside_an_epoch = 0
    for _ in range(3):
        process = start_run(recipe, killed)
        wait_for_checkpoints(killed, moments.choice([0, 1, 1, 2]), process)
        time.sleep(moments.uniform(0.0, 0.1))
        assert process.is_alive(), "the run has ended before it could be killed"
        process.kill()
        process.join()
        inside_an_epoch += any(
            not load_state(path)["progress"]["trained"] for path in list_checkpoints(killed)[-1:]
        )
    assert inside_an_epoch > 0
    assert finish(start_run(recipe, killed), alone) == [0, 0], killed.with_suffix(".stderr").read_text()
    assert_same_run(whole, killed)
    assert len(list_checkpoints(killed)) == 1 and not list(killed.glob(".checkpoint*"))


def test_two_killed_processes_go_on_without_a_trace(deformable_recipe, tmp_path):
    recipe = deformable_recipe(**{**STATEFUL, "accumulate": 1, "epochs": 2})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    processes = start_processes(2, recipe, killed)
    wait_for_checkpoints(killed, 2, processes[0])
    for process in processes:
        process.kill()
        process.join()
    assert not load_state(list_checkpoints(killed)[-1])["progress"]["trained"]
    assert finish(*start_processes(2, recipe, killed), *start_processes(2, recipe, whole)) == [0] * 4
    assert_same_run(whole, killed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_step_saves_and_tells_by_the_exit_status(number, deformable_recipe, tmp_path):
    recipe = deformable_recipe(epochs=2)
    process = start_run(recipe, tmp_path / "stopped")
    wait_until(lambda: (tmp_path / "stopped" / "recipe.yaml").exists(), process)
    os.kill(process.pid, number)
    assert finish(process) == [75]
    assert "interrupted by a signal, saved as" in (tmp_path / "stopped.stderr").read_text()
    assert len(list_checkpoints(tmp_path / "stopped")) == 1
    assert finish(start_run(recipe, tmp_path / "stopped", "--resume", "must")) == [0]
    assert finish(start_run(recipe, tmp_path / "whole")) == [0]
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_failing_write_leaves_the_checkpoint_before_it_good(deformable_recipe, tmp_path):
    recipe, output = deformable_recipe(epochs=2, checkpoint_every_steps=1), tmp_path / "full"
    process = start_run(recipe, output)
    wait_for_checkpoints(output, 2, process)
    process.kill()
    process.join()
    (good,) = list_checkpoints(output)[-1:]

    assert finish(start_run(recipe, output, file_limit=20_000)) == [1]
    message = (tmp_path / "full.stderr").read_text()
    assert "cannot be written" in message and f"the one before, {good}, is whole" in message
    assert "Traceback" not in message
    assert list_checkpoints(output)[-1] == good and not list(output.glob(".checkpoint*"))

    assert finish(start_run(recipe, output), start_run(recipe, tmp_path / "whole")) == [0, 0]
    assert_same_run(tmp_path / "whole", output)
