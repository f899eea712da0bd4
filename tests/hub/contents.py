"""Routes: what a revision holds, and the files themselves."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from .access import open_repository
from .messages import DATASET, HubError, Request, Response, route
from .store import Files, Hub, Repository, git_sha1
from .xet import xet_hash, xet_headers

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@route("GET", rf"{DATASET}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?")
def list_tree(hub: Hub, request: Request) -> Response:
    """List a folder, or all below it."""
    repository = open_repository(hub, request)
    commit = repository.commit(request.arguments["revision"])
    folder = request.arguments["path"].strip("/")
    inside = f"{folder}/" if folder else ""
    items = {item["path"]: item for item in _items(repository, commit["files"]) if item["path"].startswith(inside)}
    if folder and not items:
        raise HubError(404, f"{folder} does not exist on {commit['id']}", "EntryNotFound", _commit_header(commit))
    if not request.flag("recursive"):
        items = {path: item for path, item in items.items() if "/" not in path.removeprefix(inside)}
    return Response.of(_expand(repository, commit, list(items.values()), request.flag("expand")))


@route("POST", rf"{DATASET}/paths-info/(?P<revision>[^/]+)")
def show_paths(hub: Hub, request: Request) -> Response:
    """Describe some paths; those that do not exist are left out."""
    repository = open_repository(hub, request)
    form = request.form()
    commit = repository.commit(request.arguments["revision"])
    items = {item["path"]: item for item in _items(repository, commit["files"])}
    found = [items[path] for path in form.get("paths", []) if path in items]
    return Response.of(_expand(repository, commit, found, form.get("expand", ["false"])[-1] == "true"))


def _items(repository: Repository, files: Files) -> Iterator[dict[str, Any]]:
    """Yield every file and every folder of a commit."""
    folders: dict[str, list[str]] = {}
    for path, entry in sorted(files.items()):
        digest = xet_hash(repository, entry)
        yield {"type": "file", "path": path, **entry, **({"xetHash": digest} if digest else {})}
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folders.setdefault("/".join(parts[:depth]), []).append(f"{path} {entry['oid']}")
    for path, lines in folders.items():
        yield {"type": "directory", "path": path, "oid": git_sha1("\n".join(lines).encode()), "size": 0}


def _expand(
    repository: Repository, commit: dict[str, Any], items: list[dict[str, Any]], expand: bool
) -> list[dict[str, Any]]:
    """Add to each item the commit that changed it last, where asked for."""
    if not expand:
        return items
    states = [
        (one, {item["path"]: item["oid"] for item in _items(repository, one["files"])})
        for one in repository.history(commit["id"])
    ]
    for item in items:
        last = next(
            (one for (one, _), (_, before) in itertools.pairwise(states) if before.get(item["path"]) != item["oid"]),
            states[-1][0],
        )
        item["lastCommit"] = {"id": last["id"], "title": last["title"], "date": last["date"]}
    return items


def _commit_header(commit: dict[str, Any]) -> dict[str, str]:
    return {"X-Repo-Commit": commit["id"]}


@route("GET HEAD", r"/datasets/(?P<namespace>[^/]+)/(?P<name>[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(hub: Hub, request: Request) -> Response:
    """Give a regular file, or say where the content of a large one is.

    The client takes a redirect for one within the Hub unless the host name is another; so ``storage`` has another.
    """
    repository = open_repository(hub, request)
    commit = repository.commit(request.arguments["revision"])
    headers = _commit_header(commit)
    entry = commit["files"].get(request.arguments["path"])
    if entry is None:
        raise HubError(404, "Entry not found", "EntryNotFound", headers)
    if "lfs" not in entry:
        return send(request, repository.content(entry), {**headers, "ETag": f'"{entry["oid"]}"'})
    sha256 = entry["lfs"]["oid"]
    headers |= {
        "X-Linked-ETag": f'"{sha256}"',
        "X-Linked-Size": str(entry["size"]),
        "ETag": f'"{sha256}"',
        "Location": f"{hub.storage}/_storage/{repository.repo_id}/{sha256}",
        **xet_headers(hub, repository, entry, commit["id"]),
    }
    return Response(status=302, headers=headers)


def send(request: Request, data: bytes, headers: dict[str, str]) -> Response:
    """Return bytes, or the one range of them that was asked for.

    Raises:
        HubError: 416, the range begins behind the end.
    """
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if match is None or match.groups() == ("", ""):
        return Response(data, 200, headers)
    first, last = match.groups()
    start = int(first) if first else max(0, len(data) - int(last))
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= len(data):
        raise HubError(416, "Requested range not satisfiable", None, {"Content-Range": f"bytes */{len(data)}"})
    return Response(data[start:stop], 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})
