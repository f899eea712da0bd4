"""What a model is, remembered from the last time that it was loaded.

To tell a teacher's vectors from those of all others its model has to be loaded and read to the end, which takes seconds
and as much memory as the model. Where all vectors are in the store already, nothing else needs it. So the spec of a
teacher is kept under what its model was loaded from: a commit on the Hub, or the files of a folder by name, size and
times. The model is still checked against the spec before it encodes.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache

from hn_datasets.files import atomic_write, cache_directory
from hn_datasets.teachers.identity import commit_of
from hn_datasets.teachers.models import fast_precision
from hn_datasets.texts import digest_of

REMEMBERED_VERSION = 2
"""Raise it with any change of what a spec holds or how it is found out."""

LIBRARIES = ("torch", "transformers", "sentence-transformers", "tokenizers")
ADAPTER_FILE = "adapter_config.json"
"""Names a model elsewhere that the adapter belongs to, and that can change by itself."""

_COMMIT = re.compile(r"[0-9a-f]{40}")

YOUNGEST_SECONDS = 2.0
"""A file that was written less than this ago may be written once more at what the disk calls the same time."""

HUB_SECONDS = 10.0


class Memory:
    """Where the spec of a teacher is kept.

    Args:
        model: a name on the Hub, or a folder.
        revision: branch, tag or commit on the Hub.
        device: one or several that the model would be loaded on.
        arguments: of the teacher, everything else that decides its spec.
    """

    def __init__(self, model: str, revision: str | None, device: str | list[str] | None, arguments: list[Any]) -> None:
        self._model, self._revision = model, revision
        self._settings = {
            "version": REMEMBERED_VERSION,
            "libraries": [metadata.version(name) for name in LIBRARIES],
            "device": [str(device), torch.cuda.is_available(), fast_precision(torch.device("cpu"))],
            "arguments": arguments,
        }
        self._path = self._find_path()

    def read(self) -> dict[str, Any] | None:
        """Return the spec; None where it is not known."""
        try:
            found: dict[str, Any] | None = json.loads(self._path.read_text(encoding="utf-8")) if self._path else None
        except (OSError, ValueError):
            return None
        return found

    def write(self, spec: dict[str, Any]) -> None:
        """Keep a spec of what is still there and whole."""
        if self._path is None or self._find_path() != self._path:
            return
        if not Path(self._model).exists():
            adapter = try_to_load_from_cache(self._model, ADAPTER_FILE, revision=spec["revision"])
            if isinstance(adapter, str):
                return
        try:
            with atomic_write(self._path) as file:
                file.write(json.dumps(spec, ensure_ascii=False).encode())
        except OSError:  # nothing is lost but seconds
            return

    def forget(self) -> None:
        """Remove the spec, because the model has turned out to be another one."""
        if self._path is not None:
            with contextlib.suppress(OSError):  # others may share it
                self._path.unlink(missing_ok=True)

    def _find_path(self) -> Path | None:
        folder = Path(self._model)
        try:
            origin = [self._revision, _describe_folder(folder)] if folder.exists() else [self._commit()]
        except OSError:  # a link leads nowhere, or a file has gone meanwhile
            return None
        if origin[-1] is None:
            return None
        key = digest_of(json.dumps([self._model, origin, self._settings], sort_keys=True))
        return cache_directory() / "teachers" / f"{key}.json"

    def _commit(self) -> str | None:
        """Return the commit of a name on the Hub that would be loaded now."""
        if self._revision is not None and _COMMIT.fullmatch(self._revision):
            return self._revision
        if "/" not in self._model:  # whose it is, is found out by loading
            return None
        try:
            if constants.HF_HUB_OFFLINE:
                return commit_of(self._model, self._revision)
            return HfApi().model_info(self._model, revision=self._revision, timeout=HUB_SECONDS).sha
        except Exception:  # loading will say what is wrong, or do without an answer
            return None


def _describe_folder(folder: Path) -> list[list[Any]] | None:
    """Return name, size and times of every file.

    None where one has just been written, a folder is a link, or a model elsewhere belongs to this one. The second time,
    of the last change of any kind, is one that copying and unpacking cannot set.
    """
    found: list[list[Any]] = []
    for path in sorted(folder.rglob("*")):
        if path.name == ADAPTER_FILE:
            return None
        if path.is_dir():
            if path.is_symlink():
                return None
            continue
        about = path.stat()
        found.append([path.relative_to(folder).as_posix(), about.st_size, about.st_mtime_ns, about.st_ctime_ns])
        if about.st_mtime > time.time() - YOUNGEST_SECONDS:
            return None
    return found or None
