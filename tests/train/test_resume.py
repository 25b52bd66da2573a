import os
import signal

import pytest
import torch
from safetensors.torch import load_file

import train.evaluate as evaluation
from train.checkpoint import STATE, WEIGHTS, list_checkpoints, save_checkpoint
from train.learner import Learner
from train.results import LOG, read_log
from train.resume import Progress, find_checkpoint, resume_notices
from train.signals import Interrupted
from train.train import run


@pytest.fixture
def stop_at(monkeypatch):
    """A signal to this process in the step of this number."""

    def arrange(number: int) -> None:
        step = Learner.step

        def step_and_stop(self, batches, current):
            if current == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, batches, current)

        monkeypatch.setattr(Learner, "step", step_and_stop)

    yield arrange


def test_changed_recipe_is_announced_and_counts_from_then_on(deformable_recipe, tmp_path, stop_at, caplog):
    output = tmp_path / "run"
    stop_at(4)
    with pytest.raises(Interrupted, match="checkpoint-0001-000000016"):
        run(deformable_recipe(amp=False), output)
    assert not caplog.records
    stop_at(-1)
    run(deformable_recipe(opt="adamw", lr=0.001, accumulate=1, amp=False), output)
    (changed, steps) = (record.getMessage() for record in caplog.records)
    assert "accumulate 2 is now 1, opt 'sgd' is now 'adamw', lr 0.02 is now 0.001" in changed
    assert "from image 16 of epoch 2 on, and the optimizer starts without the state of the other" in changed
    assert "a step had 8 images and has 4" in steps and "goes on at image 16, which repeats 0" in steps


def test_record_of_the_start_outlives_a_stop_in_the_first_epoch(deformable_recipe, tmp_path, stop_at):
    """A run with `init_from` has an epoch 0 in its log: what its start is worth before the first step."""
    run(deformable_recipe(epochs=1), tmp_path / "start")
    recipe, output = deformable_recipe(epochs=1, init_from=str(tmp_path / "start")), tmp_path / "run"
    stop_at(1)
    with pytest.raises(Interrupted, match="checkpoint-0000"):
        run(recipe, output)
    (start,) = read_log(output / LOG)
    stop_at(-1)
    run(recipe, output)
    assert [record["epoch"] for record in read_log(output / LOG)] == [0, 1]
    assert read_log(output / LOG)[0] == start


def test_signal_during_the_evaluation_repeats_nothing_but_it(deformable_recipe, tmp_path, monkeypatch):
    output = tmp_path / "run"
    recipe = deformable_recipe(epochs=2, batch_size=2, accumulate=4)  # two batches of validation images
    measure = evaluation._measure
    with monkeypatch.context() as patch:
        patch.setattr(
            evaluation, "_measure", lambda *batch: (os.kill(os.getpid(), signal.SIGINT), measure(*batch))[1]
        )
        with pytest.raises(Interrupted, match="checkpoint-0000-000000024"):
            run(recipe, output)
    steps = []
    step = Learner.step
    monkeypatch.setattr(
        Learner, "step", lambda self, batches, n: (steps.append(n), step(self, batches, n))[1]
    )
    run(recipe, output)
    assert steps == [3, 4, 5]


def test_position_is_rounded_down_to_whole_steps(deformable_recipe):
    state = {
        "progress": {"epoch": 0, "images": 16, "trained": False, "totals": [0.0] * 4},
        "recipe": vars(deformable_recipe()),
        "processes": 2,
        "step_images": 8,
    }
    processes, steps = resume_notices(state, deformable_recipe(), 3)
    assert processes.startswith("resuming with 3 processes a run of 2")
    assert "a step had 8 images and has 24" in steps and "goes on at image 0, which repeats 16" in steps
    assert resume_notices({**state, "step_images": 16}, deformable_recipe(), 2) == []


def test_folder_of_another_run_is_refused_and_left_alone(deformable_recipe, tmp_path):
    output = tmp_path / "run"
    run(deformable_recipe(epochs=1), output)
    before = (output / "recipe.yaml").read_text()
    with pytest.raises(
        FileExistsError, match="holds a run with model 'dcnv2_resnet18', expected 'test_resnet'"
    ):
        run(deformable_recipe(model="test_resnet", model_kwargs={}), output)
    with pytest.raises(FileExistsError, match="expected --resume auto or another output folder"):
        run(deformable_recipe(epochs=1), output, resume="never")
    assert (output / "recipe.yaml").read_text() == before
    weights = load_file(output / WEIGHTS)
    run(deformable_recipe(epochs=1), output)  # finished: evaluated again
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_file(output / WEIGHTS).items())


def test_resume_must_needs_a_checkpoint(deformable_recipe, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint, expected one as --resume is must"):
        find_checkpoint(tmp_path, "must", deformable_recipe())


def test_names_of_checkpoints_sort_by_progress(tmp_path):
    names = [Progress(*position).name for position in ((0, 96), (0, 1024), (1, 8), (10, 8))]
    assert names == sorted(names)
    for name in names:
        save_checkpoint(tmp_path / name, {WEIGHTS: {"weight": torch.ones(3)}}, {"progress": 1})
    assert [path.name for path in list_checkpoints(tmp_path)] == names[-1:]


def test_a_damaged_state_is_named(deformable_recipe, tmp_path, stop_at):
    output = tmp_path / "run"
    stop_at(4)
    with pytest.raises(Interrupted):
        run(deformable_recipe(), output)
    (checkpoint,) = list_checkpoints(output)
    state = checkpoint / STATE
    state.write_bytes(state.read_bytes()[:-4000])
    stop_at(-1)
    with pytest.raises(ValueError, match=f"{state} is damaged .*init_from={checkpoint / WEIGHTS}$"):
        run(deformable_recipe(), output)
