"""What the server knows, all of it in files below one directory, so that a restart finds it again.

``repos/NAMESPACE/NAME/`` holds ``repo.json`` (visibility, refs, discussions), ``commits/ID.json`` (each with its whole
list of files), ``blobs/SHA1`` (regular files) and ``lfs/SHA256`` (large ones). A commit's own file is written before
``repo.json`` names it, and each file takes its place whole: a kill leaves the old state or the new one.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .faults import Faults
from .messages import HubError

Files = dict[str, dict[str, Any]]
"""Path -> ``{oid, size}`` (git SHA-1), with ``lfs: {oid, size, pointerSize}`` (SHA-256) for a large file."""

DEFAULT_SETTINGS = {"multipart_bytes": 50_000_000, "require_license": False}
_SHORT_COMMIT = re.compile(r"[0-9a-f]{5,40}")
_temporary = itertools.count()


def now() -> str:
    """Return the time in the form that the Hub sends."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_file(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_file(path.parent)
    temporary.write_bytes(data)
    temporary.replace(path)


def temporary_file(directory: Path) -> Path:
    """Return a name in ``directory`` that nothing else uses."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f".{os.getpid()}-{next(_temporary)}.part"


def git_sha1(data: bytes) -> str:
    """Return the id that git gives to a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def large_file_entry(sha256: str, size: int) -> dict[str, Any]:
    """Return the entry of a large file; its ``oid`` is the git SHA-1 of the pointer that stands for it."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    lfs = {"oid": sha256, "size": size, "pointerSize": len(pointer)}
    return {"oid": git_sha1(pointer), "size": size, "lfs": lfs}


class Repository:
    """One dataset repository."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.repo_id = f"{directory.parent.name}/{directory.name}"

    @property
    def record(self) -> dict[str, Any]:
        """The content of ``repo.json``: ``private, gated, author, createdAt, refs, discussions``."""
        record: dict[str, Any] = json.loads((self.directory / "repo.json").read_bytes())
        return record

    def update(self, **changes: Any) -> None:
        """Replace top-level entries of the record."""
        record = self.record if (self.directory / "repo.json").exists() else {}
        write_file(self.directory / "repo.json", json.dumps({**record, **changes}, indent=1).encode())

    @property
    def refs(self) -> dict[str, str]:
        """Full name of every branch, tag and pull request -> commit."""
        refs: dict[str, str] = self.record["refs"]
        return refs

    def set_ref(self, ref: str, commit: str | None) -> None:
        """Point a ref at a commit, or delete it."""
        refs = {**self.refs, ref: commit}
        self.update(refs={name: target for name, target in refs.items() if target is not None})

    def full_ref(self, revision: str) -> str | None:
        """Return the full name of a branch, tag or pull request; None where the revision is none of them."""
        refs = self.refs
        return next((ref for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision) if ref in refs), None)

    def commit(self, revision: str) -> dict[str, Any]:
        """Return the commit of a branch, tag, pull request or (shortened) id.

        Raises:
            HubError: 404, there is no such revision.
        """
        ref = self.full_ref(revision)
        found = self.refs[ref] if ref is not None else revision
        if ref is None and _SHORT_COMMIT.fullmatch(revision):
            found = next((path.stem for path in (self.directory / "commits").glob(f"{revision}*.json")), revision)
        path = self.directory / "commits" / f"{found}.json"
        if not _SHORT_COMMIT.fullmatch(found) or not path.exists():
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        record: dict[str, Any] = json.loads(path.read_bytes())
        return record

    def history(self, revision: str) -> Iterator[dict[str, Any]]:
        """Yield the commits of a revision, newest first."""
        commit = self.commit(revision)
        yield commit
        while commit["parent"] is not None:
            commit = self.commit(commit["parent"])
            yield commit

    def add_commit(
        self, ref: str, files: Files, *, title: str, author: str, message: str = "", parent: str | None
    ) -> str:
        """Write a commit, point ``ref`` at it and return its id, 40 hexadecimal characters."""
        record = {"parent": parent, "title": title, "message": message, "author": author, "date": now(), "files": files}
        commit = hashlib.sha1(json.dumps(record).encode() + os.urandom(8)).hexdigest()
        write_file(self.directory / "commits" / f"{commit}.json", json.dumps({"id": commit, **record}).encode())
        self.set_ref(ref, commit)
        return commit

    def add_blob(self, data: bytes) -> dict[str, Any]:
        """Store a regular file and return its entry."""
        oid = git_sha1(data)
        write_file(self.directory / "blobs" / oid, data)
        return {"oid": oid, "size": len(data)}

    def large_file(self, sha256: str) -> Path:
        """Return where the content of a large file is, or would be."""
        return self.directory / "lfs" / sha256

    def content(self, entry: dict[str, Any]) -> bytes:
        """Return the bytes of a regular file."""
        path: Path = self.directory / "blobs" / entry["oid"]
        return path.read_bytes()


class Hub:
    """The state of the server.

    Attributes:
        endpoint: what clients have as ``HF_ENDPOINT``.
        storage: the same server under another host name, where large files are.
        tokens: token -> ``{name, role, orgs}``, from ``tokens.json``.
        settings: see ``DEFAULT_SETTINGS``; kept in ``settings.json``.
        lock: held by whatever changes the state, so that a change is seen whole.
    """

    def __init__(self, directory: Path, endpoint: str, storage: str) -> None:
        self.directory = directory
        self.endpoint = endpoint
        self.storage = storage
        self.faults = Faults()
        self.lock = threading.RLock()
        self.tokens: dict[str, dict[str, Any]] = json.loads((directory / "tokens.json").read_bytes())
        self.settings = dict(DEFAULT_SETTINGS)
        if (directory / "settings.json").exists():
            self.settings.update(json.loads((directory / "settings.json").read_bytes()))

    @property
    def require_license(self) -> bool:
        """Whether a card without a license is refused."""
        return bool(self.settings["require_license"])

    def change_settings(self, changes: dict[str, Any]) -> None:
        """Change settings for this run and for those after a restart."""
        self.settings.update(changes)
        write_file(self.directory / "settings.json", json.dumps(self.settings).encode())

    def repository(self, repo_id: str) -> Repository | None:
        """Return a repository, or None."""
        directory = self.directory / "repos" / repo_id
        return Repository(directory) if (directory / "repo.json").exists() else None

    def repositories(self) -> list[Repository]:
        """Return all repositories."""
        return [Repository(path.parent) for path in sorted(self.directory.glob("repos/*/*/repo.json"))]

    def delete(self, repository: Repository) -> None:
        """Delete a repository with all that it holds."""
        (repository.directory / "repo.json").unlink()
        shutil.rmtree(repository.directory)

    def log(self, entry: dict[str, Any]) -> None:
        """Add a line to the request log."""
        with self.lock, (self.directory / "log.jsonl").open("a") as file:
            file.write(json.dumps({"time": now(), **entry}) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """Return the request log, oldest first."""
        path = self.directory / "log.jsonl"
        with self.lock:
            return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
