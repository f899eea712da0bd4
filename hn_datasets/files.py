"""Files that appear whole or not at all, and that carry their own checksum in their name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa
import xxhash
from huggingface_hub import constants

from hn_datasets.errors import ArgumentError, StoreError

UNFINISHED = ".writing-"
"""How the name of a file begins while it is being written; a killed process leaves such a file behind."""


def cache_directory() -> Path:
    """Return where vectors, corpora and indexes are kept: ``HN_DATASETS_CACHE``, or a folder below ``HF_HOME``."""
    return Path(os.environ.get("HN_DATASETS_CACHE") or Path(constants.HF_HOME) / "hn_datasets").expanduser().absolute()


def open_filesystem(path: str) -> tuple[Any, str]:
    """Return the file system of a path, as fsspec names it, and what the path is there; nothing is listed yet.

    Raises:
        ArgumentError: there is no such file system, or what it needs is not installed.
    """
    try:
        filesystem, name = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise ArgumentError(
            f"Expected a path on a file system that fsspec opens here, got {path!r} ({error}); install what it needs, "
            "on all nodes of a cluster."
        ) from error
    filesystem.invalidate_cache()  # what this process has listed before may have changed
    return filesystem, name


def describe_file(path: Path) -> dict[str, str | int]:
    """Return ``sha256`` and ``size`` of a file."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}


@contextlib.contextmanager
def temporary_file(directory: Path) -> Iterator[IO[bytes]]:
    """Open a file in ``directory`` that is flushed to the disk when the block ends, and removed when it fails.

    The block renames nothing; whoever opened the file gives it its name afterwards, so a name never stands for a torn
    file, whatever happens.

    Raises:
        StoreError: the file cannot be written, for instance because the disk is full; nothing is left behind.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Not by tempfile: its files are for one user only, and others may share the store.
        with (directory / f"{UNFINISHED}{secrets.token_hex(8)}").open("xb") as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise unwritable(directory, error) from error


def unwritable(directory: Path, error: OSError) -> StoreError:
    """Return the error that says that a folder of the store cannot be written to, and what to do."""
    reason = error.strerror or str(error)
    return StoreError(
        error.errno,
        f"Could not write to {directory} ({reason}); what was written before is kept: free some space, or set "
        "HN_DATASETS_CACHE to a larger disk, and run again.",
    )


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of ``path`` when the block ends without an error.

    Raises:
        StoreError: the file cannot be written; nothing is left behind.
    """
    with temporary_file(path.parent) as file:
        yield file
    Path(file.name).replace(path)


def check_readable(folder: Path) -> None:
    """Check that ``load_dataset``, which takes the path of a folder for a pattern of files, can read one here.

    Raises:
        ArgumentError: as a pattern the path stands for others.
    """
    path = str(folder.resolve())
    if "**" in path or not fnmatchcase(path, path):
        raise ArgumentError(
            f"Expected a folder that load_dataset can read, got {path!r}, in which it takes '[...]' and '**' for "
            "patterns; name another."
        )


@contextlib.contextmanager
def replaced_folder(target: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that takes its place when the block ends without an error.

    Args:
        target: the folder, which need not exist; of a link it is the folder behind it that is replaced.
        check: raises an error where ``target`` may not be replaced; asked again at the end, for that may have changed.

    Raises:
        StoreError: the folder cannot be written.
    """
    target = target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as parent:
            folder = Path(parent) / "new"
            folder.mkdir()
            yield folder
            check(target)
            if target.exists():
                target.replace(Path(parent) / "replaced")
            folder.replace(target)
    except StoreError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            error.errno, f"Could not write {target} ({reason}); free some space, or name another folder."
        ) from error


def write_arrow(table: pa.Table, path: Path) -> None:
    """Write a table as an Arrow IPC file that can be memory-mapped.

    Raises:
        StoreError: the file cannot be written.
    """
    with atomic_write(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def open_arrow(path: Path) -> pa.Table:
    """Memory-map a table written by ``write_arrow``."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def write_checked(directory: Path, prefix: str, suffix: str, chunks: Iterable[bytes | memoryview]) -> Path:
    """Write a file named ``<prefix><checksum of its content><suffix>``; the same content gives the same file.

    Raises:
        StoreError: the file cannot be written.
    """
    state = xxhash.xxh3_128()
    with temporary_file(directory) as file:
        for chunk in chunks:
            state.update(chunk)
            file.write(chunk)
    path = directory / f"{prefix}{state.hexdigest()}{suffix}"
    Path(file.name).replace(path)
    return path


def is_intact(path: Path, prefix: str = "") -> bool:
    """Return whether the content of a file of ``write_checked`` still has the checksum in its name."""
    return path.stem == prefix + _checksum(path)


def rename_checked(path: Path, prefix: str, suffix: str) -> Path:
    """Give a file that is written the name that ``write_checked`` would have given it; return its new path."""
    named = path.with_name(f"{prefix}{_checksum(path)}{suffix}")
    path.replace(named)
    return named


def _checksum(path: Path) -> str:
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            state.update(chunk)
    return state.hexdigest()


def write_shard(directory: Path, table: pa.Table) -> Path:
    """Write a table as one shard, an Arrow file named after its checksum; return its path.

    Raises:
        StoreError: the file cannot be written.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return write_checked(directory, "", ".arrow", [memoryview(sink.getvalue())])


def open_shards(directory: Path, known: Container[str] = ()) -> Iterator[tuple[Path, pa.Table | None]]:
    """Memory-map the shards in a folder, except those whose names are known, in the order of their names.

    A damaged shard is removed, and comes with None: whoever lost it says what follows.
    """
    for path in sorted(directory.glob("*.arrow")):
        if path.name in known:
            continue
        with contextlib.suppress(FileNotFoundError):  # another process has removed it just now
            if is_intact(path):
                yield path, open_arrow(path)
                continue
            path.unlink()
            yield path, None
