"""Routes: large files over plain LFS (batch, one or several PUTs, verify) and the storage they are read from."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from .access import need_for, open_repository
from .contents import send
from .messages import HubError, Request, Response, route
from .store import Hub, Repository, temporary_file
from .xet import fetch_from_xet

LFS = r"/datasets/(?P<namespace>[^/]+)/(?P<name>[^/]+?)\.git/info/lfs/objects"
STORED = r"/_storage/(?P<namespace>[^/]+)/(?P<name>[^/]+)/(?P<oid>[0-9a-f]{64})"


def find_large_file(repository: Repository, sha256: str) -> Path | None:
    """Return the content of a large file, taken over from a Xet upload where it came by one; None if it never came."""
    path = repository.large_file(sha256)
    return path if path.exists() or fetch_from_xet(repository, sha256) else None


@route("POST", rf"{LFS}/batch")
def batch(hub: Hub, request: Request) -> Response:
    """Tell where to put each object; one that is here already gets no action."""
    body = request.json()
    revision = body.get("ref", {}).get("name", "refs/pr/new")  # a new pull request has no ref yet
    repository = open_repository(hub, request, need_for(request, revision))
    parted = "multipart" in body["transfers"]
    objects = [_batch_one(hub, repository, one["oid"], one["size"], parted) for one in body["objects"]]
    transfers = {"multipart" if "header" in one.get("actions", {}).get("upload", {}) else "basic" for one in objects}
    return Response.of({"transfer": "multipart" if "multipart" in transfers else "basic", "objects": objects})


def _batch_one(hub: Hub, repository: Repository, oid: str, size: int, parted: bool) -> dict[str, Any]:
    if repository.large_file(oid).exists():
        return {"oid": oid, "size": size}
    href = f"{hub.storage}/_storage/{repository.repo_id}/{oid}"
    upload: dict[str, Any] = {"href": href}
    part_bytes = hub.settings["multipart_bytes"]
    if parted and size > part_bytes:
        num_parts = -(-size // part_bytes)
        parts = {f"{number:05d}": f"{href}/parts/{number}" for number in range(1, num_parts + 1)}
        upload = {"href": f"{href}/complete", "header": {"chunk_size": str(part_bytes), **parts}}
    verify = {"href": f"{hub.endpoint}/datasets/{repository.repo_id}.git/info/lfs/objects/verify"}
    return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}


@route("POST", rf"{LFS}/verify")
def verify(hub: Hub, request: Request) -> Response:
    """Confirm that an object arrived whole."""
    body = request.json()
    path = open_repository(hub, request, "propose").large_file(body["oid"])
    if not path.exists() or path.stat().st_size != body["size"]:
        raise HubError(404, f"Object {body['oid']} was not uploaded whole", "EntryNotFound")
    return Response.of({})


@route("PUT", STORED)
def put_whole(hub: Hub, request: Request) -> Response:
    """Store an object; nothing is kept of one that does not arrive whole."""
    _store(_repository(hub, request), request.arguments["oid"], _receive(hub, request))
    return Response()


@route("PUT", rf"{STORED}/parts/(?P<part>\d+)")
def put_part(hub: Hub, request: Request) -> Response:
    """Store one part of an object."""
    repository = _repository(hub, request)
    temporary = _receive(hub, request)
    path = _part(repository, request.arguments["oid"], int(request.arguments["part"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.replace(path)
    return Response(headers={"ETag": _part_tag(path)})


@route("POST", rf"{STORED}/complete")
def complete(hub: Hub, request: Request) -> Response:
    """Join the parts of an object."""
    repository = _repository(hub, request)
    oid = request.arguments["oid"]
    temporary = temporary_file(hub.directory / "incoming")
    with temporary.open("wb") as file:
        for part in request.json()["parts"]:
            path = _part(repository, oid, part["partNumber"])
            if not path.exists() or _part_tag(path) != part["etag"]:
                raise HubError(400, f"Part {part['partNumber']} of object {oid} is missing or was put again")
            file.write(path.read_bytes())
    _store(repository, oid, temporary)
    shutil.rmtree(_part(repository, oid, 1).parent)
    return Response.of({})


@route("GET HEAD", STORED)
def get_stored(hub: Hub, request: Request) -> Response:
    """Give the content of a large file, or a range of it; the address alone opens it, as a signed one would."""
    path = _repository(hub, request).large_file(request.arguments["oid"])
    if not path.exists():
        raise HubError(404, "No such object", "EntryNotFound")
    return send(request, path.read_bytes(), {"ETag": f'"{request.arguments["oid"]}"'})


def _repository(hub: Hub, request: Request) -> Repository:
    repository = hub.repository(request.repo_id)
    if repository is None:
        raise HubError(404, "Repository not found", "RepoNotFound")
    return repository


def _receive(hub: Hub, request: Request) -> Path:
    """Write the body of a request to a temporary file."""
    temporary = temporary_file(hub.directory / "incoming")
    try:
        with temporary.open("wb") as file:
            for block in request.body.blocks():
                file.write(block)
    except BaseException:
        temporary.unlink()
        raise
    return temporary


def _store(repository: Repository, oid: str, temporary: Path) -> None:
    """Move a file that came in to its place, if it is what its name says."""
    with temporary.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != oid:
        temporary.unlink()
        raise HubError(400, f"Expected an object with SHA-256 {oid}, got {found}")
    repository.large_file(oid).parent.mkdir(exist_ok=True)
    temporary.replace(repository.large_file(oid))


def _part(repository: Repository, oid: str, number: int) -> Path:
    return repository.directory / "parts" / oid / f"{number:05d}"


def _part_tag(path: Path) -> str:
    return f'"{hashlib.md5(path.read_bytes()).hexdigest()}"'
