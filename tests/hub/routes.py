"""The routes of the test Hub: what each request of the client is answered."""

import base64
import hashlib
import json
import math
from typing import Any

from tests.hub.protocol import Answer, Handler
from tests.hub.store import File, Refusal, Repository, card_metadata, is_large

_POINTER_SIZE = 134
_LARGEST_NUMBER_OF_PARTS = 8  # of an upload
_NAME = r"(?P<name>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"


def who_am_i(request: Handler, body: bytes) -> Answer:
    request.need_token()
    return Answer({"type": "user", "name": "tester", "auth": {"type": "access_token"}})


def create_repository(request: Handler, body: bytes) -> Answer:
    request.need_token()
    wanted = json.loads(body)
    name = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
    private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    content = {"url": f"{request.server.address}/{name}", "name": name}
    try:
        request.server.store.create(name, private)
    except Refusal as refusal:  # the client wants to know where it is
        return Answer({**content, "error": refusal.message}, refusal.status)
    return Answer(content)


def validate_yaml(request: Handler, body: bytes) -> Answer:
    metadata = card_metadata(json.loads(body)["content"])
    errors = []
    if metadata.get("license") == "other" and not metadata.get("license_name"):
        errors.append({"message": "license_name is required where license is other"})
    if not isinstance(metadata.get("tags", []), list):
        errors.append({"message": "tags must be a list"})
    warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
    return Answer({"errors": errors, "warnings": warnings}, 400 if errors else 200)


def list_models(request: Handler, body: bytes) -> Answer:
    store, wanted = request.server.store, set(request.query.get("filter", []))
    author = request.query.get("author", [""])[0]
    found = [
        repository
        for repository in store.repositories.values()
        if (request.authenticated or not repository.private)
        and (not author or repository.name.split("/")[0] == author)
        and wanted <= set(store.tags(repository))
    ]
    return Answer([_describe(request, repository, "main") for repository in found])


def model_info(request: Handler, body: bytes, name: str, revision: str = "main") -> Answer:
    return Answer(_describe(request, request.readable(name), revision))


def list_tree(request: Handler, body: bytes, name: str, revision: str) -> Answer:
    files = request.readable(name).commit(revision).files
    return Answer([_entry(path, file) for path, file in sorted(files.items())])


def preupload(request: Handler, body: bytes, name: str, revision: str) -> Answer:
    request.need_token()
    present = request.readable(name).commit(revision).files
    return Answer({"files": [_mode(file, present.get(file["path"])) for file in json.loads(body)["files"]]})


def lfs_batch(request: Handler, body: bytes, name: str) -> Answer:
    request.need_token()
    repository = request.readable(name)
    objects = [_upload_actions(request, repository, wanted) for wanted in json.loads(body)["objects"]]
    return Answer({"transfer": "basic", "objects": objects})


def lfs_upload(request: Handler, body: bytes, ticket: str, part: str = "") -> Answer:
    if ticket not in request.server.tickets:
        raise Refusal(403, "", "the signature of this upload is not known")
    path = request.server.store.root / "uploads" / f"{ticket}.{part or 1}"
    path.write_bytes(body)
    return Answer({}, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})


def lfs_complete(request: Handler, body: bytes, ticket: str) -> Answer:
    """Parts become one; their ETags must be the ones that were given."""
    uploads, parts = request.server.store.root / "uploads", json.loads(body)["parts"]
    contents = [(uploads / f"{ticket}.{part['partNumber']}").read_bytes() for part in parts]
    for part, content in zip(parts, contents, strict=True):
        if part["etag"].strip('"') != hashlib.md5(content).hexdigest():
            raise Refusal(400, "", f"part {part['partNumber']} has another ETag")
    (uploads / f"{ticket}.1").write_bytes(b"".join(contents))
    return Answer({})


