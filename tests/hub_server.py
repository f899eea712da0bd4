"""A small Hugging Face Hub on loopback that the real clients talk to over HTTP, with nothing in them patched.

It is a test double: written from the source of huggingface_hub 2.4.0 and datasets 5.2.0 and from what made them work,
never compared with the live Hub. It knows dataset repositories only. Where it guesses (texts of errors, which metadata
is refused, who may do what to a pull request, how a merge looks) a passing test says nothing about the live Hub.

``HubServer`` runs it in a process of its own, its state in files, so that a test can stop, kill and restart it::

    with HubServer(tmp_path / "hub") as hub:
        environment = hub.environment(tmp_path / "home")     # for a client in a new process
        hub.add_fault(route="/commit/", status=500, times=2)

The clients read their settings once, at import, so each client is a process of its own with ``environment``. By hand:
``python -m tests.hub_server --state DIRECTORY --port 8000``. The server itself (``tests/hub``) needs the standard
library, PyYAML for cards and ``hf_xet`` for what is uploaded by Xet; the clients bring both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import urllib.request
from http.server import HTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

OWNER, READER, OTHER = "hf_owner", "hf_reader", "hf_other"
"""Tokens: user ``owner`` (organisation ``team``) with write access, the same user read-only, user ``other``."""

TOKENS = {
    OWNER: {"name": "owner", "role": "write", "orgs": ["team"]},
    READER: {"name": "owner", "role": "read", "orgs": ["team"]},
    OTHER: {"name": "other", "role": "write", "orgs": []},
}


class HubServer:
    """The server in a process of its own; a context manager.

    Attributes:
        endpoint: what clients need as ``HF_ENDPOINT``; a restart keeps it.
    """

    def __init__(self, directory: Path) -> None:
        """Keep the state in ``directory``, which is made if missing."""
        self.directory = directory.absolute()
        self.endpoint = ""
        self._process: subprocess.Popen[str] | None = None
        self.directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process, on the port it had before if it ran before."""
        port = self.endpoint.rsplit(":", 1)[-1] or "0"
        command = [sys.executable, __file__, "--state", str(self.directory), "--port", port, "--until-stdin-closes"]
        environment = {**_without_hub_settings(), "HF_HOME": str(self.directory / "home")}
        with (self.directory / "stderr.txt").open("a") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        assert self._process.stdout is not None  # asked for above
        self.endpoint = self._process.stdout.readline().strip()
        if not self.endpoint:
            self.stop()
            raise RuntimeError(f"The test Hub did not start: {(self.directory / 'stderr.txt').read_text()[-2000:]}")

    def stop(self, *, kill: bool = False) -> None:
        """End the process: as it is asked to, or at once as a crash would."""
        if self._process is None:
            return
        if kill:
            self._process.kill()
        assert self._process.stdin is not None and self._process.stdout is not None  # asked for in start
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=20)
        self._process = None

    def restart(self, *, kill: bool = False) -> None:
        """Stop and start again with the same state and endpoint; faults that were switched on are gone."""
        self.stop(kill=kill)
        self.start()

    def environment(self, home: Path, token: str | None = OWNER, *, xet: bool = False) -> dict[str, str]:
        """Return the environment of a client process.

        Args:
            home: the client's ``HF_HOME``, for its caches.
            token: the client's ``HF_TOKEN``; None for no token.
            xet: upload large files by Xet; by plain LFS otherwise.
        """
        environment = {
            **_without_hub_settings(),
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        if token is not None:
            environment["HF_TOKEN"] = token
        if not xet:
            environment["HF_HUB_DISABLE_XET"] = "1"
        return environment

    def add_fault(self, **fields: Any) -> None:
        """Switch on a fault; the arguments are the fields of ``hub.faults.Fault``."""
        self._control("POST", "faults", fields)

    def clear_faults(self) -> None:
        """Switch off all faults and end the delays that are running."""
        self._control("DELETE", "faults")

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults that have not been used up."""
        return list(self._control("GET", "faults"))

    def change_settings(self, **settings: Any) -> None:
        """Change settings: ``multipart_bytes`` (larger files go up in parts), ``require_license`` (of every card)."""
        self._control("PUT", "settings", settings)

    def log(self, method: str | None = None, route: str = "") -> list[dict[str, Any]]:
        """Return the requests so far, oldest first, but those of this class: all, or some.

        Each has ``method``, ``path`` (with the query), ``status`` (0: cut before there was one), ``received`` and
        ``sent`` (bytes of bodies), ``dropped`` and ``time``.

        Args:
            method: only requests with this method.
            route: only requests with this text in their path.
        """
        entries: list[dict[str, Any]] = self._control("GET", "log")
        return [one for one in entries if method in (None, one["method"]) and route in one["path"]]

    def state(self) -> dict[str, Any]:
        """Return every repository: ``{private, xet_uploaded_bytes, refs: {ref: commits, newest first}}``.

        A commit is ``{id, title, message, files: {path: SHA-256 of a large file, git SHA-1 of another}}``.
        """
        return dict(self._control("GET", "state"))

    def commits(self, repo_id: str, ref: str = "refs/heads/main") -> list[dict[str, Any]]:
        """Return the commits of a ref, newest first."""
        return list(self.state()[repo_id]["refs"][ref])

    def create_repository(self, repo_id: str, *, private: bool = False) -> None:
        """Make a dataset repository as its owner, without the cost of a client process."""
        namespace, name = repo_id.split("/")
        body = {"type": "dataset", "organization": namespace, "name": name}
        self._ask("POST", "api/repos/create", {**body, "visibility": "private" if private else "public"})

    def _control(self, method: str, name: str, body: Any = None) -> Any:
        return self._ask(method, f"_control/{name}", body)

    def _ask(self, method: str, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.endpoint}/{path}",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {OWNER}"},
            method=method,
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
        with opener.open(request, timeout=60) as response:
            return json.load(response)


def _without_hub_settings() -> dict[str, str]:
    """Return this process's environment without what it says about the Hub, and with nothing to reach beyond it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
    hosts = "127.0.0.1,localhost"
    return {
        **environment,
        "NO_PROXY": hosts,
        "no_proxy": hosts,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    }


def _shut_down_with_parent(server: HTTPServer) -> None:
    sys.stdin.read()
    server.shutdown()


def main() -> None:
    """Run the server in this process."""
    sys.path.insert(0, str(Path(__file__).parent))  # for `python -m tests.hub_server`, which has only the root on it
    from hub.server import bind

    parser = argparse.ArgumentParser(description="A small Hugging Face Hub on 127.0.0.1, for tests.")
    parser.add_argument("--state", type=Path, required=True, help="directory that the state is kept in")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started this one")
    arguments = parser.parse_args()
    arguments.state.mkdir(parents=True, exist_ok=True)
    (arguments.state / "tokens.json").write_text(json.dumps(TOKENS))
    with bind(arguments.state.absolute(), arguments.port) as server:
        sys.stdout.write(f"{server.hub.endpoint}\n")
        sys.stdout.flush()
        if arguments.until_stdin_closes:
            threading.Thread(target=_shut_down_with_parent, args=(server,), daemon=True).start()
        server.serve_forever(poll_interval=0.02)


if __name__ == "__main__":
    main()
