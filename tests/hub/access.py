"""Who may do what: tokens, users and the checks in front of every repository."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .messages import DATASET, HubError, Request, Response, route
from .store import Hub, Repository

Need = Literal["read", "propose", "write"]
"""What a request wants: to read, to open a pull request (or fill one), to change a branch or the repository."""


@dataclass(frozen=True)
class User:
    """A user as one token shows them.

    Attributes:
        role: ``"write"`` or ``"read"``, a property of the token.
    """

    name: str
    role: str
    organisations: tuple[str, ...]

    def owns(self, namespace: str) -> bool:
        """Return whether a namespace is this user's or one of their organisations'."""
        return namespace == self.name or namespace in self.organisations


def find_user(hub: Hub, request: Request) -> User | None:
    """Return the user of a request, None where it has no token.

    Raises:
        HubError: 401, the token is not known.
    """
    header = request.headers.get("Authorization")
    if header is None:
        return None
    record = hub.tokens.get(header.removeprefix("Bearer "))
    if record is None:
        raise HubError(401, "Invalid credentials in Authorization header")
    return User(record["name"], record["role"], tuple(record["orgs"]))


def require_writer(hub: Hub, request: Request) -> User:
    """Return the user of a request that changes something.

    Raises:
        HubError: 401, there is no token; 403, it is for reading only.
    """
    user = find_user(hub, request)
    if user is None:
        # The client takes a 401 for a missing repository, over plain http only where it is told so.
        raise HubError(401, "Invalid username or password.", "RepoNotFound")
    if user.role != "write":
        raise HubError(403, "This token can only read: a token with write access is needed here")
    return user


def open_repository(hub: Hub, request: Request, need: Need = "read") -> Repository:
    """Return the repository that a request names, if its user may do what it needs.

    Raises:
        HubError: 401 or 404, it is not there or private; 401 or 403, the user may not change it.
    """
    user = find_user(hub, request)
    owns = user is not None and user.owns(request.arguments["namespace"])
    repository = hub.repository(request.repo_id)
    if repository is None or (repository.record["private"] and not owns):
        if user is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise HubError(404, "Repository not found", "RepoNotFound")
    if need != "read":
        require_writer(hub, request)
    if need == "write" and not owns:
        raise HubError(403, "Authorization error: this token has no write access to this repository")
    return repository


def need_for(request: Request, revision: str) -> Need:
    """Return what changing a revision needs: everyone may propose, owners may write."""
    return "propose" if request.flag("create_pr") or revision.startswith("refs/pr/") else "write"


@route("GET", "/api/whoami-v2")
def who_am_i(hub: Hub, request: Request) -> Response:
    """Tell a user their name, organisations and the token's role."""
    user = find_user(hub, request)
    if user is None:
        raise HubError(401, "Invalid username or password.")
    organisations = [{"type": "org", "name": name, "roleInOrg": "write"} for name in user.organisations]
    token = {"displayName": "test", "role": user.role}
    return Response.of(
        {
            "type": "user",
            "name": user.name,
            "orgs": organisations,
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


@route("GET", rf"{DATASET}/auth-check")
def check_read(hub: Hub, request: Request) -> Response:
    """Answer whether the user may read."""
    open_repository(hub, request)
    return Response.of({})


@route("GET", rf"{DATASET}/auth-check/write")
def check_write(hub: Hub, request: Request) -> Response:
    """Answer whether the user may write."""
    open_repository(hub, request, "write")
    return Response.of({})
