"""The test Hub as a process, clients as processes, and weights to publish."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.transforms.functional import to_pil_image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hub.contents import write_contents
from hub.publish import default_photograph
from tests.hub.server import TOKEN
from train.export_weights import export
from train.recipe import Recipe
from train.train import run

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("cat", "dog", "owl")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


@dataclass
class Finished:
    """How a command ended: its exit status, and all that it wrote."""

    status: int
    text: str


class HubProcess:
    """The test Hub, to be told what to do wrong and asked what it was asked."""

    def __init__(self, root: Path, *options: str) -> None:
        command = [sys.executable, "-m", "tests.hub.server", "--root", str(root), *options]
        self.root = root
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()

    def control(self, name: str, content: dict | None = None) -> list[dict]:
        data = None if content is None else json.dumps(content).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.address}/-/{name}", data)) as answer:
            return json.load(answer)

    def fault(self, kind: str, **options) -> None:
        """Let something go wrong, as `faults.py` describes."""
        self.control("faults", {"kind": kind, **options})

    def reset(self) -> None:
        """Forget faults and requests."""
        self.control("reset", {})

    def requests(self, method: str = "", path: str = "") -> list[dict]:
        """What was asked for since the last reset, in order."""
        asked = self.control("requests")
        return [one for one in asked if method in ("", one["method"]) and path in one["path"]]

    def repository(self, name: str) -> dict | None:
        """A repository as it is kept, None where there is none."""
        path = self.root / "repositories" / f"{name.replace('/', '--')}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def files(self, name: str) -> dict[str, dict]:
        """The files of its last commit."""
        repository = self.repository(name)
        return repository["commits"][repository["head"]]["files"]

    def content(self, name: str, path: str) -> bytes:
        """The content of one of them."""
        return (self.root / "content" / self.files(name)[path]["oid"]).read_bytes()

    def titles(self, name: str) -> list[str]:
        """What its commits are called, oldest first."""
        return [commit["title"] for commit in self.repository(name)["commits"].values()]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


class Client:
    """Runs commands against a Hub. No command may write the token into what it prints."""

    def __init__(self, address: str, home: Path) -> None:
        self.home, self.numbers = home, itertools.count()
        home.mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= ENVIRONMENT | {"HF_ENDPOINT": address, "HF_HOME": str(home)}
        command = [sys.executable, "-W", "ignore", "-m", "tests.hub.client"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
        assert self.process.stdout.readline() == "ready\n"

    @property
    def cache(self) -> Path:
        """The client's cache of downloads."""
        return self.home / "hub"

    def log_in(self, token: str = TOKEN) -> None:
        """What `hf auth login` leaves behind."""
        (self.home / "token").write_text(token)

    def log_out(self) -> None:
        (self.home / "token").unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget every download."""
        shutil.rmtree(self.cache, ignore_errors=True)

    def script(self, name: str, *arguments: object) -> Finished:
        """Run `hub/NAME.py`."""
        return self._run({"argv": [str(ROOT / "hub" / f"{name}.py"), *map(str, arguments)]})

    def python(self, code: str, **environment: str) -> Finished:
        """Run a piece of Python."""
        return self._run({"code": code}, environment)

    def _run(self, job: dict, environment: dict[str, str] | None = None) -> Finished:
        log = self.home / f"log-{next(self.numbers)}"
        job |= {"log": str(log), "environment": environment or {}}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        text = log.read_text()
        assert TOKEN not in text
        return Finished(status, text)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="session")
def hub_process(tmp_path_factory) -> Iterator[HubProcess]:
    process = HubProcess(tmp_path_factory.mktemp("hub") / "root", "--part-size", str(64 << 10))
    yield process
    process.stop()


@pytest.fixture(scope="session")
def client_process(hub_process, tmp_path_factory) -> Iterator[Client]:
    process = Client(hub_process.address, tmp_path_factory.mktemp("client") / "home")
    yield process
    process.stop()


@pytest.fixture
def hub(hub_process) -> Iterator[HubProcess]:
    """The test Hub without faults; a request that it does not know fails the test."""
    hub_process.reset()
    yield hub_process
    unknown = [one for one in hub_process.requests() if not one["known"]]
    assert not unknown, f"the test Hub was asked for what it does not know: {unknown}"


@pytest.fixture
def client(hub, client_process) -> Client:
    """A client that is logged in, its cache empty."""
    client_process.clear()
    client_process.log_in()
    return client_process


@pytest.fixture
def organization(request) -> str:
    """A name that no other test publishes under."""
    return f"org-{zlib.crc32(request.node.nodeid.encode()):08x}"


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A trained run of a narrow DCNv2 network on generated images of three classes, 2 epochs."""
    folder = tmp_path_factory.mktemp("run")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("validation", 7)):
        for number in range(count):
            file = folder / "pixels" / split / CLASSES[number % len(CLASSES)] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(torch.rand(3, 32, 32, generator=generator)).save(file)
    words = {"cat": "house cat", "dog": "good dog", "owl": "barn owl"}
    (folder / "pixels" / "class_names.json").write_text(json.dumps(words))
    recipe = Recipe(
        model="dcnv2_resnet18",
        model_kwargs={"channels": [8, 8, 16, 16]},
        num_classes=len(CLASSES),
        data_dir=str(folder / "pixels"),
        data_terms="ours",
        data_hub_id="someone/pixels",
        img_size=32,
        batch_size=4,
        epochs=2,
        workers=0,
        threads=1,
    )
    run(recipe, folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def exported(finished_run, tmp_path_factory) -> Path:
    """The run as a folder of weights, their offsets made visible."""
    folder = tmp_path_factory.mktemp("exported") / "dcnv2_resnet18.pixels"
    export(finished_run, folder, str(finished_run.parent / "pixels"))
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(0)
    for name, tensor in weights.items():
        if "conv_offset" in name:
            tensor.normal_(std=0.05)
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def contents(exported, tmp_path_factory) -> Path:
    """Everything that is published of it, under the name of another repository."""
    folder = tmp_path_factory.mktemp("contents")
    write_contents(exported, folder, "someone/dcnv2_resnet18.pixels", default_photograph())
    return folder


PUBLISH = """
from pathlib import Path
from huggingface_hub import HfApi
from hub.repository import publish_folder
from dcn_backbones.command import run_command
run_command(lambda: print(publish_folder(HfApi(), {name!r}, Path({folder!r}), "publish", False)))
"""


@pytest.fixture
def publish(client, contents) -> Callable[..., Finished]:
    """A function that publishes prepared contents in a process of its own."""

    def call(name: str, folder: Path = contents) -> Finished:
        return client.python(PUBLISH.format(name=name, folder=str(folder)))

    return call
