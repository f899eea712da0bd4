"""A teacher whose vectors are there already: from an API, another library, dataset columns or ``.npy`` files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hn_datasets.errors import ArgumentError, TeacherError, TextError, VectorError
from hn_datasets.teachers.base import Floats, Ids, Role
from hn_datasets.texts import Digests, digest_of, digest_texts, find

UNIT_TOLERANCE = 1e-3
"""How far from 1 the length of a unit vector may be; vectors stored as float16 or bfloat16 stay within."""

BLOCK_ROWS = 16_384
"""Vectors looked at together, so that those of a file are never in memory all at once."""

Vectors = Any
"""An array, a tensor, a nested list, a dataset column, or the path of a ``.npy`` file; shape ``[n, d]``."""


class PrecomputedTeacher:
    """Scores are products of vectors that the user has.

    Args:
        queries: anchors and their vectors.
        passages: passages (positives and corpus) and their vectors, of the same dimension.
        similarity: ``"cosine"`` needs unit vectors; ``"dot"`` takes any.
        normalize: bring vectors to unit length instead of refusing those that are not; for ``"cosine"`` only.

    Raises:
        VectorError: numbers of texts and vectors differ, dimensions differ, a value is NaN or infinite, a vector does
            not have unit length, one text has two different vectors, or a file cannot be read.
        TextError: a text is no string.
        ArgumentError: ``normalize`` with ``similarity="dot"``, or no pair of texts and vectors.
    """

    def __init__(
        self,
        queries: tuple[Sequence[str], Vectors],
        passages: tuple[Sequence[str], Vectors],
        *,
        similarity: Literal["cosine", "dot"] = "cosine",
        normalize: bool = False,
    ) -> None:
        if similarity not in ("cosine", "dot"):
            raise ArgumentError(f"Expected similarity 'cosine' or 'dot', got {similarity!r}.")
        if normalize and similarity == "dot":
            raise ArgumentError(
                "normalize=True contradicts similarity='dot'; use 'cosine', or leave vectors as they are."
            )
        unit: bool | None = normalize if similarity == "cosine" else None
        self.similarity: Literal["cosine", "dot"] = similarity
        self._tables: dict[Role, _Table] = {
            "anchor": _read_table("queries", queries, normalize=unit),
            "passage": _read_table("passages", passages, normalize=unit),
        }
        dimensions = {role: table.vectors.shape[1] for role, table in self._tables.items()}
        if len(set(dimensions.values())) > 1:
            raise VectorError(
                f"Expected one dimension, got {dimensions['anchor']} (queries) and {dimensions['passage']} (passages)."
            )
        self._spec = {
            "type": "precomputed",
            "dimension": dimensions["anchor"],
            "similarity": similarity,
            "queries": self._tables["anchor"].digest(),
            "passages": self._tables["passage"].digest(),
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> PrecomputedTeacher:
        """Return the teacher whose ``spec`` this is: it finds in the store what was embedded, and has nothing else."""
        teacher = cls.__new__(cls)
        teacher._spec = dict(spec)
        teacher._tables = {}
        teacher.similarity = spec["similarity"]
        return teacher

    def spec(self) -> dict[str, Any]:
        """Return dimension, similarity and the digests of both sets of vectors."""
        return dict(self._spec)

    @property
    def dimension(self) -> int:
        """Number of components of a vector."""
        return int(self._spec["dimension"])

    def space(self, role: Role) -> str:
        """Return the address of the vectors of one role: a digest of the vectors themselves."""
        return digest_of(self.similarity, self._spec["queries" if role == "anchor" else "passages"])

    def encode(self, texts: Sequence[str], role: Role) -> Floats:
        """Return the vectors of texts, shape ``[len(texts), dimension]``, float32.

        Raises:
            TeacherError: a text has no vector; says how many and the first.
        """
        if role not in self._tables:
            raise TeacherError(
                "The vectors of a PrecomputedTeacher stay in the process that made it; expected only texts that the "
                f"miner has embedded, got others, first {texts[0][:60]!r}: build the miner on all of them."
            )
        table = self._tables[role]
        positions = find(table.known, digest_texts(texts))
        missing = np.flatnonzero(positions < 0)
        if len(missing):
            name = "queries" if role == "anchor" else "passages"
            raise TeacherError(
                f"Expected a vector for every text, but {len(missing):,} of {len(texts):,} {role}s have none, first "
                f"{texts[missing[0]][:60]!r}: add them to `{name}`."
            )
        return table.at(positions)

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(PrecomputedTeacher.from_spec(state["spec"]).__dict__)


@dataclass(frozen=True)
class _Table:
    """Vectors by the digests of their texts; where they came from a file, they stay there.

    Attributes:
        known: distinct digests, rising.
        places: shape ``[len(known)]``, int64, the row of each in ``vectors``.
        vectors: shape ``[n, d]``, float32 or another kind of numbers.
        normalize: whether vectors are brought to unit length when they are taken.
    """

    known: Digests
    places: Ids
    vectors: npt.NDArray[Any]
    normalize: bool

    def at(self, positions: Ids) -> Floats:
        """Return the vectors at positions in ``known``, float32."""
        return _as_float32(self.vectors[self.places[positions]], self.normalize)

    def digest(self) -> str:
        """Return a digest of texts and vectors."""
        blocks = (self.at(np.arange(start, stop)) for start, stop in _blocks(len(self.known)))
        return digest_of(self.known.tobytes(), *(digest_of(block.tobytes()) for block in blocks))


def _read_table(name: str, given: Any, *, normalize: bool | None) -> _Table:
    """Check texts and vectors; ``normalize`` None takes vectors of any length."""
    if not isinstance(given, (tuple, list)) or len(given) != 2 or isinstance(given[0], str):
        raise ArgumentError(f"Expected {name} as (texts, vectors), got {type(given).__name__}; give a pair.")
    texts: list[Any] = list(given[0])
    wrong = next((row for row, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise TextError(f"Expected strings as texts of {name}, got {type(texts[wrong]).__name__} in row {wrong}.")
    vectors = _read(name, given[1])
    if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.size:
        raise VectorError(f"Expected {name} with vectors of shape [{len(texts)}, d], got {list(vectors.shape)}.")
    lengths = _check_finite(name, vectors)
    if normalize is not None:
        _check_lengths(name, lengths, normalize)
    digests = digest_texts(texts)
    known, places = np.unique(digests, return_index=True)
    if len(known) < len(digests):
        _check_repeated(name, texts, vectors, find(known, digests), places)
    return _Table(known, places.astype(np.int64), vectors, bool(normalize))


def _read(name: str, vectors: Vectors) -> npt.NDArray[Any]:
    """Return vectors as an array, of whatever shape they have: that of a file stays in the file."""
    try:
        if isinstance(vectors, (str, Path)):
            array = np.lib.format.open_memmap(vectors, mode="r")
            return array if np.issubdtype(array.dtype, np.number) else np.array(array, dtype=np.float32)
        if hasattr(vectors, "detach"):  # a torch tensor, which may lie on another device
            vectors = vectors.detach().float().cpu().numpy()
        elif not isinstance(vectors, np.ndarray):
            vectors = list(vectors)
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused
            return np.array(vectors, dtype=np.float32)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise VectorError(
            f"Expected {name} with vectors as rows of numbers, all of one length, got something else ({reason})."
        ) from error


def _check_finite(name: str, vectors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the length of every vector, shape ``[n]``, or refuse them if a value is not finite in float32."""
    lengths = np.empty(len(vectors))
    bad: list[int] = []
    for start, stop in _blocks(len(vectors)):
        block = _as_float32(vectors[start:stop], normalize=False)
        bad += (start + np.flatnonzero(~np.isfinite(block).all(axis=1))).tolist()
        lengths[start:stop] = np.linalg.norm(block.astype(np.float64), axis=1)
    if bad:
        raise VectorError(
            f"Expected finite vectors in {name}, got NaN or infinite values in row {bad[0]} ({len(bad)} rows)."
        )
    return lengths


