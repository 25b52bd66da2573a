"""Pulling by the real command and client: cache, folders, revisions, zoo, pickles."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file

UPLOAD = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo({name!r}, exist_ok=True)
api.upload_folder(repo_id={name!r}, folder_path={folder!r})
"""

LOAD = """
from pathlib import Path
from hub.pull import load
print(load(Path({folder!r}), allow_pickle=True).fc)
"""

OFFLINE = """
import huggingface_hub.constants
huggingface_hub.constants.HF_HUB_OFFLINE = True
import timm, dcn_backbones
print(timm.create_model("hf-hub:{name}", pretrained=True).pretrained_cfg["tag"])
"""


@pytest.fixture
def upload(client):
    """A function that uploads a folder as anybody would, without `hub/publish.py`."""

    def call(name, folder):
        finished = client.python(UPLOAD.format(name=name, folder=str(folder)))
        assert finished.status == 0, finished.text

    return call


@pytest.fixture
def pickled(exported, tmp_path):
    """A folder with the weights as a pickle."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    shutil.copy(exported / "config.json", folder)
    torch.save(load_file(exported / "model.safetensors"), folder / "pytorch_model.bin")
    torch.save({"step": 1}, folder / "optimizer.pt")  # of a training program, and no weights
    return folder


def test_what_was_pulled_is_found_by_timm_without_a_network(client, hub, publish, contents, organization):
    name = f"{organization}/pixels"
    assert publish(name).status == 0
    finished = client.script("pull", name)
    assert finished.status == 0, finished.text
    folder = finished.text.strip().splitlines()[-1].removeprefix(f"{name}: ")
    assert folder.startswith(str(client.cache)) and folder.endswith(hub.repository(name)["head"])
    hub.reset()
    loaded = client.python(OFFLINE.format(name=name))
    assert loaded.status == 0 and "pixels" in loaded.text, loaded.text
    assert not hub.requests()
    assert client.script("pull", name).status == 0
    assert not hub.requests("GET", "/resolve/")  # all of it was in the cache


def test_output_is_a_folder_that_timm_loads(client, publish, contents, organization, tmp_path):
    name = f"{organization}/pixels"
    assert publish(name).status == 0
    assert client.script("pull", name, "--output", tmp_path).status == 0
    pulled = {
        path.relative_to(tmp_path / "pixels") for path in (tmp_path / "pixels").rglob("*") if path.is_file()
    }
    assert {path.relative_to(contents) for path in contents.rglob("*") if path.is_file()} <= pulled
    code = f"import timm, dcn_backbones; timm.create_model('local-dir:{tmp_path}/pixels', pretrained=True)"
    assert client.python(code).status == 0


def test_a_revision_is_pulled_as_it_was(client, hub, publish, contents, organization, tmp_path):
    name = f"{organization}/pixels"
    assert publish(name).status == 0
    first = hub.repository(name)["head"]
    shutil.copytree(contents, tmp_path / "changed")
    (tmp_path / "changed" / "README.md").write_text("---\nlicense: other\nlicense_name: x\n---\nnew\n")
    assert publish(name, tmp_path / "changed").status == 0
    for revision, text in ((first, "## Limits"), ("main", "new")):
        assert (
            client.script("pull", name, "--revision", revision, "--output", tmp_path / revision).status == 0
        )
        assert text in (tmp_path / revision / "pixels" / "README.md").read_text()


def test_where_one_of_several_fails_the_others_are_pulled(client, publish, organization, tmp_path):
    name = f"{organization}/pixels"
    assert publish(name).status == 0
    finished = client.script("pull", f"{organization}/absent", name, "--output", tmp_path)
    assert finished.status == 1 and "Traceback" not in finished.text
    assert f"error: listing the files of {organization}/absent failed" in finished.text
    assert (tmp_path / "pixels" / "model.safetensors").is_file()


def test_a_zoo_is_pulled_and_verified_whole(client, publish, upload, pickled, organization, tmp_path):
    for number in (1, 2):
        assert publish(f"{organization}/pixels-{number}").status == 0
    upload(f"{organization}/other", pickled)  # no model of this zoo
    assert client.script("pull", "--zoo", organization, "--output", tmp_path / "zoo").status == 0
    assert sorted(path.name for path in (tmp_path / "zoo").iterdir()) == ["pixels-1", "pixels-2"]
    finished = client.script("verify", "--zoo", organization)
    assert finished.status == 0 and finished.text.count("files have their SHA-256") == 2
    absent = client.script("pull", "--zoo", "nobody")
    assert absent.status == 1 and "nobody has no models tagged dcn_backbones" in absent.text


@pytest.mark.parametrize("script", ["pull", "verify"])
def test_missing_repositories_and_bad_usage_are_sentences(client, script, organization):
    absent = client.script(script, f"{organization}/absent")
    assert absent.status == 1 and "Repository not found" in absent.text and "Traceback" not in absent.text
    for arguments in ([], ["name"], ["a/b", "--zoo", "a"]):
        wrong = client.script(script, *arguments)
        assert wrong.status == 2 and wrong.text.startswith("error: ") and wrong.text.count("\n") == 1


def test_only_a_pickle_is_refused_unless_the_user_insists(
    client, upload, pickled, hub, organization, tmp_path
):
    name = f"{organization}/pickled"
    upload(name, pickled)
    refused = client.script("pull", name)
    assert refused.status == 1 and "only pickled weights (optimizer.pt, pytorch_model.bin)" in refused.text
    assert not [one for one in hub.requests() if "resolve" in one["path"]]
    assert client.script("pull", name, "--allow-pickle", "--output", tmp_path / "out").status == 0
    loaded = client.python(LOAD.format(folder=str(tmp_path / "out" / "pickled")))
    assert loaded.status == 0 and "out_features=3" in loaded.text, loaded.text


class Harmful:
    """What a pickle can do to who loads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_harmful_pickle_runs_nothing_even_for_who_insists(client, upload, pickled, organization, tmp_path):
    with (pickled / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"fc.weight": Harmful(str(tmp_path / "harmed"))}, file)
    upload(f"{organization}/harmful", pickled)
    pulled = client.script("pull", f"{organization}/harmful", "--allow-pickle", "--output", tmp_path)
    assert pulled.status == 1 and "Traceback" not in pulled.text
    assert "pytorch_model.bin cannot be read as tensors alone" in pulled.text
    assert not (tmp_path / "harmful").exists() and not list(client.cache.rglob("pytorch_model.bin"))
    loaded = client.python(LOAD.format(folder=str(pickled)))
    assert loaded.status == 99 and "pytorch_model.bin cannot be read as tensors alone" in loaded.text
    assert not (tmp_path / "harmed").exists()


def test_a_pickle_beside_safetensors_is_left_where_it_is(
    client, hub, upload, pickled, exported, organization, tmp_path
):
    shutil.copy(exported / "model.safetensors", pickled)
    upload(f"{organization}/both", pickled)
    hub.reset()
    assert (
        client.script("pull", f"{organization}/both", "--allow-pickle", "--output", tmp_path / "out").status
        == 0
    )
    assert not (tmp_path / "out" / "both" / "pytorch_model.bin").exists()
    assert not hub.requests(path="pytorch_model.bin")


def test_a_repository_without_weights_is_refused(client, upload, organization, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    upload(f"{organization}/empty", tmp_path)
    finished = client.script("pull", f"{organization}/empty")
    assert finished.status == 1 and "has no weights, expected model.safetensors" in finished.text
