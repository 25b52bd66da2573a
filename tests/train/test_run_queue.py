import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from train.detection.recipe import DetectionRecipe
from train.recipe import Recipe, save_recipe
from train.run_queue import QueuedRun, describe_state, locked, read_queue

ROOT = Path(__file__).parents[2]
SLOW = 600  # seconds after which a process hangs, also on a machine that does much else


@pytest.fixture
def queue(small_recipe, tmp_path):
    """A queue file of two runs: `first` of 2 short epochs, `second` of `epochs`."""

    def write(epochs=2):
        save_recipe(small_recipe(), tmp_path / "first.yaml")
        save_recipe(small_recipe(epochs=epochs), tmp_path / "second.yaml")
        entries = [
            {
                "config": str(tmp_path / f"{name}.yaml"),
                "output": str(tmp_path / name),
                "overrides": ["lr=0.01"],
            }
            for name in ("first", "second")
        ]
        (tmp_path / "queue.yaml").write_text(yaml.safe_dump(entries))
        return tmp_path / "queue.yaml"

    return write


def start(queue, *arguments):
    command = [sys.executable, "train/run_queue.py", str(queue), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(folder, process):
    while not list(folder.glob("checkpoint-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_stopped_queue_goes_on_where_it_was(queue, tmp_path):
    epochs = 20
    path = queue(epochs)
    assert [describe_state(run) for run in read_queue(path)] == ["not started", "not started"]

    process = start(path, "--minutes", "10")
    wait_for_checkpoint(tmp_path / "second", process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=SLOW)
    assert process.returncode == 75
    assert "first: done, top-1" in output and f"of {epochs} epochs" in output
    assert "stopped after" in describe_state(read_queue(path)[1])

    process = start(path, "--minutes", "10")
    assert process.wait(timeout=SLOW) == 0
    assert "second: done, top-1" in process.communicate()[0]


def test_time_that_is_up_stops_the_run(queue, tmp_path):
    begin = time.monotonic()
    process = start(queue(100_000), "--minutes", "0.1")
    output, errors = process.communicate(timeout=SLOW)
    assert process.returncode == 75, errors
    assert time.monotonic() - begin > 6
    assert "running" not in output and "second: done" not in output


def test_run_of_a_killed_queue_is_running_until_it_ends_itself(queue, tmp_path):
    path = queue(100_000)
    process = start(path, "--minutes", "10")
    wait_for_checkpoint(tmp_path / "second", process)
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    process.kill()
    process.wait()
    run = read_queue(path)[1]
    assert describe_state(run).startswith("running after")
    os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while describe_state(run).startswith("running") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert describe_state(run).startswith("stopped after")


def test_lock_is_held_by_one(tmp_path):
    with locked(tmp_path / "run", create=True) as first, locked(tmp_path / "run") as second:
        assert first and second is None
    with locked(tmp_path / "run") as third:
        assert third


def test_looking_at_a_run_keeps_nobody_from_training_it(tmp_path):
    with locked(tmp_path / "run", create=True):
        pass
    looking = locked(tmp_path / "run")
    assert looking.__enter__()
    timer = threading.Timer(0.1, looking.__exit__, (None, None, None))
    timer.start()
    with locked(tmp_path / "run", create=True) as lock:
        assert lock
    timer.join()


def test_failing_run_is_reported_and_the_next_one_trained(queue, tmp_path):
    path = queue()
    entries = yaml.safe_load(path.read_text())
    entries[0]["overrides"].append("data_dir=absent")
    path.write_text(yaml.safe_dump(entries))
    process = start(path, "--minutes", "10")
    output, errors = process.communicate(timeout=SLOW)
    assert process.returncode == 1
    assert "data source 'absent' does not exist" in errors and "first: exit status 1" in errors
    assert "first: not started" in output and "second: done" in output


@pytest.mark.parametrize("path", sorted(ROOT.glob("train/queues/*.yaml")), ids=lambda path: path.stem)
def test_queue_of_the_project_can_be_trained(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = read_queue(path, ["threads=1"])
    documented = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for number, run in enumerate(runs):
        start = Path(run.recipe([]).init_from)
        earlier = {str(other.folder) for other in runs[:number]}
        made = f'save_file(plain, "{start}")' in documented  # by the lines there, before the queue begins
        assert start == Path() or made or str(start.parent) in earlier or path.stem == "caltech101_tuning"


def test_several_processes_are_started_by_torchrun(small_recipe, tmp_path):
    save_recipe(small_recipe(), tmp_path / "recipe.yaml")
    command = QueuedRun(str(tmp_path / "recipe.yaml"), processes=2).command(["device=cpu"])
    assert command[1:5] == ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    assert command[-3:] == ["--output", "runs/recipe", "device=cpu"]


@pytest.mark.parametrize(("recipe", "script"), [(Recipe(), "train.py"), (DetectionRecipe(), "detect.py")])
def test_task_of_a_recipe_chooses_the_script(recipe, script, tmp_path):
    save_recipe(recipe, tmp_path / "recipe.yaml")
    command = QueuedRun(str(tmp_path / "recipe.yaml")).command([])
    assert Path(command[1]) == ROOT / "train" / script and Path(command[1]).is_file()


def test_finished_runs_tell_their_figure(tmp_path):
    for name, result, told in (("a", {"top1": 12.345}, "top-1 12.35 %"), ("b", {"AP": 6.789}, "AP 6.79 %")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(result))
        assert describe_state(QueuedRun("recipe.yaml", output=str(tmp_path / name))) == f"done, {told}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: resnet18", "holds a dict, expected a list of runs"),
        ("- output: runs/x", "expected config and any of config, output, overrides, processes"),
        ("- {config: a.yaml, minutes: 3}", "has the entry .*minutes"),
        ("- config: a.yaml\n- config: a.yaml", "several runs in runs/a"),
        ("- {config: RECIPE, overrides: [epoch=3]}", "unknown recipe key 'epoch'"),
        ("- [config: a.yaml", "queue.yaml is no YAML: while parsing a flow sequence"),
        ("- {config: RECIPE, for_each: {seed: 3}}", "for_each {'seed': 3}, expected names, each with a list"),
    ],
)
def test_wrong_queue_is_one_sentence(text, message, small_recipe, tmp_path):
    save_recipe(small_recipe(), tmp_path / "recipe.yaml")
    (tmp_path / "queue.yaml").write_text(text.replace("RECIPE", str(tmp_path / "recipe.yaml")))
    with pytest.raises(ValueError, match=message):
        read_queue(tmp_path / "queue.yaml")


def test_entry_for_each_combination_is_as_many_runs_in_order(small_recipe, tmp_path):
    save_recipe(small_recipe(), tmp_path / "it.yaml")
    entry = {
        "config": str(tmp_path / "$name.yaml"),
        "output": "runs/${name}_${lr}_$seed",
        "overrides": ["lr=$lr", "seed=$seed"],
        "for_each": {"seed": [0, 1], "name": ["it"], "lr": [0.1, 0.2]},
    }
    (tmp_path / "queue.yaml").write_text(yaml.safe_dump([entry], sort_keys=False))
    runs = read_queue(tmp_path / "queue.yaml")
    outputs = ["runs/it_0.1_0", "runs/it_0.2_0", "runs/it_0.1_1", "runs/it_0.2_1"]
    assert [run.output for run in runs] == outputs
    assert [run.recipe([]).lr for run in runs] == [0.1, 0.2, 0.1, 0.2]
    assert [run.recipe([]).seed for run in runs] == [0, 0, 1, 1]
