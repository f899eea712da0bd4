"""Client processes: functions of a test that run as a user of the Hub would run them.

huggingface_hub and datasets read their settings at import, so each client is a new process. What it runs is the source
of a function, which imports what it needs, takes arguments that their ``repr`` makes again and returns JSON data.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any


def failure(call: Callable[..., Any], *args: Any, **options: Any) -> list[Any]:
    """Return the class, the status and the text of the error that a call raises; client functions may use it too."""
    try:
        call(*args, **options)
    except Exception as error:
        return [type(error).__name__, getattr(getattr(error, "response", None), "status_code", None), str(error)]
    return ["no error", None, ""]


def start(environment: dict[str, str], client: Callable[..., Any], *args: Any) -> subprocess.Popen[str]:
    """Start a process that calls ``client``; ``finish`` must follow.

    Args:
        environment: of the process, from ``HubServer.environment``.
        client: a function at the top level of a test module.
        args: its arguments.
    """
    functions = "\n".join(inspect.getsource(function) for function in (failure, client))
    call = f"print(json.dumps({client.__name__}(*{args!r})))"
    script = f"from __future__ import annotations\nimport json\n{functions}\n{call}"
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script], stdout=pipe, stderr=pipe, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> Any:
    """Return what the client function returned.

    Raises:
        AssertionError: it raised an error.
    """
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


def run(environment: dict[str, str], client: Callable[..., Any], *args: Any) -> Any:
    """Call ``client`` in a new process and return what it returns."""
    return finish(start(environment, client, *args))