def _check_lengths(name: str, lengths: npt.NDArray[np.float64], normalize: bool) -> None:
    if not lengths.all():
        raise VectorError(
            f"Expected vectors with a direction in {name}, got all zeros in row {int(np.argmin(lengths))}."
        )
    off = np.flatnonzero(np.abs(lengths - 1) > UNIT_TOLERANCE)
    if len(off) and not normalize:
        raise VectorError(
            f"Expected unit vectors in {name}, got length {lengths[off[0]]:.4f} in row {off[0]} ({len(off):,} rows); "
            "pass normalize=True, or similarity='dot' if lengths matter."
        )


def _check_repeated(name: str, texts: list[str], vectors: npt.NDArray[Any], positions: Ids, places: Ids) -> None:
    """Refuse a text that comes twice with different vectors."""
    repeated = np.flatnonzero(places[positions] != np.arange(len(positions)))
    for start, stop in _blocks(len(repeated)):
        rows = repeated[start:stop]
        differ = np.flatnonzero((vectors[rows] != vectors[places[positions[rows]]]).any(axis=1))
        if len(differ):
            text = texts[rows[differ[0]]]
            raise VectorError(f"Expected one vector per text in {name}, got two for {text[:60]!r}; keep one of them.")


def _as_float32(vectors: npt.NDArray[Any], normalize: bool) -> Floats:
    with np.errstate(over="ignore"):
        block = np.array(vectors, dtype=np.float32)
    if normalize:
        block = (block / np.linalg.norm(block.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)
    return block


def _blocks(num_rows: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + BLOCK_ROWS, num_rows)) for start in range(0, num_rows, BLOCK_ROWS))
