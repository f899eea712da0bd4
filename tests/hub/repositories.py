"""Routes: repositories as a whole, their branches and their tags."""

from __future__ import annotations

from typing import Any

from .access import open_repository, require_writer
from .cards import read_metadata
from .messages import DATASET, HubError, Request, Response, route
from .store import Hub, Repository, now

GIT_ATTRIBUTES = b"".join(
    b"*.%b filter=lfs diff=lfs merge=lfs -text\n" % ending for ending in (b"arrow", b"parquet", b"bin", b"gz", b"png")
)


@route("POST", "/api/repos/create")
def create(hub: Hub, request: Request) -> Response:
    """Create a dataset repository with a first commit."""
    user = require_writer(hub, request)
    body = request.json()
    if body.get("type") != "dataset":
        raise HubError(400, "This test server has dataset repositories only")
    namespace = body.get("organization") or user.name
    if not user.owns(namespace):
        raise HubError(403, f'You have no right to create a dataset under the namespace "{namespace}"')
    repo_id = f"{namespace}/{body['name']}"
    reply = {"id": repo_id, "name": repo_id, "url": f"{hub.endpoint}/datasets/{repo_id}"}
    with hub.lock:
        if hub.repository(repo_id) is not None:
            raise HubError(409, "You already created this dataset repo", details=reply)
        repository = Repository(hub.directory / "repos" / repo_id)
        private = body.get("visibility") == "private"
        repository.update(private=private, gated=False, author=namespace, createdAt=now(), refs={}, discussions=[])
        files = {".gitattributes": repository.add_blob(GIT_ATTRIBUTES)}
        repository.add_commit("refs/heads/main", files, title="initial commit", author=user.name, parent=None)
    return Response.of(reply)


@route("DELETE", "/api/repos/delete")
def delete(hub: Hub, request: Request) -> Response:
    """Delete a dataset repository."""
    body = request.json()
    user = require_writer(hub, request)
    request.arguments = {"namespace": body.get("organization") or user.name, "name": body["name"]}
    with hub.lock:
        hub.delete(open_repository(hub, request, "write"))
    return Response.of({})


@route("PUT", rf"{DATASET}/settings")
def change_settings(hub: Hub, request: Request) -> Response:
    """Change who may see a repository."""
    body = request.json()
    with hub.lock:
        repository = open_repository(hub, request, "write")
        changes = {"gated": body["gated"]} if "gated" in body else {}
        if "visibility" in body:
            changes["private"] = body["visibility"] == "private"
        repository.update(**changes)
    return Response.of(changes)


@route("GET", rf"{DATASET}(/revision/(?P<revision>[^/]+))?")
def show(hub: Hub, request: Request) -> Response:
    """Describe a repository at a revision, with its files."""
    repository = open_repository(hub, request)
    record = repository.record
    commit = repository.commit(request.arguments["revision"] or "main")
    metadata = _metadata(repository, commit)
    tags = [f"{key}:{metadata[key]}" for key in ("license",) if isinstance(metadata.get(key), str)]
    siblings = [_sibling(path, entry, request.flag("blobs")) for path, entry in sorted(commit["files"].items())]
    return Response.of(
        {
            "_id": commit["id"][:24],
            "id": repository.repo_id,
            "author": record["author"],
            "sha": commit["id"],
            "lastModified": commit["date"],
            "createdAt": record["createdAt"],
            "private": record["private"],
            "gated": record["gated"],
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [*tags, *metadata.get("tags", [])],
            "cardData": metadata,
            "siblings": siblings,
        }
    )


def _metadata(repository: Repository, commit: dict[str, Any]) -> dict[str, Any]:
    card = commit["files"].get("README.md")
    return {} if card is None else read_metadata(repository.content(card).decode()) or {}


def _sibling(path: str, entry: dict[str, Any], with_blobs: bool) -> dict[str, Any]:
    if not with_blobs:
        return {"rfilename": path}
    sibling = {"rfilename": path, "size": entry["size"], "blobId": entry["oid"]}
    if "lfs" in entry:
        lfs = entry["lfs"]
        sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return sibling


@route("GET", rf"{DATASET}/refs")
def list_refs(hub: Hub, request: Request) -> Response:
    """List branches and tags, and pull requests where asked for."""
    refs = open_repository(hub, request).refs
    kinds = {"branches": "refs/heads/", "converts": "refs/convert/", "tags": "refs/tags/"}
    if request.flag("include_prs"):
        kinds["pullRequests"] = "refs/pr/"
    return Response.of({kind: _list_refs(refs, prefix) for kind, prefix in kinds.items()})


def _list_refs(refs: dict[str, str], prefix: str) -> list[dict[str, str]]:
    return [
        {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit}
        for ref, commit in refs.items()
        if ref.startswith(prefix)
    ]


@route("POST", rf"{DATASET}/tag/(?P<revision>[^/]+)")
def create_tag(hub: Hub, request: Request) -> Response:
    """Tag a revision."""
    ref = f"refs/tags/{request.json()['tag']}"
    _create_ref(hub, request, ref, request.arguments["revision"])
    return Response.of({})


@route("POST", rf"{DATASET}/branch/(?P<branch>[^/]+)")
def create_branch(hub: Hub, request: Request) -> Response:
    """Start a branch."""
    _create_ref(hub, request, f"refs/heads/{request.arguments['branch']}", request.json().get("startingPoint", "main"))
    return Response.of({})


def _create_ref(hub: Hub, request: Request, ref: str, revision: str) -> None:
    with hub.lock:
        repository = open_repository(hub, request, "write")
        if ref in repository.refs:
            raise HubError(409, f"Reference already exists: {ref}")
        repository.set_ref(ref, repository.commit(revision)["id"])


@route("DELETE", rf"{DATASET}/(?P<kind>tag|branch)/(?P<ref>[^/]+)")
def delete_ref(hub: Hub, request: Request) -> Response:
    """Delete a tag or a branch other than ``main``."""
    folder = {"tag": "refs/tags", "branch": "refs/heads"}[request.arguments["kind"]]
    ref = f"{folder}/{request.arguments['ref']}"
    with hub.lock:
        repository = open_repository(hub, request, "write")
        if ref not in repository.refs:
            raise HubError(404, f"Reference not found: {ref}", "RevisionNotFound")
        if ref == "refs/heads/main":
            raise HubError(403, "The branch main cannot be deleted")
        repository.set_ref(ref, None)
    return Response.of({})
