"""HTTP: from sockets to routes and back, with faults and the request log in between."""

from __future__ import annotations

import sys
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import parse_qs, unquote, urlsplit

from . import access, cards, commits, contents, control, large_files, pulls, repositories, xet  # noqa: F401 (routes)
from .faults import Fault
from .messages import Body, ConnectionDropped, HubError, Request, Response, find_route
from .store import Hub


class Server(ThreadingHTTPServer):
    """A thread per connection."""

    daemon_threads = True
    request_queue_size = 128
    hub: Hub

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away."""
        if not isinstance(sys.exception(), ConnectionError):
            traceback.print_exc()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else headers and body go out apart, and the body waits for an acknowledgement
    wbufsize = -1
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: there is a log of our own."""

    def handle_one(self) -> None:
        """Answer one request."""
        target = urlsplit(self.path)
        query = parse_qs(target.query, keep_blank_values=True)
        request = Request(
            self.command, target.path, query, self.headers, Body(cast(BinaryIO, self.rfile), self.headers)
        )
        if target.path.startswith(f"{control.CONTROL}/"):
            self._send(request, self._answer(request))
            return
        fault = self.server.hub.faults.take(self.command, unquote(self.path))
        try:
            response = self._answer_with(request, fault)
            if fault is not None and fault.drop_reply:
                self._drop(request, response.status)
            else:
                self._send(request, response, fault)
        except ConnectionDropped:
            self._drop(request, 0)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one

    def _answer_with(self, request: Request, fault: Fault | None) -> Response:
        if fault is not None and fault.drop_request_after is not None:
            for _ in request.body.blocks(fault.drop_request_after):
                pass
            raise ConnectionDropped
        if fault is not None and fault.status is not None:
            return HubError(fault.status, fault.message, fault.code, fault.headers).response()
        return self._answer(request)

    def _answer(self, request: Request) -> Response:
        try:
            return find_route(request)(self.server.hub, request)
        except HubError as error:
            return error.response()
        except ConnectionDropped:
            raise
        except Exception:
            traceback.print_exc()  # a fault of this server, not of the client
            return HubError(500, "This test server failed; see its stderr").response()

    def _send(self, request: Request, response: Response, fault: Fault | None = None) -> None:
        for _ in request.body.blocks():  # what a refused request still has to say would be taken for the next one
            pass
        cut = None if fault is None else fault.drop_response_after
        body = b"" if self.command == "HEAD" else response.body[:cut]
        # Logged first: who has the reply finds it in the log.
        self._log(request, response.status, dropped=cut is not None, num_sent=len(body))
        self.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        if cut is not None:
            self.close_connection = True

    def _drop(self, request: Request, status: int) -> None:
        self._log(request, status, dropped=True)
        self.close_connection = True

    def _log(self, request: Request, status: int, *, dropped: bool, num_sent: int = 0) -> None:
        if request.path.startswith(f"{control.CONTROL}/"):
            return
        entry = {"method": self.command, "path": unquote(self.path), "status": status, "dropped": dropped}
        self.server.hub.log({**entry, "received": request.body.num_received, "sent": num_sent})


def bind(directory: Path, port: int) -> Server:
    """Return a server with its state in ``directory``, bound to 127.0.0.1 and a port (0: any free one)."""
    server = Server(("127.0.0.1", port), Handler)
    port = server.server_port
    server.hub = Hub(directory, f"http://127.0.0.1:{port}", f"http://localhost:{port}")
    return server
