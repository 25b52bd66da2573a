import json
import os
import sys
import time

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train.report import Report
from train.results import format_history, read_log
from train.train import run


def scalars(output):
    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_run_leaves_curves_results_and_tensorboard(deformable_recipe, tmp_path, capsys):
    output = tmp_path / "run"
    result = run(deformable_recipe(epochs=2, ema_decay=0.5), output)
    log = read_log(output / "log.jsonl")
    written = json.loads((output / "results.json").read_text())
    assert written == {"model": "dcnv2_resnet18", "epochs": 2, "processes": 1, **result}
    assert {
        "top1",
        "top5",
        "loss",
        "ema_top1",
        "offset_mean",
        "offset_p99",
        "offset_outside",
    } <= result.keys()
    found = scalars(output)
    assert found["epoch/val_loss"] == [
        (step, pytest.approx(record["val_loss"])) for step, record in zip((3, 6), log, strict=True)
    ]
    assert [step for step, _ in found["step/loss"]] == [3, 6] and found["step/lr"][0][1] > found["step/lr"][
        1
    ][1]
    with Image.open(output / "curves.png") as curves:
        assert curves.size[0] > 500 and len(curves.convert("L").getcolors()) > 50
    table = capsys.readouterr().out
    assert "EMA top-1" in table and "|offset|" in table


def test_continued_log_forgets_what_comes_again(tmp_path):
    for done, step, value in ((0, 0, 1.0), (1, 3, 2.0)):
        report = Report(tmp_path, done, step, {}, wandb=False, shown=True)
        for epoch in (1, 2)[done:]:
            report.epoch(epoch, 3 * epoch, {"train_loss": value})
        report.close()
        time.sleep(1)  # TensorBoard orders files by the second in their names; processes are further apart
    assert [record["train_loss"] for record in read_log(tmp_path / "log.jsonl")] == [1.0, 2.0]
    assert scalars(tmp_path)["epoch/train_loss"] == [(3, 1.0), (6, 2.0)]


def test_other_processes_report_nothing(tmp_path):
    report = Report(tmp_path, 0, 0, {}, wandb=False, shown=False)
    report.epoch(1, 3, {"train_loss": 1.0})
    report.finish({"top1": 1.0})
    report.close()
    assert not os.listdir(tmp_path)


def test_table_spreads_its_rows_up_to_the_last_epoch():
    records = [{"epoch": epoch, "train_loss": float(epoch)} for epoch in range(1, 31)]
    lines = format_history(records, rows=10).splitlines()
    assert [int(line.split()[0]) for line in lines[1:]] == list(range(3, 31, 3))
    assert lines[0].split() == ["epoch", "loss"] and lines[-1].split() == ["30", "30.000"]


def test_wandb_is_one_flag(deformable_recipe, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(deformable_recipe(epochs=1), tmp_path / "run", wandb=True)
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


def test_wandb_that_is_not_installed_is_an_error(deformable_recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="--wandb needs Weights & Biases: pip install wandb"):
        run(deformable_recipe(epochs=1), tmp_path / "run", wandb=True)
