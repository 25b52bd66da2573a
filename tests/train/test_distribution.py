"""Several processes against one, on the CPU with gloo."""

import os
import re
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from spawning import DEADLINE, finish, free_port, start_processes, wait_until
from torch import nn

from train.checkpoint import WEIGHTS, list_checkpoints, load_state
from train.classification import ClassificationLearner
from train.data import create_train_loader
from train.distribution import World
from train.losses import Criterion
from train.networks import build_model
from train.random_state import seed_epoch
from train.recipe import save_recipe
from train.results import read_log
from train.train import run

EXACT = {"amp": False, "epochs": 2, "mixup": 0.2, "color_jitter": 0.4, "opt": "adamw", "lr": 0.002}


class FirstBatchBuffers(ClassificationLearner):
    """One process whose batch norm counts the first of a step's batches only, as the first process does."""

    def _accumulate_gradients(self, images, targets):
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        totals = super()._accumulate_gradients(images, targets)
        self.batches = getattr(self, "batches", 0) + 1
        if self.batches % self.recipe.accumulate == 0:
            for name, buffer in self.model.named_buffers():
                buffer.copy_(buffers[name])
        return totals


def train_alone(recipe):
    """The weights that a plain loop over the loader of one process gives."""
    loader = create_train_loader(recipe)
    seed_epoch(recipe.seed, 0, rank=0)
    steps = len(loader) // recipe.accumulate
    learner = FirstBatchBuffers(
        build_model(recipe), Criterion(recipe, torch.device("cpu")), recipe, World(), steps
    )
    learner.train()
    for epoch in range(recipe.epochs):
        loader.set_epoch(epoch)
        batches = iter(loader)
        for step in range(steps):
            learner.step(islice(batches, recipe.accumulate), epoch * steps + step)
    return learner.model.state_dict()


@pytest.fixture
def two_processes(deformable_recipe, tmp_path):
    def train(**settings):
        recipe = deformable_recipe(**{**EXACT, "accumulate": 1, **settings})
        output = tmp_path / "two"
        assert finish(*start_processes(2, recipe, output)) == [0, 0]
        return output

    return train


def test_two_processes_are_one_that_accumulates_their_batches(two_processes, deformable_recipe):
    output = two_processes()
    found, expected = load_file(output / WEIGHTS), train_alone(deformable_recipe(**EXACT, accumulate=2))
    different = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
    assert not different


def test_two_processes_are_one_whole_batch_where_batch_norm_is_frozen(
    two_processes, deformable_recipe, tmp_path
):
    settings = {"freeze_bn": True, "mixup": 0.0, "opt": "sgd", "lr": 0.01}
    output = two_processes(**settings)
    run(deformable_recipe(**{**EXACT, **settings, "accumulate": 1, "batch_size": 8}), tmp_path / "one")
    found, expected = (load_file(folder / WEIGHTS) for folder in (output, tmp_path / "one"))
    start = build_model(deformable_recipe()).state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert not torch.equal(expected["fc.weight"], start["fc.weight"])
    for one, two in zip(
        *(read_log(folder / "log.jsonl") for folder in (tmp_path / "one", output)), strict=True
    ):
        assert two["val_images"] == 7 and two["val_top1"] == one["val_top1"]
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert two["val_loss"] == pytest.approx(one["val_loss"], rel=1e-4)


def test_one_process_goes_on_where_two_were_and_says_so(two_processes, deformable_recipe, tmp_path, caplog):
    output = two_processes(epochs=1)
    (checkpoint,) = list_checkpoints(output)
    state = load_state(checkpoint)
    assert state["processes"] == len(state["random"]) == 2
    assert not torch.equal(state["random"][0]["torch"], state["random"][1]["torch"])
    run(deformable_recipe(**{**EXACT, "accumulate": 1, "epochs": 2}), output)
    assert "resuming with 1 processes a run of 2: random numbers start anew" in caplog.text
    assert "a step had 8 images and has 4" in caplog.text and "epochs 1 is now 2" in caplog.text
    assert [record["epoch"] for record in read_log(output / "log.jsonl")] == [1, 2]


def test_frozen_batch_norm_keeps_its_statistics(deformable_recipe, tmp_path):
    run(deformable_recipe(freeze_bn=True, epochs=1), tmp_path / "run")
    model = build_model(deformable_recipe())
    model.load_state_dict(load_file(tmp_path / "run" / WEIGHTS))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all((norm.running_mean == 0).all() and (norm.running_var == 1).all() for norm in norms)


def start_machine(port, config, output, errors):
    """torchrun as it is started on each of two machines, with one process; ranks stand in its stderr."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--max-restarts", "3"]
    script = [str(Path(__file__).parents[2] / "train" / "train.py"), "--config", config, "--output", output]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen([*launcher, *rendezvous, *script], env=environment, stderr=errors.open("w"))


def children(process):
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(number) for number in re.findall(r"\d+", found)]


def test_a_process_that_dies_on_one_of_two_machines_is_restarted(deformable_recipe, tmp_path):
    settings = {**EXACT, "accumulate": 1, "checkpoint_every_steps": 1, "epochs": 6}
    config, output, port = tmp_path / "recipe.yaml", tmp_path / "killed", free_port()
    save_recipe(deformable_recipe(**settings), config)
    logs = [tmp_path / "first.stderr", tmp_path / "second.stderr"]
    machines = [start_machine(port, str(config), str(output), log) for log in logs]
    try:
        wait_until(lambda: len(list_checkpoints(output)) > 0, machines[1])
        (process,) = children(machines[1])
        os.kill(process, signal.SIGKILL)
        assert [machine.wait(DEADLINE) for machine in machines] == [0, 0], logs[0].read_text()
    finally:
        for machine in machines:
            machine.terminate()
    assert "exitcode: -9" in logs[1].read_text()
    whole = tmp_path / "whole"
    assert finish(*start_processes(2, deformable_recipe(**settings), whole)) == [0, 0]
    found, expected = load_file(output / WEIGHTS), load_file(whole / WEIGHTS)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
