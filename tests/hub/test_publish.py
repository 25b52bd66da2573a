"""Publishing by the real command, the real client and timm, to a Hub that is a process of its own."""

import io
import json
import shutil

import pytest
import timm
import torch
import yaml
from huggingface_hub import parse_eval_result_entries
from PIL import Image
from safetensors.torch import load, load_file, save_file

from hub.contents import joined_log
from train.history import load_history

PUBLISHED = {
    ".eval_results/pixels.yaml",
    ".gitattributes",
    "README.md",
    "SHA256SUMS",
    "config.json",
    "curves.png",
    "golden.json",
    "golden.png",
    "model.safetensors",
    "sampling.jpg",
    "training.json",
}

LOAD = """
import timm, torch, dcn_backbones
model = timm.create_model("hf-hub:{name}", pretrained=True).eval()
torch.manual_seed(0)
with torch.no_grad():
    torch.save(model(torch.randn(2, 3, 32, 32)), "{output}")
print(model.pretrained_cfg["label_descriptions"], model.pretrained_cfg["tag"])
"""


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_run_is_published_whole_and_loaded_by_timm(
    client, hub, finished_run, organization, tmp_path, dtype
):
    name = f"{organization}/dcnv2_resnet18.{dtype}"
    finished = client.script("publish", finished_run, "--repo", name, "--dtype", dtype)
    assert finished.status == 0, finished.text
    assert hub.files(name).keys() == PUBLISHED
    assert hub.titles(name) == ["initial commit", f"Publish dcnv2_resnet18.{dtype}"]
    weights = load(hub.content(name, "model.safetensors"))
    assert {tensor.dtype for tensor in weights.values()} == {getattr(torch, dtype), torch.int64}

    loaded = client.python(LOAD.format(name=name, output=tmp_path / "logits.pt"))
    assert loaded.status == 0, loaded.text
    assert "barn owl" in loaded.text and loaded.text.rstrip().endswith(dtype)
    model = timm.create_model("dcnv2_resnet18", channels=(8, 8, 16, 16), num_classes=3).eval()
    model.load_state_dict(load_file(finished_run / "model.safetensors"))
    torch.manual_seed(0)
    with torch.no_grad():
        expected = model(torch.randn(2, 3, 32, 32))
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, rtol=tolerance, atol=tolerance)


def test_card_results_and_pictures_tell_what_was_measured(client, hub, finished_run, exported, organization):
    name = f"{organization}/dcnv2_resnet18.pixels"
    assert client.script("publish", exported, "--repo", name).status == 0
    history = load_history(exported / "training.json")
    card = hub.content(name, "README.md").decode()
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["library_name"], head["license"]) == ("timm", "other") and head["datasets"] == [
        "someone/pixels"
    ]
    assert f"**{history.result['top1']:.2f} % top-1" in card and "Data: ours." in card
    assert f'timm.create_model("hf-hub:{name}", pretrained=True)' in card
    for part in (
        "## Limits",
        "## Citation",
        "zhu2019deformable",
        "cross-entropy",
        "0.1x in the branches",
        "CC0",
    ):
        assert part in card
    assert all(f"({picture})" in card for picture in ("curves.png", "sampling.jpg"))

    [entry] = parse_eval_result_entries(yaml.safe_load(hub.content(name, ".eval_results/pixels.yaml")))
    assert (entry.dataset_id, entry.task_id) == ("someone/pixels", "default")
    assert entry.value == round(history.result["top1"], 2) and "7 images of 3 classes" in entry.notes
    for picture in ("curves.png", "sampling.jpg", "golden.png"):
        Image.open(io.BytesIO(hub.content(name, picture))).load()
    assert str(finished_run.parent) not in hub.content(name, "training.json").decode()
    golden = json.loads(hub.content(name, "golden.json"))
    assert len(golden["logits"]) == 3 and max(golden["logits"]) > min(golden["logits"])


def test_dry_run_shows_every_file_and_writes_nothing(client, hub, exported, organization):
    name = f"{organization}/dcnv2_resnet18.pixels"
    finished = client.script("publish", exported, "--repo", name, "--dry-run")
    assert finished.status == 0
    shown = {
        line.split()[-1]: line.split()[0] for line in finished.text.splitlines() if line.startswith("  ")
    }
    assert shown == dict.fromkeys(PUBLISHED - {".gitattributes"}, "new")
    assert hub.repository(name) is None
    assert {one["method"] for one in hub.requests()} == {"GET"}


def test_publishing_again_changes_only_what_has_changed(
    client, hub, publish, contents, organization, tmp_path
):
    name = f"{organization}/pixels"
    assert publish(name).status == 0
    uploads = len(hub.requests("PUT"))
    assert uploads and publish(name).status == 0
    assert len(hub.titles(name)) == 2 and len(hub.requests("PUT")) == uploads

    before = hub.files(name)
    changed = tmp_path / "changed"
    shutil.copytree(contents, changed)
    (changed / "README.md").write_text((changed / "README.md").read_text() + "\nmore\n")
    (changed / "curves.png").unlink()
    finished = publish(name, changed)
    assert finished.status == 0 and "'README.md': 'changed'" in finished.text
    after = hub.files(name)
    assert {path for path in after if after[path] != before.get(path)} == {"README.md"}
    assert before.keys() - after.keys() == {"curves.png"}
    assert len(hub.titles(name)) == 3 and len(hub.requests("PUT")) == uploads


