"""A client process that has imported everything and forks for each call: what takes seconds is done once.

The functions are client functions as of ``clients``. Each call runs in a process of its own, which a test may kill.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import clients

_LOOP = """
import os, sys, traceback
for line in sys.stdin:
    name, arguments, answer = json.loads(line)
    process = os.fork()
    if not process:
        try:
            result = {"value": globals()[name](*arguments)}
        except BaseException as error:
            result = {"error": [type(error).__name__, str(error)], "trace": traceback.format_exc()}
        with open(answer + ".part", "w") as file:
            json.dump(result, file)
        os.rename(answer + ".part", answer)
        os._exit(0)
    print(process, flush=True)
    os.waitpid(process, 0)
    print("ended", flush=True)
"""


class Call:
    """One call, in a process of its own.

    Attributes:
        process: its number.
    """

    def __init__(self, warm: WarmClient, process: int, answer: Path) -> None:
        """Remember where the answer will be."""
        self.process = process
        self._warm = warm
        self._answer = answer

    def kill(self) -> None:
        """Kill the process at once."""
        os.kill(self.process, signal.SIGKILL)
        self._warm.read_line()

    def has_answered(self) -> bool:
        """Return whether the call is over."""
        return self._answer.exists()

    def result(self) -> dict[str, Any]:
        """Wait, and return ``value``, or ``error`` (class and text) and ``trace``."""
        self._warm.read_line()
        return dict(json.loads(self._answer.read_text()))


class WarmClient:
    """The process that forks; a context manager. One call at a time; for several at once take several of these."""

    def __init__(
        self, environment: dict[str, str], directory: Path, preload: str, *functions: Callable[..., Any]
    ) -> None:
        """Start it.

        Args:
            environment: from ``HubServer.environment``.
            directory: an empty one, for answers.
            preload: import statements that are run once.
            functions: client functions that may be called.
        """
        sources = [inspect.getsource(function) for function in (clients.failure, *functions)]
        script = "\n".join(["from __future__ import annotations", "import json", preload, *sources, _LOOP])
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._count = 0
        self._errors = (directory / "stderr.txt").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)
        self._errors.close()

    def start(self, client: Callable[..., Any], *arguments: Any) -> Call:
        """Call a client function in a new process, and do not wait."""
        self._count += 1
        answer = self._directory / f"{self._count}.json"
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([client.__name__, arguments, str(answer)]) + "\n")
        self._process.stdin.flush()
        return Call(self, int(self.read_line()), answer)

    def run(self, client: Callable[..., Any], *arguments: Any) -> Any:
        """Call a client function and return what it returns.

        Raises:
            AssertionError: it raised an error.
        """
        result = self.start(client, *arguments).result()
        assert "value" in result, result["trace"]
        return result["value"]

    def read_line(self) -> str:
        """Return the next line that the process prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, (self._directory / "stderr.txt").read_text()[-3000:]
        return line
