"""Requests, responses and errors, apart from how they travel."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qs, unquote

if TYPE_CHECKING:
    from .store import Hub

BLOCK_BYTES = 1 << 16
DATASET = r"/api/datasets/(?P<namespace>[^/]+)/(?P<name>[^/]+)"


class HubError(Exception):
    """A reply that is not a success: status, message and, where the client looks for one, an ``X-Error-Code``."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: dict[str, str] | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}
        self.details = details or {}

    def response(self) -> Response:
        """Return the reply that the client turns into its own exception class."""
        headers = {"X-Error-Message": str(self), **self.headers}
        if self.code is not None:
            headers["X-Error-Code"] = self.code
        return Response.of({"error": str(self), **self.details}, self.status, headers)


class ConnectionDropped(Exception):
    """A fault cut the connection while a request was read."""


@dataclass
class Response:
    """A reply; ``body`` is left out, but its length told, where the request was a HEAD."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        """Return a JSON reply."""
        body = json.dumps(value, default=str).encode()
        return cls(body, status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


class Body:
    """The body of a request, sent with its length or in chunks, counted as it is read."""

    def __init__(self, stream: BinaryIO, headers: Message) -> None:
        self._stream = stream
        self._chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        self._left = int(headers.get("Content-Length") or 0)
        self._ended = False
        self.num_received = 0

    def blocks(self, limit: int | None = None) -> Iterator[bytes]:
        """Yield what is left of the body, or no more of it than makes ``limit`` bytes in all."""
        while limit is None or self.num_received < limit:
            wanted = BLOCK_BYTES if limit is None else min(BLOCK_BYTES, limit - self.num_received)
            block = self._next(wanted)
            if not block:
                return
            self.num_received += len(block)
            yield block

    def _next(self, wanted: int) -> bytes:
        if self._chunked and not self._left and not self._ended:
            self._left = int(self._stream.readline().split(b";")[0] or b"0", 16)
            self._ended = self._left == 0
            if self._ended:
                self._stream.readline()
        block = self._stream.read(min(wanted, self._left))
        if self._left and not block:
            raise ConnectionDropped  # the client went away
        self._left -= len(block)
        if self._chunked and block and not self._left:
            self._stream.readline()
        return block


@dataclass
class Request:
    """A request as the routes see it.

    Attributes:
        path: still quoted, without the query.
        arguments: the named groups of the route, unquoted.
    """

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: Body
    arguments: dict[str, str] = field(default_factory=dict)

    @property
    def repo_id(self) -> str:
        """The repository that the path names."""
        return f"{self.arguments['namespace']}/{self.arguments['name']}"

    def flag(self, name: str) -> bool:
        """Return whether the query sets ``name``."""
        return self.query.get(name, ["0"])[-1].lower() in ("1", "true")

    def read(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.body.blocks())

    def json(self) -> Any:
        """Return the body as JSON; an empty one, and ``null``, as an empty object."""
        return json.loads(self.read() or b"null") or {}

    def form(self) -> dict[str, list[str]]:
        """Return the fields of a form."""
        return parse_qs(self.read().decode())


Route = Callable[["Hub", Request], Response]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []


def route(method: str, pattern: str) -> Callable[[Route], Route]:
    """Register a function for a method and for the whole of a quoted path.

    Args:
        method: one or more, parted by a space.
        pattern: a regular expression; its named groups become ``Request.arguments``.
    """

    def register(function: Route) -> Route:
        ROUTES.extend((one, re.compile(pattern), function) for one in method.split())
        return function

    return register


def find_route(request: Request) -> Route:
    """Return the function for a request and set its arguments.

    Raises:
        HubError: 404, there is none.
    """
    for method, pattern, function in ROUTES:
        match = pattern.fullmatch(request.path)
        if match and method == request.method:
            request.arguments = {name: unquote(value or "") for name, value in match.groupdict().items()}
            return function
    raise HubError(404, f"This test server has no route for {request.method} {request.path}.")