def test_what_others_put_into_the_repository_stays(client, hub, publish, organization):
    name = f"{organization}/pixels"
    assert publish(name).status == 0
    upload = f"upload_file(path_or_fileobj=b'1', path_in_repo='NOTES', repo_id={name!r})"
    assert client.python(f"from huggingface_hub import HfApi; HfApi().{upload}").status == 0
    assert publish(name).status == 0
    assert "NOTES" in hub.files(name) and len(hub.titles(name)) == 3


def test_private_repository_needs_the_logged_in_token(client, hub, exported, organization):
    name = f"{organization}/dcnv2_resnet18.pixels"
    code = (
        "import sys, runpy, huggingface_hub; huggingface_hub.logging.set_verbosity_debug();"
        f"sys.argv = ['hub/publish.py', {str(exported)!r}, '--repo', {name!r}, '--private'];"
        "runpy.run_path('hub/publish.py', run_name='__main__')"
    )
    finished = client.python(code)  # which checks that the token is nowhere in the log
    assert finished.status == 0 and "authenticated: True" in finished.text
    assert hub.repository(name)["private"]
    assert client.script("verify", name).status == 0
    client.log_out()
    client.clear()
    for script in ("pull", "verify"):
        refused = client.script(script, name)
        assert refused.status == 1 and "401" in refused.text and "Traceback" not in refused.text
    assert client.python(LOAD.format(name=name, output="unused")).status == 99


def test_private_is_not_promised_of_a_repository_that_is_public(client, hub, exported, publish, organization):
    name = f"{organization}/pixels"
    assert publish(name).status == 0
    finished = client.script("publish", exported, "--repo", name, "--private")
    assert finished.status == 1 and f"{name} exists and is public" in finished.text
    assert len(hub.titles(name)) == 2


def test_wrong_token_is_refused_with_a_sentence(client, hub, exported, organization):
    client.log_in("hf_wrong")
    finished = client.script("publish", exported, "--repo", f"{organization}/pixels")
    assert finished.status == 1
    error = finished.text.strip().splitlines()[-1]
    assert error.startswith("error: creating") and "401" in error and "hf auth login" in error
    assert "hf_wrong" not in finished.text and "Traceback" not in finished.text
    assert hub.repository(f"{organization}/pixels") is None


def test_a_zoo_is_published_in_one_call(client, hub, exported, organization, tmp_path):
    for tag in ("one", "two"):
        shutil.copytree(exported, tmp_path / f"dcnv2_resnet18.{tag}")
    finished = client.script("publish", *sorted(tmp_path.glob("dcnv2*")), "--org", organization)
    assert finished.status == 0, finished.text
    for tag in ("one", "two"):
        assert hub.files(f"{organization}/dcnv2_resnet18.{tag}").keys() == PUBLISHED


def test_where_one_of_several_fails_the_others_are_published(client, hub, exported, organization, tmp_path):
    for tag in ("damaged", "whole"):
        shutil.copytree(exported, tmp_path / f"dcnv2_resnet18.{tag}")
    (tmp_path / "dcnv2_resnet18.damaged" / "model.safetensors").write_bytes(b"no weights")
    finished = client.script("publish", *sorted(tmp_path.glob("dcnv2*")), "--org", organization)
    assert finished.status == 1 and "Traceback" not in finished.text, finished.text
    assert "dcnv2_resnet18.damaged/model.safetensors" in finished.text
    assert hub.repository(f"{organization}/dcnv2_resnet18.damaged") is None
    assert hub.files(f"{organization}/dcnv2_resnet18.whole").keys() == PUBLISHED


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "required: RUN_OR_FOLDER"),
        (["absent", "--repo", "a/b"], "absent is neither a finished run"),
        (["FOLDER", "--repo", "no-organization"], "expected ORG/NAME"),
        (["FOLDER", "--repo", "a/b..c"], "'a/b..c' is no repository"),
        (["FOLDER", "FOLDER", "--repo", "a/b"], "expected --org for several"),
        (["FOLDER", "--repo", "a/b", "--dtype", "float16"], "is exported already"),
        (["FOLDER", "--repo", "a/b", "--dtype", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_status_2(client, exported, arguments, sentence):
    arguments = [str(exported) if argument == "FOLDER" else argument for argument in arguments]
    finished = client.script("publish", *arguments)
    assert finished.status == 2
    assert (
        finished.text.startswith("error: ") and finished.text.count("\n") == 1 and sentence in finished.text
    )


@pytest.mark.parametrize("script", ["publish", "pull", "verify"])
def test_help_has_examples(client, script):
    finished = client.script(script, "--help")
    assert finished.status == 0 and f"python hub/{script}.py " in finished.text


def test_weights_of_another_type_are_refused(client, hub, exported, organization, tmp_path):
    folder = tmp_path / "dcnv2_resnet18.half"
    shutil.copytree(exported, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, folder / "model.safetensors")
    finished = client.script("publish", folder, "--repo", f"{organization}/half")
    assert finished.status == 1 and "values of types BF16, expected float32 or float16" in finished.text
    assert not hub.requests()


def test_epochs_of_several_phases_are_counted_on(exported):
    phase = load_history(exported / "training.json").phases[0]
    assert [record["epoch"] for record in joined_log([phase, phase])] == [1, 2, 3, 4]
