"""Pulling from a Hub that fails or cheats: nothing damaged is loaded, or stays in the cache."""

import hashlib
import re
import shutil

import pytest

from dcn_backbones.models.pretrained_cfgs import EMBEDDED_WEIGHTS

TIMM = "import timm, dcn_backbones; timm.create_model('hf-hub:{name}', pretrained=True)"
IMPATIENT = """
import huggingface_hub.constants
huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT = 2  # seconds
from hub.pull import pull
pull({name!r})
"""
WEIGHTS = "/.*/resolve/.*/model.safetensors"


@pytest.fixture
def published(hub, publish, organization):
    """The name of a repository with published weights; the Hub has no other requests on its list."""
    name = f"{organization}/pixels"
    assert publish(name).status == 0
    hub.reset()
    return name


def cached_weights(client):
    return [path for path in client.cache.rglob("*") if path.is_file() and path.name == "model.safetensors"]


def assert_loads(client, name):
    assert client.script("verify", name).status == 0


@pytest.mark.parametrize("kind", ["drop", "reset"])
def test_a_connection_lost_in_the_middle_of_a_download(client, hub, published, kind):
    hub.fault(kind, method="GET", path=WEIGHTS, bytes=20_000)
    assert_loads(client, published)
    assert len(hub.requests("GET", "model.safetensors")) == 2


def test_the_embedded_weights_go_on_where_their_download_was_dropped(client, hub, organization):
    name = f"{organization}/dcnv2_resnet18.tin100"
    [folder] = EMBEDDED_WEIGHTS.glob("*.tin100")
    assert client.script("publish", folder, "--repo", name).status == 0
    commands = {
        "timm": lambda: client.python(TIMM.format(name=name)),
        "pull": lambda: client.script("verify", name),
    }
    for command in commands.values():
        client.clear()
        hub.reset()
        hub.fault("drop", method="GET", path=WEIGHTS, bytes=15 << 20)
        finished = command()
        assert finished.status == 0, finished.text
        asked = hub.requests("GET", "model.safetensors")
        assert [one["range"] for one in asked] == ["", f"bytes={10 << 20}-"]  # the client keeps whole 10 MiB
        assert asked[1]["status"] == 206
    assert "Egyptian cat" in finished.text


def test_each_request_may_fail_once(client, hub, published):
    for method, path in (
        ("GET", "/api/models/.*"),
        ("GET", ".*/tree/.*"),
        ("HEAD", WEIGHTS),
        ("GET", WEIGHTS),
    ):
        hub.fault("error", method=method, path=path, status=500)
    assert_loads(client, published)
    assert len([one for one in hub.requests() if one["status"] == 500]) == 4


def test_a_slow_answer_is_asked_for_again(client, hub, published):
    hub.fault("slow", method="GET", path=WEIGHTS, seconds=3)
    finished = client.python(IMPATIENT.format(name=published))
    assert finished.status == 0, finished.text
    assert len(hub.requests("GET", "model.safetensors")) == 2


def test_a_hub_that_cannot_be_had_is_a_sentence(client, hub, published):
    hub.fault("error", path="/api/models/.*", times=-1, status=502)
    finished = client.script("pull", published)
    assert finished.status == 1 and "Traceback" not in finished.text
    error = finished.text.strip().splitlines()[-1]
    assert error.startswith(f"error: listing the files of {published} failed: the Hub answered 502")


@pytest.mark.parametrize("script", ["pull", "verify"])
@pytest.mark.parametrize(
    ("kind", "found"),
    [("tamper", "checksum"), ("truncate", "has 1,000 bytes")],
)
def test_tampered_and_truncated_weights_are_refused_and_not_kept(client, hub, published, script, kind, found):
    hub.fault(kind, path=WEIGHTS, bytes=1000, times=-1)
    finished = client.script(script, published)
    assert finished.status == 1 and "Traceback" not in finished.text
    assert f"model.safetensors of {published}" in finished.text and found in finished.text
    assert not cached_weights(client)
    hub.reset()
    assert_loads(client, published)


def test_one_tampered_download_is_replaced(client, hub, published):
    hub.fault("tamper", method="GET", path=WEIGHTS, bytes=1000)
    assert_loads(client, published)


def test_a_short_body_is_tried_again_and_then_refused(client, hub, published):
    hub.fault("truncate", method="GET", path=WEIGHTS, bytes=1000, times=-1)
    finished = client.script("pull", published)
    assert finished.status == 1 and f"downloading model.safetensors of {published} failed" in finished.text
    assert len(hub.requests("GET", "model.safetensors")) == 4 and not cached_weights(client)


def test_damage_in_the_cache_is_repaired(client, hub, published):
    assert_loads(client, published)
    [weights] = cached_weights(client)
    content = weights.read_bytes()
    weights.resolve().write_bytes(content[:-1] + b"\0\0")
    assert_loads(client, published)
    [weights] = cached_weights(client)
    assert weights.read_bytes() == content


def test_a_wrong_etag_is_refused_before_the_client_files_anything_under_it(client, hub, published):
    other = hub.files(published)["config.json"]["oid"]
    hub.fault("etag", method="HEAD", path=WEIGHTS, etag=other, times=-1)
    finished = client.script("pull", published)
    assert (
        finished.status == 1
        and f"model.safetensors of {published} is announced with ETag {other}" in finished.text
    )
    assert not hub.requests("GET", "model.safetensors") and not cached_weights(client)


def test_weights_that_were_replaced_by_a_commit_are_refused(
    client, hub, publish, contents, organization, tmp_path
):
    name = f"{organization}/replaced"
    shutil.copytree(contents, tmp_path / "contents")
    weights = tmp_path / "contents" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert publish(name, tmp_path / "contents").status == 0  # with the SHA256SUMS of the weights before
    for script in ("pull", "verify"):
        finished = client.script(script, name)
        assert finished.status == 1
        assert re.search(r"model.safetensors has SHA-256 \w+, expected \w+ as in SHA256SUMS", finished.text)
        assert hashlib.sha256(content).hexdigest() in finished.text
