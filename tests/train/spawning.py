"""Training runs in processes of their own, which can be killed; torch is imported once for all of them."""

import importlib
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from train.checkpoint import list_checkpoints
from train.recipe import save_recipe
from train.settings import TrainingSettings

SCRIPTS = {"classification": "train.train", "detection": "train.detect"}

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(list(SCRIPTS.values()))

DEADLINE = 180.0  # seconds, for what takes two on a machine of its own


def start_run(
    recipe: TrainingSettings, output: Path, *arguments: str, file_limit: int | None = None
) -> BaseProcess:
    """The script of a recipe's task; stderr goes to `OUTPUT.stderr`. `file_limit` is of a file, in bytes."""
    config = output.with_suffix(".yaml")
    save_recipe(recipe, config)
    command = ["train.py", "--config", str(config), "--output", str(output), *arguments]
    arguments = (SCRIPTS[recipe.task], command, output.with_suffix(".stderr"), file_limit)
    process = context.Process(target=_train, args=arguments)
    process.start()
    return process


def start_processes(size: int, recipe: TrainingSettings, output: Path) -> list[BaseProcess]:
    """The same in `size` connected processes, as torchrun starts them."""
    port, processes = free_port(), []
    for rank in range(size):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
        environment = {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "localhost"}
        process = context.Process(target=_run_connected, args=(environment, recipe, output))
        process.start()
        processes.append(process)
    return processes


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def finish(*processes: BaseProcess) -> list[int]:
    """The exit statuses."""
    for process in processes:
        process.join(DEADLINE)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def wait_until(condition: Callable[[], bool], process: BaseProcess | subprocess.Popen) -> None:
    """Return when the condition holds or the process has ended."""
    end = time.monotonic() + DEADLINE
    while _runs(process) and not condition():
        assert time.monotonic() < end, "nothing has happened in time"
        time.sleep(0.001)


def wait_for_checkpoints(output: Path, count: int, process: BaseProcess) -> None:
    """Return when `count` more checkpoints have appeared."""
    for _ in range(count):
        known = list_checkpoints(output)[-1:]
        wait_until(lambda known=known: list_checkpoints(output)[-1:] != known, process)


def _runs(process: BaseProcess | subprocess.Popen) -> bool:
    return process.is_alive() if isinstance(process, BaseProcess) else process.poll() is None


def _train(script: str, command: list[str], stderr: Path, file_limit: int | None) -> None:
    torch.set_num_threads(1)
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # forkserver's children ignore it
    sys.argv = command
    from dcn_backbones.command import run_command

    run_command(importlib.import_module(script).main)


def _run_connected(environment: dict[str, str], recipe: TrainingSettings, output: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    importlib.import_module(SCRIPTS[recipe.task]).run(recipe, output)