def lfs_verify(request: Handler, body: bytes, ticket: str) -> Answer:
    """Uploaded content is kept only once it is what was announced."""
    request.need_token()
    wanted, store = json.loads(body), request.server.store
    upload = store.root / "uploads" / f"{ticket}.1"
    content = upload.read_bytes() if upload.is_file() else b""
    if hashlib.sha256(content).hexdigest() != wanted["oid"] or len(content) != wanted["size"]:
        raise Refusal(422, "", f"the uploaded content is not {wanted['oid']}")
    store.find(request.server.tickets[ticket]).uploaded.append(store.add_content(content, large=True))
    return Answer({})


def commit(request: Handler, body: bytes, name: str, revision: str) -> Answer:
    request.need_token()
    repository = request.readable(name)
    header, *operations = [json.loads(line) for line in body.splitlines()]
    made = request.server.store.commit(repository, header["value"], operations)
    url = f"{request.server.address}/{name}/commit/{made.oid}"
    return Answer({"success": True, "commitUrl": url, "commitOid": made.oid})


def resolve(request: Handler, body: bytes, name: str, revision: str, path: str) -> Answer:
    found = request.readable(name).commit(revision)
    if path not in found.files:
        raise Refusal(404, "EntryNotFound", f"Entry not found: {path}")
    file = found.files[path]
    headers = {"X-Repo-Commit": found.oid, "ETag": f'"{file.oid}"'}
    if file.large:
        headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(file.size)}
    return Answer(file=request.server.store.path(file.oid), headers=headers)


ROUTES = [
    ("GET", "/api/whoami-v2", who_am_i),
    ("POST", "/api/repos/create", create_repository),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("GET", "/api/models", list_models),
    ("GET", f"/api/models/{_NAME}", model_info),
    ("GET", f"/api/models/{_NAME}/revision/{_REVISION}", model_info),
    ("GET", f"/api/models/{_NAME}/tree/{_REVISION}", list_tree),
    ("POST", f"/api/models/{_NAME}/preupload/{_REVISION}", preupload),
    ("POST", f"/api/models/{_NAME}/commit/{_REVISION}", commit),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", r"/lfs/(?P<ticket>\w+)(/(?P<part>\d+))?", lfs_upload),
    ("POST", r"/lfs/(?P<ticket>\w+)/complete", lfs_complete),
    ("POST", r"/lfs/(?P<ticket>\w+)/verify", lfs_verify),
    ("GET|HEAD", f"/{_NAME}/resolve/{_REVISION}/(?P<path>.+)", resolve),
]


def _describe(request: Handler, repository: Repository, revision: str) -> dict[str, Any]:
    found = repository.commit(revision)
    return {
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.split("/")[0],
        "sha": found.oid,
        "private": repository.private,
        "tags": request.server.store.tags(repository),
        "siblings": [{"rfilename": path} for path in sorted(found.files)],
    }


def _entry(path: str, file: File) -> dict[str, Any]:
    if not file.large:
        return {"type": "file", "path": path, "size": file.size, "oid": file.oid}
    lfs = {"oid": file.oid, "size": file.size, "pointerSize": _POINTER_SIZE}
    return {"type": "file", "path": path, "size": file.size, "oid": file.oid[:40], "lfs": lfs}


def _mode(file: dict[str, Any], present: File | None) -> dict[str, Any]:
    large = is_large(file["path"], file["size"], base64.b64decode(file["sample"]))
    mode = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
    return {**mode, "oid": present.oid} if present else mode


def _upload_actions(request: Handler, repository: Repository, wanted: dict[str, Any]) -> dict[str, Any]:
    oid, size, server = wanted["oid"], wanted["size"], request.server
    if oid in repository.uploaded:
        return {"oid": oid, "size": size}
    ticket = request.give_ticket(repository.name, oid)
    address = f"{server.address}/lfs/{ticket}"
    verify = {"href": f"{address}/verify"}
    part_size = max(server.part_size, math.ceil(size / _LARGEST_NUMBER_OF_PARTS))
    if not server.part_size or size <= part_size:
        return {"oid": oid, "size": size, "actions": {"upload": {"href": address}, "verify": verify}}
    parts = {str(part): f"{address}/{part}" for part in range(1, math.ceil(size / part_size) + 1)}
    header = {"chunk_size": str(part_size), **parts}
    upload = {"href": f"{address}/complete", "header": header}
    return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}
