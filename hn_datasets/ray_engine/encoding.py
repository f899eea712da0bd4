"""Encoding the texts of a range on a worker, a few thousand at a time, and finding those that make a teacher fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hn_datasets.errors import StoreError
from hn_datasets.ray_engine.job import Job, Pieces
from hn_datasets.ray_engine.ranges import overlapping_stores, range_store
from hn_datasets.store import EmbeddingStore, check_vectors
from hn_datasets.teachers.base import Encoder, Ids, Role
from hn_datasets.teachers.ensemble import list_members
from hn_datasets.texts import Corpus, Digests

CHUNK_TEXTS = 65_536
"""Texts of one task: what is lost with a worker is at most the shard that it was computing, not the whole task."""

ISOLATED_TEXTS = 256
"""Texts that are tried together where some text of a task makes the teacher fail."""

HARMLESS_TEXT = "text"
"""What any teacher that works can encode."""

MOST_FAILED = 64
"""Failures of one task after which the teacher is broken, and not the texts."""


@dataclass(frozen=True)
class Chunk:
    """Texts of one range, for one teacher.

    Attributes:
        member: number of the teacher.
        role: whether they are anchors or passages.
        number: of the range.
        start: of the first text within the range.
        stop: behind the last text.
    """

    member: int
    role: Role
    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Failure:
    """A text that made a teacher fail.

    Attributes:
        role: whether it is an anchor or a passage.
        digest: of the text, hexadecimal.
        reason: what the teacher said, on one line.
    """

    role: Role
    digest: str
    reason: str


def encoder_of(job: Job, member: int) -> Encoder | None:
    """Return a teacher that gives vectors; None for another kind."""
    teacher = list_members(job.teacher)[member][1]
    return teacher if isinstance(teacher, Encoder) else None


def path_of(pieces: Pieces, role: Role, number: int) -> Path | None:
    """Return the file of the texts of a range."""
    return (pieces.anchors if role == "anchor" else pieces.passages)[number]


def adopt_vectors(job: Job, pieces: Pieces, chunk: Chunk) -> list[Chunk]:
    """Copy vectors that other ranges or one machine have computed, and return what is still to be encoded."""
    encoder, path = encoder_of(job, chunk.member), path_of(pieces, chunk.role, chunk.number)
    if encoder is None or path is None:
        return []
    digests, own = Corpus(path).digests, range_store(job.store, chunk.number, job.num_ranges)
    space = own.space(encoder, chunk.role)
    missing = digests[space.missing(digests)]
    if len(missing):
        own.describe(encoder, chunk.role)
    for store in overlapping_stores(job.store, chunk.number, job.num_ranges) if len(missing) else ():
        other = store.space(encoder, chunk.role)
        known = np.setdiff1d(np.arange(len(missing)), other.missing(missing))
        for start in range(0, len(known), CHUNK_TEXTS):
            part = missing[known[start : start + CHUNK_TEXTS]]
            space.add(part, other.vectors(part))
        missing = np.delete(missing, known)
    starts = range(0, len(digests), CHUNK_TEXTS) if len(missing) else ()
    return [
        Chunk(chunk.member, chunk.role, chunk.number, start, min(start + CHUNK_TEXTS, len(digests))) for start in starts
    ]


def encode_chunk(job: Job, pieces: Pieces, chunk: Chunk) -> list[Failure]:
    """Encode what has no vector yet; return the texts that make the teacher fail.

    Raises:
        StoreError: a shard cannot be written.
        Exception: what the teacher raises, where it fails for reasons of its own.
    """
    encoder, path = encoder_of(job, chunk.member), path_of(pieces, chunk.role, chunk.number)
    if encoder is None or path is None:
        return []
    corpus, store = Corpus(path), range_store(job.store, chunk.number, job.num_ranges)
    rows = np.arange(chunk.start, chunk.stop)
    try:
        _embed(store, encoder, chunk.role, corpus, rows)
    except StoreError:
        raise
    except Exception as error:  # a teacher is anybody's code: whatever it raises, a single text may be the reason
        failures = list(_isolate(store, encoder, chunk.role, corpus, rows, error))
        if not failures:
            raise
        return failures
    return []


def _embed(store: EmbeddingStore, encoder: Encoder, role: Role, corpus: Corpus, rows: Ids) -> None:
    texts = corpus.column.slice(int(rows[0]), int(rows[-1] - rows[0] + 1)).take(rows - rows[0])
    store.embed(encoder, role, texts, corpus.digests[rows])


def _isolate(
    store: EmbeddingStore, encoder: Encoder, role: Role, corpus: Corpus, rows: Ids, error: Exception
) -> Iterator[Failure]:
    """Encode all texts but those that fail on their own, which are yielded.

    Raises:
        Exception: ``error``, where nearly everything fails.
    """
    try:
        encoder.encode([HARMLESS_TEXT], role)
    except Exception:  # then it is not the texts, but for instance a model that cannot be loaded here
        raise error from None
    count = 0
    missing = rows[store.space(encoder, role).missing(corpus.digests[rows])]
    for start in range(0, len(missing), ISOLATED_TEXTS):
        part = missing[start : start + ISOLATED_TEXTS]
        failed = _find_failing(encoder, role, corpus.texts(part), part)
        count += len(failed)
        if count > MOST_FAILED:
            raise error
        digests: Digests = corpus.digests_of(np.array(list(failed), dtype=np.int64))
        for digest, reason in zip(digests, failed.values(), strict=True):
            yield Failure(role, digest.ljust(16, b"\0").hex(), reason)
        kept = np.setdiff1d(part, list(failed))
        if len(kept):
            _embed(store, encoder, role, corpus, kept)


def _find_failing(encoder: Encoder, role: Role, texts: Sequence[str], rows: Ids) -> dict[int, str]:
    """Return which of the texts fail on their own, and why, by halves."""
    try:
        check_vectors(encoder.encode(texts, role), list(texts), encoder.dimension)
    except Exception as error:  # as above
        if len(texts) == 1:
            return {int(rows[0]): " ".join(str(error).split())[:200] or type(error).__name__}
        middle = len(texts) // 2
        first = _find_failing(encoder, role, texts[:middle], rows[:middle])
        return first | _find_failing(encoder, role, texts[middle:], rows[middle:])
    return {}
