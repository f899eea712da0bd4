"""Routes below ``/_control``, for tests only: faults, the request log, the state, settings. No token is asked for."""

from __future__ import annotations

from typing import Any

from .faults import Fault
from .messages import Request, Response, route
from .store import Hub, Repository
from .xet import uploaded_bytes

CONTROL = "/_control"


@route("POST", f"{CONTROL}/faults")
def add_fault(hub: Hub, request: Request) -> Response:
    """Switch on a fault: the fields of ``Fault``."""
    hub.faults.add(Fault(**request.json()))
    return Response.of({})


@route("GET", f"{CONTROL}/faults")
def list_faults(hub: Hub, request: Request) -> Response:
    """List the faults still to come."""
    return Response.of(hub.faults.left())


@route("DELETE", f"{CONTROL}/faults")
def clear_faults(hub: Hub, request: Request) -> Response:
    """Switch all faults off."""
    hub.faults.clear()
    return Response.of({})


@route("GET", f"{CONTROL}/log")
def read_log(hub: Hub, request: Request) -> Response:
    """Give all requests so far."""
    return Response.of(hub.read_log())


@route("PUT", f"{CONTROL}/settings")
def change_settings(hub: Hub, request: Request) -> Response:
    """Change settings."""
    hub.change_settings(request.json())
    return Response.of(hub.settings)


@route("GET", f"{CONTROL}/state")
def show_state(hub: Hub, request: Request) -> Response:
    """Give every repository with the commits of every ref, newest first, all of one moment."""
    with hub.lock:
        return Response.of({one.repo_id: _show_repository(one) for one in hub.repositories()})


def _show_repository(repository: Repository) -> dict[str, Any]:
    record = repository.record
    return {
        "private": record["private"],
        "xet_uploaded_bytes": uploaded_bytes(repository),
        "refs": {ref: [_show_commit(one) for one in repository.history(ref)] for ref in record["refs"]},
    }


def _show_commit(commit: dict[str, Any]) -> dict[str, Any]:
    files = {path: entry.get("lfs", entry)["oid"] for path, entry in commit["files"].items()}
    return {"id": commit["id"], "title": commit["title"], "message": commit["message"], "files": files}
