"""The embedding store: vectors on disk, addressed by the teacher's identity and the text's digest.

Vectors lie in append-only shards, each an Arrow file named after the checksum of its content. A shard appears whole or
not at all, so a killed run loses at most the shard that it was computing, and two processes can fill one store.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from hn_datasets.errors import ArgumentError, VectorError
from hn_datasets.files import (
    UNFINISHED,
    atomic_write,
    cache_directory,
    is_intact,
    write_checked,
)
from hn_datasets.progress import progress_bar
from hn_datasets.teachers.base import Encoder, Floats, Ids, Role
from hn_datasets.texts import Corpus, Digests, digest_of, digest_texts, find
from hn_datasets.vector_space import VectorSpace

STORE_VERSION = 1
"""Part of every address: a store of another version is left alone, never read wrongly."""

SHARD_TEXTS = 4096
SHARD_SECONDS = 20.0
"""A shard ends at whichever comes first, so a kill loses less than half a minute of work."""

CALL_TEXTS = 4096
CALL_CHARACTERS = 1 << 18
"""What one call of the teacher gets at most: enough to fill its batches, little enough to look at the clock.

A teacher that knows better says so by an attribute ``call_characters``. Nothing here depends on the clock: the calls
of a run that goes on are those of a run that was never killed, and so are its vectors, to the last bit.
"""

GATHER_ROWS = 8192

DERIVED = ("matrices", "corpora", "anchors", "groups", "held-out", "bm25", "finished")
"""Folders of what can be made again at any time."""

RANGES = "ranges"
"""Folder of the stores of runs on clusters: each has the vectors of a range of digests."""

TEACHERS = "teachers"
"""Folder of what models are; see ``teachers.remembered``."""

RUNS = "ray"
"""Folder of the other files of runs on clusters, of use to the run that goes on with them."""

GIVEN = "given"
"""Folder in it of the datasets that were given to them."""

ABANDONED_SECONDS = 3600
"""A file that is not finished and was not written to for so long belongs to a process that was killed."""


@dataclass(frozen=True)
class SpaceInfo:
    """One line of ``hn-datasets cache``: the vectors of a teacher in a role, of this machine and of clusters.

    Attributes:
        address: digest of the teacher's identity in this role.
        directories: where the vectors are: one, and one more in each range of a cluster.
        description: teacher and role.
        num_bytes: of all of them.
        last_used: the last time that one of them was opened, in seconds since 1970.
    """

    address: str
    directories: tuple[Path, ...]
    description: dict[str, Any]
    num_bytes: int
    last_used: float


class EmbeddingStore:
    """Vectors of any number of teachers below one folder.

    Args:
        directory: the folder; ``HN_DATASETS_CACHE``, or one below ``HF_HOME``, if None.
        derived: where corpora, matrices and indexes go, which can be made again at any time; the same folder if None.
    """

    def __init__(self, directory: str | Path | None = None, *, derived: str | Path | None = None) -> None:
        self.directory = Path(directory).absolute() if directory is not None else cache_directory()
        self.derived = Path(derived).absolute() if derived is not None else self.directory
        self._spaces: dict[str, VectorSpace] = {}

    def space(self, encoder: Encoder, role: Role) -> VectorSpace:
        """Return the vectors of one teacher in one role."""
        address = encoder.space(role)
        if address not in self._spaces:
            self._spaces[address] = VectorSpace(self._space_directory(address), encoder.dimension)
        with contextlib.suppress(OSError):  # it is not there yet, or belongs to someone else
            os.utime(self._space_directory(address) / "space.json")
        return self._spaces[address]

    def embed(self, encoder: Encoder, role: Role, texts: pa.Array | pa.ChunkedArray, digests: Digests) -> VectorSpace:
        """Encode the texts that have no vector yet, longest first, and write a shard every few seconds.

        What another process encodes meanwhile is left to it: of two that have the same to do, the second begins at the
        other end.

        Args:
            encoder: the teacher.
            role: whether the texts are anchors or passages.
            texts: n strings.
            digests: their digests, shape ``[n]``; a digest that comes twice is encoded once.

        Raises:
            StoreError: a shard cannot be written; the shards before it are kept.
            VectorError: the teacher gave vectors of another shape, or with NaN or infinite values.
        """
        space = self.space(encoder, role)
        space.refresh()
        missing = space.missing(digests)
        missing = missing[np.unique(digests[missing], return_index=True)[1]]
        if len(missing):
            self.describe(encoder, role)
        bar = progress_bar(total=len(missing), desc=f"Encoding {role}s", unit="text")
        calls = list(_calls(missing, texts, encoder))
        with _is_first(space.directory, len(calls)) as first, bar as progress, _Shard(space) as shard:
            done = digests[:0]
            for rows in calls if first else reversed(calls):
                done = np.union1d(done, space.refresh())
                left = rows[find(done, digests[rows]) < 0]
                if len(left):
                    chunk = texts.take(pa.array(left)).to_pylist()
                    shard.append(digests[left], check_vectors(encoder.encode(chunk, role), chunk, encoder.dimension))
                progress.update(len(rows))
        return space

    def vectors(self, encoder: Encoder, role: Role, texts: list[str]) -> Floats:
        """Return the vectors of texts, from the store where they are and from the teacher where they are not.

        Vectors computed here are not kept: this serves batches of a stream, where a shard would hold a few texts.
        """
        space = self.space(encoder, role)
        digests = digest_texts(texts)
        missing = space.missing(digests)
        if not len(missing):
            return space.vectors(digests)
        vectors = np.empty((len(texts), encoder.dimension), dtype=np.float32)
        known = np.setdiff1d(np.arange(len(texts)), missing)
        vectors[known] = space.vectors(digests[known])
        _, first, inverse = np.unique(digests[missing], return_index=True, return_inverse=True)
        chunk = [texts[row] for row in missing[first]]
        vectors[missing] = check_vectors(encoder.encode(chunk, role), chunk, encoder.dimension)[inverse]
        return vectors

    def matrix(self, encoder: Encoder, corpus: Corpus, role: Role = "passage", *, check: bool = True) -> Floats:
        """Return the vectors of a whole corpus in the order of its ids, memory-mapped and shared by all processes.

        Shape ``[len(corpus), dimension]``, float32. It is gathered from the shards once and kept beside them. ``check``
        reads all of it, to see whether it is intact.

        Raises:
            StoreError: the file cannot be written.
        """
        key = digest_of(encoder.space(role), corpus.digest)
        directory = self.derived / "matrices"
        for path in directory.glob(f"{key}-*.npy"):
            if not check or is_intact(path, f"{key}-"):
                return self._open_matrix(path)
            path.unlink(missing_ok=True)
        space = self.space(encoder, role)
        return self._open_matrix(write_checked(directory, f"{key}-", ".npy", _matrix_bytes(space, corpus.digests)))

    @staticmethod
    def _open_matrix(path: Path) -> Floats:
        matrix: Floats = np.load(path, mmap_mode="r")
        return matrix

    def describe(self, encoder: Encoder, role: Role) -> None:
        """Write down whose vectors a space holds, before the first of them."""
        path = self._space_directory(encoder.space(role)) / "space.json"
        with atomic_write(path) as file:
            file.write(json.dumps({"role": role, "teacher": encoder.spec()}, ensure_ascii=False).encode())

    def spaces(self) -> list[SpaceInfo]:
        """Return what the store holds, most recently used first."""
        markers: dict[str, list[Path]] = {}
        for store in self._stores(self.directory):
            for marker in sorted((store / "embeddings").glob("*/*/space.json")):
                markers.setdefault(marker.parent.name, []).append(marker)
        found = []
        for address, known in markers.items():
            size = _num_bytes(path for marker in known for path in marker.parent.iterdir())
            description = json.loads(known[0].read_text(encoding="utf-8"))
            used = max(marker.stat().st_mtime for marker in known)
            found.append(SpaceInfo(address, tuple(marker.parent for marker in known), description, size, used))
        return sorted(found, key=lambda info: -info.last_used)

    def other_bytes(self) -> dict[str, int]:
        """Return the size of every folder that holds no vectors, those of clusters among them, without empty ones."""
        sizes = {
            name: sum(_num_bytes(_files(store / name)) for store in self._stores(self.derived)) for name in DERIVED
        }
        sizes[RUNS] = _num_bytes(_files(self.derived / RUNS))
        return {name: size for name, size in sizes.items() if size}

    def prune(self, *, unused_days: float | None = None, address: str | None = None) -> int:
        """Remove vectors, everything that is derived from vectors, and what killed processes left; return bytes freed.

        Args:
            unused_days: remove the spaces not opened for so many days, and what runs on clusters have left that was
                not written to for so long; 0 removes all.
            address: remove the one space whose address begins so.

        Raises:
            ArgumentError: both or neither of the two are given, the days are negative, or the address is that of no
                space or of several.
        """
        before = self.num_bytes
        chosen = self._to_prune(unused_days, address)
        self._remove_abandoned()
        for info in chosen:
            for directory in info.directories:
                shutil.rmtree(directory)
            self._spaces.pop(info.address, None)
        if chosen or unused_days == 0:
            for derived in (store / name for store in self._stores(self.derived) for name in (*DERIVED, RUNS)):
                shutil.rmtree(derived, ignore_errors=True)
        elif unused_days is not None:
            self._remove_runs(time.time() - unused_days * 86400)
        if unused_days == 0:
            for kept in (RANGES, TEACHERS):
                shutil.rmtree(self.directory / kept, ignore_errors=True)
        return before - self.num_bytes

    @property
    def num_bytes(self) -> int:
        """Size of the whole store on disk."""
        return _num_bytes(_files(self.directory))

    @staticmethod
    def _stores(directory: Path) -> list[Path]:
        """Return the folder and those of the ranges of clusters in it."""
        return [directory, *sorted((directory / RANGES).glob("*-*"))]

    def _to_prune(self, unused_days: float | None, address: str | None) -> list[SpaceInfo]:
        if (unused_days is None) == (address is None):
            raise ArgumentError("Expected either unused_days or address, got both or neither; name one of them.")
        if unused_days is not None:
            if not unused_days >= 0:
                raise ArgumentError(f"Expected unused_days of at least 0, got {unused_days}.")
            limit = time.time() - unused_days * 86400
            return [info for info in self.spaces() if unused_days == 0 or info.last_used <= limit]
        chosen = [info for info in self.spaces() if address and info.address.startswith(address)]
        if len(chosen) != 1:
            raise ArgumentError(
                f"Expected the address of one space in {self.directory}, got {address!r}, which {len(chosen)} have; "
                "`hn-datasets cache` lists them."
            )
        return chosen

    def _remove_abandoned(self) -> None:
        """Remove files that killed processes were writing; one that still grows is left alone."""
        for path in {*self.directory.rglob(f"{UNFINISHED}*"), *self.derived.rglob(f"{UNFINISHED}*")}:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                    path.unlink()

    def _remove_runs(self, limit: float) -> None:
        """Remove what runs on clusters have left, except where a file was written to after ``limit``."""
        runs, given = self.derived / RUNS, self.derived / RUNS / GIVEN
        for path in [*runs.glob("*"), *given.glob("*")]:
            written = [file.stat().st_mtime for file in ([path] if path.is_file() else _files(path))]
            if path != given and max(written, default=0) <= limit:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _space_directory(self, address: str) -> Path:
        return self.directory / "embeddings" / f"v{STORE_VERSION}" / address


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _num_bytes(paths: Iterable[Path]) -> int:
    """Return the size of files, of which other processes may rename some meanwhile."""
    size = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def check_vectors(vectors: Any, texts: list[str], dimension: int) -> Floats:
    """Return vectors as float32 of shape ``[len(texts), dimension]``.

    Raises:
        VectorError: the shape is another one, or a value is NaN or infinite; names the first such text.
    """
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.shape != (len(texts), dimension):
        raise VectorError(
            f"Expected vectors of shape [{len(texts)}, {dimension}] from the teacher, got {list(array.shape)}; "
            "all texts of one teacher need one dimension."
        )
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise VectorError(
            f"Expected finite vectors, got NaN or infinite values for {len(bad)} of {len(texts)} texts, first "
            f"{texts[bad[0]][:60]!r}; try precision='float32', or leave these texts out."
        )
    return array


@contextlib.contextmanager
def _is_first(directory: Path, num_calls: int) -> Iterator[bool]:
    """Tell whether no other process encodes for a folder already; what begins now keeps the others from being first."""
    lock = FileLock(directory / "encoding.lock", timeout=0)
    first = num_calls == 0
    with contextlib.suppress(Timeout, OSError):  # a disk without locks has no order, and loses nothing by it
        if not first:
            lock.acquire()
            first = True
    try:
        yield first
    finally:
        lock.release()


class _Shard:
    """Collects vectors and writes them as shards; also when the block ends with an error, so that no work is lost."""

    def __init__(self, space: VectorSpace) -> None:
        self._space = space
        self._begin()

    def _begin(self) -> None:
        self._digests: list[Digests] = []
        self._vectors: list[Floats] = []
        self._started = time.monotonic()

    def append(self, digests: Digests, vectors: Floats) -> None:
        """Take what one call of the teacher gave, and write a shard when there is enough or it has been long enough."""
        self._digests.append(digests)
        self._vectors.append(vectors)
        if sum(map(len, self._digests)) >= SHARD_TEXTS or time.monotonic() - self._started >= SHARD_SECONDS:
            self._write()

    def _write(self) -> None:
        digests, vectors = self._digests, self._vectors
        self._begin()  # first, so that a disk that is full is met once
        if digests:
            self._space.add(np.concatenate(digests), np.concatenate(vectors))

    def __enter__(self) -> _Shard:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()


def _calls(missing: Ids, texts: pa.Array | pa.ChunkedArray, encoder: Encoder) -> Iterator[Ids]:
    """Cut the missing texts, longest first so that a batch holds similar lengths, into the rows of calls."""
    if not len(missing):
        return
    max_characters = getattr(encoder, "call_characters", CALL_CHARACTERS)
    lengths = pc.fill_null(pc.utf8_length(texts), 0).to_numpy()[missing]
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        characters = np.cumsum(lengths[order[start : start + min(CALL_TEXTS, SHARD_TEXTS)]])
        stop = start + max(1, int(np.searchsorted(characters, max_characters, side="right")))
        yield missing[order[start:stop]]
        start = stop


def _matrix_bytes(space: VectorSpace, digests: Digests) -> Iterator[bytes]:
    """Return a ``.npy`` file of the vectors of ``digests``, in pieces."""
    header = BytesIO()
    shape = (len(digests), space.dimension)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    yield header.getvalue()
    for start in range(0, len(digests), GATHER_ROWS):
        yield space.vectors(digests[start : start + GATHER_ROWS]).tobytes()
