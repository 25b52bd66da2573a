"""The test Hub itself, as far as the other tests rely on it."""

import hashlib
import json
import urllib.error
import urllib.request

import pytest

from hub.checksums import git_sha1, sha256
from tests.hub.conftest import HubProcess
from tests.hub.server import TOKEN


def ask(hub, method: str, path: str, content: object = None, token: str = TOKEN):
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(hub.address + path, data, method=method)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    return urllib.request.urlopen(request)


@pytest.fixture
def own_hub(tmp_path):
    process = HubProcess(tmp_path / "root")
    yield process
    process.stop()


def test_an_unknown_route_is_404_and_noted(own_hub):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(own_hub, "GET", "/api/datasets/someone/something")
    [asked] = own_hub.requests()
    assert not asked["known"]


@pytest.mark.parametrize(("token", "status"), [("hf_other", 401), ("", 401), (TOKEN, 200)])
def test_only_the_right_token_may_write(own_hub, token, status):
    wanted = {"name": "pixels", "organization": "someone"}
    if status == 200:
        assert ask(own_hub, "POST", "/api/repos/create", wanted, token).status == 200
    else:
        with pytest.raises(urllib.error.HTTPError, match=str(status)):
            ask(own_hub, "POST", "/api/repos/create", wanted, token)
    assert (own_hub.repository("someone/pixels") is not None) == (status == 200)


def test_a_wrong_token_may_not_even_read_what_is_public(own_hub):
    ask(own_hub, "POST", "/api/repos/create", {"name": "pixels", "organization": "someone"})
    assert ask(own_hub, "GET", "/api/models/someone/pixels", token="").status == 200
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(own_hub, "GET", "/api/models/someone/pixels", token="hf_other")


def test_a_commit_of_content_that_was_never_uploaded_is_refused_whole(own_hub):
    ask(own_hub, "POST", "/api/repos/create", {"name": "pixels", "organization": "someone"})
    lines = [
        {"key": "header", "value": {"summary": "half"}},
        {"key": "file", "value": {"path": "a", "content": "1"}},
        {"key": "lfsFile", "value": {"path": "b", "oid": hashlib.sha256(b"2").hexdigest(), "size": 1}},
    ]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    request = urllib.request.Request(f"{own_hub.address}/api/models/someone/pixels/commit/main", body)
    request.add_header("Authorization", f"Bearer {TOKEN}")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)
    assert own_hub.titles("someone/pixels") == ["initial commit"]


def test_repositories_outlive_the_process(tmp_path):
    first = HubProcess(tmp_path / "root")
    ask(first, "POST", "/api/repos/create", {"name": "pixels", "organization": "someone"})
    first.stop()
    second = HubProcess(tmp_path / "root")
    try:
        tree = json.load(ask(second, "GET", "/api/models/someone/pixels/tree/main"))
    finally:
        second.stop()
    assert [entry["path"] for entry in tree] == [".gitattributes"]


def test_checksums_are_gits_and_sha256sums(tmp_path):
    (tmp_path / "file").write_bytes(b"test content\n")
    assert git_sha1(tmp_path / "file") == "d670460b4b4aece5915caf5c68d12f560a9fe3e4"  # git hash-object
    assert sha256(tmp_path / "file") == hashlib.sha256(b"test content\n").hexdigest()
