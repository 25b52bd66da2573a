import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train.recipe import save_recipe
from train.results import read_log
from train.train import build_model, run

ROOT = Path(__file__).parents[2]


def test_run_writes_log_checkpoint_weights_and_result(small_recipe, tmp_path):
    output = tmp_path / "run"
    result = run(small_recipe(), output)
    log = read_log(output / "log.jsonl")
    assert [record["epoch"] for record in log] == [1, 2]
    assert result["images"] == 7 and result["top1"] == log[-1]["val_top1"]
    assert {file.name for file in output.iterdir()} == {
        "checkpoint-0002",
        "log.jsonl",
        "model.safetensors",
        "recipe.yaml",
        "result.json",
    }


def test_resumed_run_equals_the_uninterrupted_one(small_recipe, tmp_path, monkeypatch):
    run(small_recipe(), tmp_path / "whole")

    import train.train as script

    epochs = []

    def interrupted(*arguments):
        if epochs:
            raise KeyboardInterrupt
        epochs.append(1)
        return train_one_epoch(*arguments)

    train_one_epoch = script.train_one_epoch
    monkeypatch.setattr(script, "train_one_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(small_recipe(), tmp_path / "resumed")
    monkeypatch.undo()
    run(small_recipe(), tmp_path / "resumed", resume=True)

    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert [record["epoch"] for record in read_log(tmp_path / "resumed" / "log.jsonl")] == [1, 2]


def test_a_second_run_into_the_same_folder_needs_resume(small_recipe, tmp_path):
    run(small_recipe(epochs=1), tmp_path / "run")
    with pytest.raises(FileExistsError, match="--resume"):
        run(small_recipe(epochs=1), tmp_path / "run")


def test_missing_start_is_an_error_with_its_name(small_recipe, tmp_path):
    with pytest.raises(FileNotFoundError, match="no_such.safetensors"):
        run(small_recipe(init_from="no_such.safetensors"), tmp_path / "run")


def test_loss_that_is_no_number_stops_the_run(small_recipe, tmp_path):
    with pytest.raises(FloatingPointError, match="at step"):
        run(small_recipe(lr=1e30, epochs=5), tmp_path / "run")


def test_deformable_run_starts_exactly_where_the_plain_one_ended(small_recipe, tmp_path):
    plain_run, deformable_run = tmp_path / "plain", tmp_path / "deformable"
    plain_recipe = small_recipe(model="resnet18", model_kwargs={"zero_init_last": False}, epochs=1, amp=False)
    run(plain_recipe, plain_run)
    recipe = small_recipe(
        model="dcnv2_resnet18", init_from=str(plain_run / "model.safetensors"), epochs=1, amp=False
    )

    plain = build_model(small_recipe(model="resnet18", init_from=recipe.init_from)).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(build_model(recipe).eval()(images), plain(images), rtol=1e-4, atol=1e-4)

    run(recipe, deformable_run)
    start, end = read_log(deformable_run / "log.jsonl")
    assert start["epoch"] == 0 and start["val_offset_mean"] == 0.0
    assert start["val_loss"] == pytest.approx(read_log(plain_run / "log.jsonl")[-1]["val_loss"], rel=1e-4)
    assert end["val_offset_mean"] > 0.0


@pytest.mark.parametrize("command", [["train/train.py"], ["-m", "train.train"]])
def test_command_reports_a_wrong_recipe_key(command, small_recipe, tmp_path):
    save_recipe(small_recipe(), tmp_path / "recipe.yaml")
    arguments = [sys.executable, *command, "--config", str(tmp_path / "recipe.yaml"), "epoch=1"]
    finished = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode != 0
    assert "unknown recipe key 'epoch'" in finished.stderr
