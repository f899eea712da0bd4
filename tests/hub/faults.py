"""Faults that a test switches on: wrong answers, cut connections, delays."""

from __future__ import annotations

import re
import threading
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Fault:
    """What goes wrong, where, and how often.

    Attributes:
        route: regular expression, searched for in the unquoted path with its query.
        method: HTTP method, or None for every one.
        skip: number of matching requests that pass before the first fault.
        times: number of matching requests that fail after these; -1 for all.
        status: answer with this status and do nothing else.
        message: text of that answer.
        code: ``X-Error-Code`` of that answer.
        headers: further headers of that answer, for instance ``Retry-After``.
        drop_request_after: cut the connection when this many bytes of the body, or all, have come; do nothing.
        drop_response_after: do what is asked, then cut the connection after this many bytes of the reply's body.
        drop_reply: do what is asked, then cut the connection before the reply.
        delay: seconds to wait first; less where the faults are cleared meanwhile.
    """

    route: str
    method: str | None = None
    skip: int = 0
    times: int = 1
    status: int | None = None
    message: str = "This test server was told to fail."
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop_request_after: int | None = None
    drop_response_after: int | None = None
    drop_reply: bool = False
    delay: float = 0.0

    def matches(self, method: str, target: str) -> bool:
        """Return whether a request is one that this fault is for."""
        return self.method in (None, method) and re.search(self.route, target) is not None


class Faults:
    """The faults that are switched on; the first that matches is taken. A restart clears them."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._cleared = threading.Event()

    def add(self, fault: Fault) -> None:
        """Switch a fault on."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Switch all faults off and end the delays that are running."""
        with self._lock:
            self._faults.clear()
            self._cleared.set()
            self._cleared = threading.Event()

    def left(self) -> list[dict[str, Any]]:
        """Return the faults that are still to come."""
        with self._lock:
            return [asdict(fault) for fault in self._faults]

    def take(self, method: str, target: str) -> Fault | None:
        """Return the fault for a request, counted, after its delay; None where there is none."""
        with self._lock:
            fault = self._next(method, target)
            cleared = self._cleared
        if fault is not None and fault.delay:
            cleared.wait(fault.delay)
        return fault

    def _next(self, method: str, target: str) -> Fault | None:
        for fault in self._faults:
            if fault.matches(method, target):
                if fault.skip:
                    fault.skip -= 1
                    return None
                fault.times -= 1
                if fault.times == 0:
                    self._faults.remove(fault)
                return fault
        return None
