"""Verification: what is published computes what it computed."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dcn_backbones.analysis import load_model
from hub.checksums import check_sums, read_sums, write_sums
from hub.golden import TOLERANCE, compare_golden, reference_logits


@pytest.fixture
def copied(contents, tmp_path):
    """Published contents that a test may change."""
    return shutil.copytree(contents, tmp_path / "copied")


def seal(folder):
    """Make the checksums those of what the folder holds now."""
    write_sums(folder, read_sums(folder / "SHA256SUMS"))


def test_a_folder_is_verified_without_a_hub(client, hub, contents):
    finished = client.script("verify", contents)
    assert finished.status == 0 and "files have their SHA-256, logits differ by" in finished.text
    assert not hub.requests()


def test_each_of_several_is_reported(client, contents, copied):
    (copied / "golden.json").unlink()
    seal_without = {
        name: sum_ for name, sum_ in read_sums(copied / "SHA256SUMS").items() if name != "golden.json"
    }
    write_sums(copied, seal_without)
    finished = client.script("verify", copied, contents)
    assert finished.status == 1
    assert f"error: {copied} has no golden.json" in finished.text
    assert f"{contents}: " in finished.text and "files have their SHA-256" in finished.text


def test_a_folder_with_one_changed_byte_is_refused_before_it_is_loaded(client, copied):
    weights = copied / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:8] + b"!" + content[9:])  # loading would find fault with its header
    finished = client.script("verify", copied)
    assert finished.status == 1 and finished.text.startswith(f"error: {weights} has SHA-256 ")


def test_a_folder_of_pickles_is_refused_unless_the_user_insists(client, copied):
    weights = copied / "model.safetensors"
    torch.save(load_file(weights), copied / "pytorch_model.bin")
    weights.unlink()
    write_sums(copied, {*read_sums(copied / "SHA256SUMS"), "pytorch_model.bin"} - {"model.safetensors"})
    refused = client.script("verify", copied)
    assert refused.status == 1 and "only pickled weights (pytorch_model.bin)" in refused.text
    assert client.script("verify", copied, "--allow-pickle").status == 0


def test_a_folder_and_a_zoo_are_not_verified_in_one_call(client, hub, copied):
    finished = client.script("verify", copied, "--zoo", "someone")
    assert finished.status == 2 and finished.text.startswith("error: expected either repositories")
    assert not hub.requests()


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", '{"logits": ["a"], "image": "golden.png"}'])
def test_damaged_golden_logits_are_named(copied, content):
    (copied / "golden.json").write_text(content)
    with pytest.raises(ValueError, match="golden.json is damaged, expected `logits` and an `image`"):
        compare_golden(torch.nn.Identity(), copied)


def test_other_weights_under_right_checksums_are_found_by_the_logits(client, copied):
    weights = load_file(copied / "model.safetensors")
    weights["fc.bias"][0] += 0.01
    save_file(weights, copied / "model.safetensors")
    seal(copied)
    finished = client.script("verify", copied)
    assert finished.status == 1 and "differ from the golden ones" in finished.text


def test_another_preprocessing_is_found_by_the_logits(client, copied):
    config = json.loads((copied / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.5, 0.5, 0.5]
    (copied / "config.json").write_text(json.dumps(config))
    seal(copied)
    finished = client.script("verify", copied)
    assert finished.status == 1 and "differ from the golden ones" in finished.text


def test_golden_logits_are_the_references_and_float32_is_near_them(contents):
    golden = torch.tensor(json.loads((contents / "golden.json").read_text())["logits"], dtype=torch.float64)
    model = load_model(f"local-dir:{contents}")
    found = compare_golden(model, contents)
    assert found.tolerance == TOLERANCE * golden.abs().max() and 0 < found.difference < found.tolerance / 10
    torch.testing.assert_close(reference_logits(model, contents / "golden.png"), golden, rtol=0, atol=1e-5)


def test_a_missing_file_and_a_broken_list_are_named(copied):
    (copied / "config.json").unlink()
    with pytest.raises(ValueError, match="config.json does not exist"):
        check_sums(copied)
    (copied / "SHA256SUMS").write_text("nonsense\n")
    with pytest.raises(ValueError, match="the line 'nonsense', expected a SHA-256"):
        check_sums(copied)
