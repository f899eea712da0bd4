"""Files that appear whole or not at all, in the cache directory."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from huggingface_hub import constants

from hn_datasets.errors import StoreError


def cache_directory() -> Path:
    """Return where vectors, corpora and indexes are kept: ``HN_DATASETS_CACHE``, or a folder below ``HF_HOME``."""
    return Path(os.environ.get("HN_DATASETS_CACHE") or Path(constants.HF_HOME) / "hn_datasets").expanduser().absolute()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its place when the block ends without an error.

    The data is on the disk before the name is, so that neither a kill nor a power cut leaves a torn file.

    Raises:
        StoreError: the file cannot be written, for instance because the disk is full; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        reason = error.strerror or str(error)
        raise StoreError(
            error.errno,
            f"Could not write {path} ({reason}); what was written before is kept: free some space, or set "
            "HN_DATASETS_CACHE to a larger disk, and run again.",
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
