"""Routes: discussions and pull requests."""

from __future__ import annotations

import secrets
from typing import Any

from .access import User, find_user, open_repository
from .messages import DATASET, HubError, Request, Response, route
from .store import Files, Hub, Repository, now

DISCUSSION = rf"{DATASET}/discussions/(?P<number>\d+)"


def _event(kind: str, author: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"id": secrets.token_hex(12), "type": kind, "createdAt": now(), "author": {"name": author}, "data": data}


def _comment(author: str, text: str) -> dict[str, Any]:
    return _event("comment", author, {"edited": False, "hidden": False, "latest": {"raw": text}})


def new_discussion(
    repository: Repository, title: str, text: str, author: str, *, base: str | None, status: str
) -> dict[str, Any]:
    """Add a discussion and return it.

    Where ``base`` names a branch by its full ref, it is a pull request, whose own ref starts at that branch.
    """
    discussions = repository.record["discussions"]
    discussion = {
        "num": len(discussions) + 1,
        "title": title,
        "status": status,
        "author": {"name": author},
        "createdAt": now(),
        "repo": {"name": repository.repo_id, "type": "dataset"},
        "isPullRequest": base is not None,
        "events": [_comment(author, text)],
    }
    if base is not None:
        start = repository.refs[base]
        discussion |= {"changes": {"base": base}, "filesWithConflicts": [], "start": start, "diff": ""}
        repository.set_ref(f"refs/pr/{discussion['num']}", start)
    repository.update(discussions=[*discussions, discussion])
    return discussion


def _find(repository: Repository, number: int) -> dict[str, Any]:
    discussions = repository.record["discussions"]
    if not 0 < number <= len(discussions):
        raise HubError(404, f"No discussion {number}")
    discussion: dict[str, Any] = discussions[number - 1]
    return discussion


def _replace(repository: Repository, discussion: dict[str, Any]) -> None:
    discussions = repository.record["discussions"]
    discussions[discussion["num"] - 1] = discussion
    repository.update(discussions=discussions)


def check_proposer(repository: Repository, number: int, user: User) -> dict[str, Any]:
    """Return a discussion that a user may add to or close.

    Raises:
        HubError: 403, it is someone else's, or closed.
    """
    discussion = _find(repository, number)
    if discussion["author"]["name"] != user.name and not user.owns(repository.repo_id.split("/")[0]):
        raise HubError(403, "Authorization error: this pull request belongs to another user")
    if discussion["status"] not in ("open", "draft"):
        raise HubError(403, f"This pull request is {discussion['status']}")
    return discussion


def note_commit(repository: Repository, discussion: dict[str, Any], subject: str, commit: str, user: User) -> None:
    """Add an event for a commit to a pull request."""
    discussion["events"].append(_event("commit", user.name, {"subject": subject, "oid": commit}))
    _replace(repository, discussion)


@route("POST", rf"{DATASET}/discussions")
def create(hub: Hub, request: Request) -> Response:
    """Open a discussion, or a pull request (a draft) against ``main``."""
    body = request.json()
    with hub.lock:
        repository = open_repository(hub, request, "propose")
        user = find_user(hub, request)
        assert user is not None  # open_repository refuses changes without a user
        base, status = ("refs/heads/main", "draft") if body.get("pullRequest") else (None, "open")
        return Response.of(
            new_discussion(repository, body["title"], body["description"], user.name, base=base, status=status)
        )


@route("GET", rf"{DATASET}/discussions")
def list_all(hub: Hub, request: Request) -> Response:
    """List discussions, all on one page, filtered by type, status and author."""
    found = open_repository(hub, request).record["discussions"]
    wanted = {name: values[-1] for name, values in request.query.items()}
    if wanted.get("type", "all") != "all":
        found = [one for one in found if one["isPullRequest"] == (wanted["type"] == "pull_request")]
    if wanted.get("status", "all") != "all":
        found = [one for one in found if (one["status"] in ("open", "draft")) == (wanted["status"] == "open")]
    if "author" in wanted:
        found = [one for one in found if one["author"]["name"] == wanted["author"]]
    return Response.of({"discussions": found, "count": len(found), "start": 0})


@route("GET", DISCUSSION)
def show(hub: Hub, request: Request) -> Response:
    """Show one discussion with its events."""
    return Response.of(_find(open_repository(hub, request), int(request.arguments["number"])))


@route("POST", rf"{DISCUSSION}/status")
def change_status(hub: Hub, request: Request) -> Response:
    """Open a draft, or close a discussion."""
    body = request.json()
    with hub.lock:
        repository = open_repository(hub, request, "propose")
        user = find_user(hub, request)
        assert user is not None  # open_repository refuses changes without a user
        discussion = check_proposer(repository, int(request.arguments["number"]), user)
        discussion["status"] = body["status"]
        event = _event("status-change", user.name, {"status": body["status"]})
        discussion["events"].append(event)
        _replace(repository, discussion)
    return Response.of({"newStatus": event})


@route("POST", rf"{DISCUSSION}/merge")
def merge(hub: Hub, request: Request) -> Response:
    """Put what a pull request changed on top of its base branch, in one commit."""
    with hub.lock:
        repository = open_repository(hub, request, "write")
        discussion = _find(repository, int(request.arguments["number"]))
        if not discussion["isPullRequest"] or discussion["status"] not in ("open", "draft"):
            raise HubError(400, f"Discussion {discussion['num']} is no open pull request")
        user = find_user(hub, request)
        assert user is not None  # open_repository refuses changes without a user
        base = discussion["changes"]["base"]
        merged, conflicts = _merge_files(repository, discussion["start"], f"refs/pr/{discussion['num']}", base)
        if conflicts:
            _replace(repository, {**discussion, "filesWithConflicts": conflicts})
            raise HubError(409, f"The pull request conflicts with its base branch in {', '.join(conflicts)}")
        title = f"{discussion['title']} (#{discussion['num']})"
        commit = repository.add_commit(base, merged, title=title, author=user.name, parent=repository.refs[base])
        discussion["changes"]["mergeCommitId"] = commit
        discussion["events"].append(_event("status-change", user.name, {"status": "merged"}))
        _replace(repository, {**discussion, "status": "merged"})
    return Response.of({"mergeCommitId": commit})


def _merge_files(repository: Repository, start: str, theirs: str, ours: str) -> tuple[Files, list[str]]:
    """Return the files of ``ours`` with all that changed from ``start`` to ``theirs``, and the paths both changed."""
    before, changed, merged = (repository.commit(revision)["files"] for revision in (start, theirs, ours))
    conflicts = []
    for path in sorted({*before, *changed}):
        old, new, current = before.get(path), changed.get(path), merged.get(path)
        if new in (old, current):
            continue
        if current != old:
            conflicts.append(path)
        elif new is None:
            del merged[path]
        else:
            merged[path] = new
    return merged, conflicts
