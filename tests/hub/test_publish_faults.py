"""Publishing to a Hub that fails: what passes is tried again, and there is a whole commit or none."""

import hashlib
import shutil

import pytest


def oid(contents, name: str) -> str:
    return hashlib.sha256((contents / name).read_bytes()).hexdigest()


def assert_whole(hub, name, contents):
    """One commit after the first, and every file in it is what was published."""
    assert len(hub.titles(name)) == 2
    published = {path.relative_to(contents).as_posix() for path in contents.rglob("*") if path.is_file()}
    assert hub.files(name).keys() == published | {".gitattributes"}
    for path in published:
        assert hub.content(name, path) == (contents / path).read_bytes()


def test_each_request_may_fail_once(hub, publish, contents, organization):
    name = f"{organization}/pixels"
    stages = {
        "POST": (
            "/api/repos/create",
            ".*/preupload/main",
            ".*/objects/batch",
            r"/lfs/\w+/verify",
            ".*/commit/main",
        ),
        "PUT": (r"/lfs/.*",),
        "GET": (rf"/api/models/{name}", ".*/tree/.*"),
    }
    for method, paths in stages.items():
        for path in paths:
            hub.fault("error", method=method, path=path, status=503)
    finished = publish(name)
    assert finished.status == 0, finished.text
    assert len([one for one in hub.requests() if one["status"] == 503]) == 8
    assert_whole(hub, name, contents)


@pytest.mark.parametrize("kind", ["drop", "reset"])
def test_a_connection_lost_in_the_middle_of_an_upload(hub, publish, contents, organization, kind):
    name = f"{organization}/{kind}"
    hub.fault(kind, method="PUT", path=f"/lfs/{oid(contents, 'model.safetensors')}.*", bytes=20_000)
    hub.fault(kind, method="PUT", path=f"/lfs/{oid(contents, 'golden.png')}.*/2", bytes=20_000)
    finished = publish(name)
    assert finished.status == 0, finished.text
    assert len([one for one in hub.requests("PUT") if one["status"] == 0]) == 2
    assert_whole(hub, name, contents)


def test_an_upload_that_stays_refused_names_its_file_and_goes_on_later(hub, publish, contents, organization):
    name = f"{organization}/pixels"
    weights = f"/lfs/{oid(contents, 'model.safetensors')}"
    hub.fault("error", method="PUT", path=f"{weights}.*", status=403, times=-1)
    finished = publish(name)
    assert finished.status == 1 and "Traceback" not in finished.text
    error = finished.text.strip().splitlines()[-1]
    assert error.startswith(f"error: uploading model.safetensors to {name} failed: the Hub answered 403")
    assert hub.titles(name) == ["initial commit"] and hub.files(name).keys() == {".gitattributes"}

    picture = f"/lfs/{oid(contents, 'golden.png')}"
    assert hub.requests("PUT", picture)
    hub.reset()
    assert publish(name).status == 0
    assert hub.requests("PUT", weights) and not hub.requests("PUT", picture)
    assert_whole(hub, name, contents)


def test_content_that_arrives_damaged_is_not_committed(hub, publish, contents, organization):
    name = f"{organization}/pixels"
    hub.fault("error", method="POST", path=rf"/lfs/{oid(contents, 'model.safetensors')}.*/verify", status=422)
    finished = publish(name)
    assert finished.status == 1 and "uploading model.safetensors" in finished.text
    assert hub.titles(name) == ["initial commit"]


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub, publish, contents, organization):
    name = f"{organization}/pixels"
    hub.fault("lost", method="POST", path=".*/commit/main")
    finished = publish(name)
    assert finished.status == 0, finished.text
    assert len(hub.requests("POST", "/commit/")) == 1
    assert hub.repository(name)["head"] in finished.text
    assert_whole(hub, name, contents)


def test_a_commit_that_another_came_before_is_planned_anew(hub, publish, contents, organization):
    name = f"{organization}/pixels"
    hub.fault("error", method="POST", path=".*/commit/main", status=412)
    assert publish(name).status == 0
    assert [one["status"] for one in hub.requests("POST", "/commit/")] == [412, 200]
    assert_whole(hub, name, contents)


STALE = """
from pathlib import Path
from huggingface_hub import HfApi
from hub.repository import _commit, plan_publication
api, name, folder = HfApi(), {name!r}, Path({folder!r})
api.create_repo(name)
plan = plan_publication(api, name, folder)
api.upload_file(path_or_fileobj=b"1", path_in_repo="NOTES", repo_id=name)
_commit(api, name, folder, plan, "late")
"""


def test_a_plan_that_is_out_of_date_is_not_committed(client, hub, contents, organization):
    name = f"{organization}/pixels"
    finished = client.python(STALE.format(name=name, folder=str(contents)))
    assert finished.status == 99 and "412" in finished.text
    assert hub.files(name).keys() == {".gitattributes", "NOTES"}


def test_a_commit_that_never_succeeds_leaves_the_repository_as_it_was(hub, publish, contents, organization):
    name = f"{organization}/pixels"
    hub.fault("error", method="POST", path=".*/commit/main", times=-1)
    finished = publish(name)
    assert finished.status == 1 and "Traceback" not in finished.text
    assert (
        finished.text.strip()
        .splitlines()[-1]
        .startswith(f"error: the commit to {name} failed: the Hub answered 500")
    )
    assert hub.titles(name) == ["initial commit"]


def test_a_card_with_invalid_metadata_is_refused_before_anything_is_uploaded(
    hub, publish, contents, organization, tmp_path
):
    shutil.copytree(contents, tmp_path / "contents")
    card = tmp_path / "contents" / "README.md"
    card.write_text(card.read_text().replace("license_name: training-data-terms\n", ""))
    finished = publish(f"{organization}/pixels", tmp_path / "contents")
    assert finished.status == 1 and "license_name is required" in finished.text
    assert hub.titles(f"{organization}/pixels") == ["initial commit"] and not hub.requests("PUT")
