"""Routes: preupload, commit, the list of commits."""

from __future__ import annotations

import base64
import json
import re
from pathlib import PurePosixPath
from typing import Any

from .access import find_user, need_for, open_repository
from .cards import check_card
from .large_files import find_large_file
from .messages import DATASET, HubError, Request, Response, route
from .pulls import check_proposer, new_discussion, note_commit
from .store import Files, Hub, Repository, large_file_entry

LARGE_ENDINGS = re.compile(
    r"\.(7z|arrow|bin|bz2|gz|h5|jpe?g|mp3|np[yz]|onnx|parquet|pdf|pickle|pkl|png|pt|safetensors|tar|tgz|wav|webp|xz|zip|zst)",
    re.IGNORECASE,
)
LARGE_BYTES = 10_000_000


@route("POST", rf"{DATASET}/preupload/(?P<revision>[^/]+)")
def preupload(hub: Hub, request: Request) -> Response:
    """Tell for each file how it must be uploaded, and what its path holds now."""
    revision = request.arguments["revision"]
    files = open_repository(hub, request, need_for(request, revision)).commit(revision)["files"]
    return Response.of({"files": [_preupload_one(file, files) for file in request.json()["files"]]})


def _preupload_one(file: dict[str, Any], files: Files) -> dict[str, Any]:
    large = LARGE_ENDINGS.fullmatch(PurePosixPath(file["path"]).suffix) or file["size"] >= LARGE_BYTES
    answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
    entry = files.get(file["path"])
    if entry is not None:
        answer["oid"] = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
    return answer


@route("POST", rf"{DATASET}/commit/(?P<revision>[^/]+)")
def commit(hub: Hub, request: Request) -> Response:
    """Apply all operations of a commit to a branch or a pull request, or none of them."""
    revision = request.arguments["revision"]
    need = need_for(request, revision)
    lines = [json.loads(line) for line in request.read().splitlines() if line.strip()]
    header, operations = lines[0]["value"], lines[1:]
    with hub.lock:
        repository = open_repository(hub, request, need)
        parent = _check_parent(repository, revision, header.get("parentCommit"))
        files = dict(parent["files"])
        for operation in operations:
            _apply(hub, repository, files, operation["key"], operation["value"])
        reply = _add_commit(hub, request, repository, parent, files, header)
    return Response.of({"success": True, "hookOutput": "", **reply})


def _check_parent(repository: Repository, revision: str, expected: str | None) -> dict[str, Any]:
    """Return the newest commit of a branch or pull request, which must be the expected one if any is."""
    parent = repository.commit(revision)
    ref = repository.full_ref(revision)
    if ref is None or ref.startswith("refs/tags/"):
        raise HubError(400, f"Commits go to a branch or a pull request; {revision} is none")
    if expected is not None and not parent["id"].startswith(expected.lower()):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    return parent


def _apply(hub: Hub, repository: Repository, files: Files, kind: str, value: dict[str, Any]) -> None:
    """Apply one operation of a commit to a list of files."""
    path = value["path"]
    if kind == "file":
        data = base64.b64decode(value["content"])
        if path == "README.md":
            check_card(data.decode(), require_license=hub.require_license)
        files[path] = repository.add_blob(data)
    elif kind == "lfsFile":
        content = find_large_file(repository, value["oid"])
        if content is None or value.get("size") not in (None, content.stat().st_size):
            raise HubError(400, f"A large file's pointer pointed to content that was never uploaded: {path}")
        files[path] = large_file_entry(value["oid"], content.stat().st_size)
    elif kind in ("deletedFile", "deletedFolder"):
        _delete(files, path.rstrip("/"), folder=kind == "deletedFolder")
    else:
        raise HubError(400, f"Unknown operation in a commit: {kind}")


def _delete(files: Files, path: str, *, folder: bool) -> None:
    gone = [name for name in files if (name.startswith(f"{path}/") if folder else name == path)]
    if not gone:
        raise HubError(404, f"A {'folder' if folder else 'file'} with this name doesn't exist: {path}", "EntryNotFound")
    for name in gone:
        del files[name]


def _add_commit(
    hub: Hub, request: Request, repository: Repository, parent: dict[str, Any], files: Files, header: dict[str, Any]
) -> dict[str, str]:
    """Write the commit to its branch or pull request, or to a new pull request, and return the reply."""
    user = find_user(hub, request)
    ref = repository.full_ref(request.arguments["revision"])
    assert user is not None and ref is not None  # open_repository and _check_parent refuse these
    title, message, home = header["summary"], header["description"], f"{hub.endpoint}/datasets/{repository.repo_id}"
    discussion, reply = None, {}
    if request.flag("create_pr"):
        discussion = new_discussion(repository, title, message, user.name, base=ref, status="open")
        ref, reply = f"refs/pr/{discussion['num']}", {"pullRequestUrl": f"{home}/discussions/{discussion['num']}"}
    elif ref.startswith("refs/pr/"):
        discussion = check_proposer(repository, int(ref.removeprefix("refs/pr/")), user)
    commit_id = repository.add_commit(ref, files, title=title, message=message, author=user.name, parent=parent["id"])
    if discussion is not None:
        note_commit(repository, discussion, title, commit_id, user)
    return {"commitOid": commit_id, "commitUrl": f"{home}/commit/{commit_id}", **reply}


@route("GET", rf"{DATASET}/commits/(?P<revision>[^/]+)")
def list_commits(hub: Hub, request: Request) -> Response:
    """List the commits of a revision, newest first."""
    repository = open_repository(hub, request)
    return Response.of(
        [
            {
                "id": one["id"],
                "title": one["title"],
                "message": one["message"],
                "authors": [{"user": one["author"]}],
                "date": one["date"],
            }
            for one in repository.history(request.arguments["revision"])
        ]
    )
