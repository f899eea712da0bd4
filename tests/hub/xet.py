"""Large files through Xet, the transfer that the client prefers.

``hf_xet`` writes to a directory instead of a server where the token's ``casUrl`` is ``local://DIRECTORY``. Every token
gets a directory of its own (two processes cannot share one: its database has a lock), with below it
``xet/xorbs/xorbs/*`` (chunks, compressed), ``xet/xorbs/shards/*.mdb`` (which chunks make up which file) and
``xet/xorbs/global_dedup_lookup.redb`` (without which nothing is found). When a commit names a SHA-256 that is not
stored, the shards say which Xet file that is, and ``hf_xet`` itself puts it together. It is then added to the
repository's pool. A token's directory starts as a copy of the pool: to download from, or so that an upload sends only
chunks that no commit has brought yet (those of an upload that was never committed are sent again).

So no bytes of a Xet upload go over HTTP: count ``uploaded_bytes`` instead of the request log.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import struct
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .access import need_for, open_repository
from .messages import DATASET, HubError, Request, Response, route
from .store import Hub, Repository, temporary_file, write_file

if TYPE_CHECKING:
    from hf_xet import XetSession  # type: ignore[import-untyped]

TOKEN_SECONDS = 3600
_ROW_BYTES = 48  # every record of a shard
_HAS_VERIFICATION = 1 << 31
_HAS_SHA256 = 1 << 30


@route("GET", rf"{DATASET}/xet-write-token/(?P<revision>[^/]+)")
def write_token(hub: Hub, request: Request) -> Response:
    """Give a directory to upload to, with what is known already, so that it is not sent again."""
    repository = open_repository(hub, request, need_for(request, request.arguments["revision"]))
    with hub.lock:
        return _token(_copy(repository, _pool(repository), "upload"))


@route("GET", rf"{DATASET}/xet-read-token/(?P<revision>[^/]+)")
def read_token(hub: Hub, request: Request) -> Response:
    """Give a copy of the pool to download from."""
    repository = open_repository(hub, request)
    with hub.lock:
        if not _pool(repository).exists():
            raise HubError(404, "Nothing of this repository came by Xet", "EntryNotFound")
        return _token(_copy(repository, _pool(repository), "download"))


def _token(directory: Path) -> Response:
    expiry = int(time.time()) + TOKEN_SECONDS
    url, token = f"local://{directory}", secrets.token_hex(8)
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expiry)}
    return Response.of({"casUrl": url, "accessToken": token, "exp": expiry}, headers=headers)


def _copy(repository: Repository, source: Path, kind: str) -> Path:
    """Return a copy of an upload or of the pool, either of which another process may have open."""
    directory = repository.directory.resolve() / "xet" / f"{kind}-{secrets.token_hex(8)}"
    directory.mkdir(parents=True)
    if source.exists():
        shutil.copytree(source / "xet/xorbs", directory / "xet/xorbs", copy_function=_copy_or_link)
    return directory


def _copy_or_link(source: str, target: str) -> None:
    if source.endswith(".redb"):  # the database changes; chunks and shards never do
        shutil.copyfile(source, target)
    else:
        os.link(source, target)


def _pool(repository: Repository) -> Path:
    return repository.directory.resolve() / "xet" / "pool"


def xet_hash(repository: Repository, entry: dict[str, Any]) -> str | None:
    """Return the Xet hash of a file, None where it did not come by Xet."""
    path = repository.directory / "xet" / "hashes" / entry.get("lfs", {}).get("oid", "none")
    return path.read_text() if path.exists() else None


def xet_headers(hub: Hub, repository: Repository, entry: dict[str, Any], commit: str) -> dict[str, str]:
    """Return the headers that let the client download a file by Xet; none where it did not come by it."""
    digest = xet_hash(repository, entry)
    if digest is None:
        return {}
    url = f"{hub.endpoint}/api/datasets/{repository.repo_id}/xet-read-token/{commit}"
    return {"X-Xet-Hash": digest, "Link": f'<{url}>; rel="xet-auth"'}


def uploaded_bytes(repository: Repository) -> int:
    """Return how many bytes of chunks were uploaded by Xet, all uploads together; copies of the pool are links."""
    chunks = repository.directory.glob("xet/upload-*/xet/xorbs/xorbs/default.*")
    return sum(path.stat().st_size for path in chunks if path.suffix != ".tagset" and path.stat().st_nlink == 1)


def fetch_from_xet(repository: Repository, sha256: str) -> bool:
    """Store a large file that was uploaded by Xet; return whether one was."""
    for shard in repository.directory.glob("xet/upload-*/xet/xorbs/shards/*.mdb"):
        digest = dict(_files_of_shard(shard.read_bytes())).get(sha256)
        if digest is not None and _reconstruct(repository, shard.parents[3], digest, sha256):
            write_file(repository.directory / "xet" / "hashes" / sha256, digest.encode())
            return True
    return False


def _reconstruct(repository: Repository, upload: Path, digest: str, sha256: str) -> bool:
    """Put a file together from an upload's chunks and add it to the pool."""
    from hf_xet import XetFileInfo

    path = temporary_file(repository.directory / "lfs").resolve()
    copy = _copy(repository, upload, "reading")  # the client that uploaded still holds the lock
    with _session().new_file_download_group(endpoint=f"local://{copy}") as group:
        group.start_download_file(XetFileInfo(digest, None), str(path))
    shutil.rmtree(copy)
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        path.unlink()
        return False
    with _session().new_upload_commit(endpoint=f"local://{_pool(repository)}") as commit:
        commit.start_upload_file(str(path), sha256=sha256)
    path.replace(repository.large_file(sha256))
    return True


@cache
def _session() -> XetSession:
    from hf_xet import XetSession

    return XetSession()


def _files_of_shard(shard: bytes) -> Iterator[tuple[str, str]]:
    """Yield the SHA-256 and the Xet hash of every file in a shard.

    Behind a header of one row each file has a row with its hash, flags and number of segments, a row per segment, then,
    where the flags say so, as many rows of verification and one with the SHA-256. A row of ones ends the list.
    """
    row = _ROW_BYTES
    while (hash_bytes := shard[row : row + 32]) != b"\xff" * 32 and len(hash_bytes) == 32:
        flags, num_segments = struct.unpack_from("<II", shard, row + 32)
        row += _ROW_BYTES * (1 + num_segments * (2 if flags & _HAS_VERIFICATION else 1))
        if flags & _HAS_SHA256:
            yield _hex(shard[row : row + 32]), _hex(hash_bytes)
            row += _ROW_BYTES


def _hex(digest: bytes) -> str:
    """Return a hash as Xet writes it: four little-endian integers of 8 bytes, in hexadecimal."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))
