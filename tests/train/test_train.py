import subprocess
import sys
from pathlib import Path

import pytest
import torch

from train.networks import build_model, start_model
from train.recipe import save_recipe
from train.results import read_log
from train.train import run

ROOT = Path(__file__).parents[2]


def test_run_writes_log_checkpoint_weights_and_result(small_recipe, tmp_path):
    output = tmp_path / "run"
    result = run(small_recipe(), output)
    log = read_log(output / "log.jsonl")
    assert [record["epoch"] for record in log] == [1, 2]
    assert result["images"] == 7 and result["top1"] == log[-1]["val_top1"]
    assert {file.name for file in output.iterdir()} == {
        "checkpoint-0001-000000008",
        "curves.png",
        "log.jsonl",
        "model.safetensors",
        "recipe.yaml",
        "results.json",
        "tensorboard",
    }


def test_validation_at_intervals_and_in_the_end_beside_offsets_of_every_epoch(deformable_recipe, tmp_path):
    result = run(deformable_recipe(val_interval=2), tmp_path / "run")
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert [record["epoch"] for record in log if "val_top1" in record] == [2, 3]
    assert [record["epoch"] for record in log if record["val_offset_mean"] > 0] == [1, 2, 3]
    assert result["top1"] == log[-1]["val_top1"]


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

    models = [build_model(settings).eval() for settings in (plain_recipe, recipe)]
    for model in models:
        start_model(model, recipe.init_from)
    plain, deformable = (model(torch.ones(2, 3, 64, 64)) for model in models)
    torch.testing.assert_close(deformable, plain, rtol=1e-4, atol=1e-4)

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
