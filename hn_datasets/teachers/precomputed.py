"""A teacher whose vectors are there already: from an API, another library, dataset columns or ``.npy`` files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hn_datasets.errors import ArgumentError, TeacherError, TextError, VectorError
from hn_datasets.teachers.base import Floats, Role
from hn_datasets.texts import Digests, digest_of, digest_texts, find

UNIT_TOLERANCE = 1e-3
"""How far from 1 the length of a unit vector may be; vectors stored as float16 or bfloat16 stay within."""

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
        self._tables: dict[Role, tuple[Digests, Floats]] = {
            "anchor": _table("queries", queries, normalize=unit),
            "passage": _table("passages", passages, normalize=unit),
        }
        dimensions = {role: vectors.shape[1] for role, (_, vectors) in self._tables.items()}
        if len(set(dimensions.values())) > 1:
            raise VectorError(
                f"Expected one dimension, got {dimensions['anchor']} (queries) and {dimensions['passage']} (passages)."
            )
        self._spec = {
            "type": "precomputed",
            "dimension": dimensions["anchor"],
            "similarity": similarity,
            "queries": digest_of(*(part.tobytes() for part in self._tables["anchor"])),
            "passages": digest_of(*(part.tobytes() for part in self._tables["passage"])),
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
        known, vectors = self._tables[role]
        positions = find(known, digest_texts(texts))
        missing = np.flatnonzero(positions < 0)
        if len(missing):
            name = "queries" if role == "anchor" else "passages"
            raise TeacherError(
                f"Expected a vector for every text, but {len(missing):,} of {len(texts):,} {role}s have none, first "
                f"{texts[missing[0]][:60]!r}: add them to `{name}`."
            )
        return vectors[positions]

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(PrecomputedTeacher.from_spec(state["spec"]).__dict__)


def _table(name: str, given: Any, *, normalize: bool | None) -> tuple[Digests, Floats]:
    """Check vectors and sort them by the digests of their texts."""
    if not isinstance(given, (tuple, list)) or len(given) != 2 or isinstance(given[0], str):
        raise ArgumentError(f"Expected {name} as (texts, vectors), got {type(given).__name__}; give a pair.")
    texts: list[Any] = list(given[0])
    wrong = next((row for row, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise TextError(f"Expected strings as texts of {name}, got {type(texts[wrong]).__name__} in row {wrong}.")
    array = _read(name, given[1])
    if array.ndim != 2 or len(array) != len(texts) or not array.size:
        raise VectorError(f"Expected {name} with vectors of shape [{len(texts)}, d], got {list(array.shape)}.")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise VectorError(
            f"Expected finite vectors in {name}, got NaN or infinite values in row {bad[0]} ({len(bad)} rows)."
        )
    if normalize is not None:
        array = _unit(name, array, normalize)
    digests = digest_texts(texts)
    known, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    if len(known) < len(digests) and not np.array_equal(array[first][inverse], array):
        row = int(np.flatnonzero((array[first][inverse] != array).any(axis=1))[0])
        raise VectorError(f"Expected one vector per text in {name}, got two for {texts[row][:60]!r}; keep one of them.")
    return known, array[first]


def _read(name: str, vectors: Vectors) -> Floats:
    """Return vectors as a float32 array, of whatever shape they have."""
    try:
        if isinstance(vectors, (str, Path)):
            vectors = np.lib.format.open_memmap(vectors, mode="r")
        elif hasattr(vectors, "detach"):  # a torch tensor, which may lie on another device
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


def _unit(name: str, array: Floats, normalize: bool) -> Floats:
    lengths = np.linalg.norm(array.astype(np.float64), axis=1)
    if not lengths.all():
        raise VectorError(
            f"Expected vectors with a direction in {name}, got all zeros in row {int(np.argmin(lengths))}."
        )
    if normalize:
        scaled: Floats = (array / lengths[:, None]).astype(np.float32)
        return scaled
    off = np.flatnonzero(np.abs(lengths - 1) > UNIT_TOLERANCE)
    if len(off):
        raise VectorError(
            f"Expected unit vectors in {name}, got length {lengths[off[0]]:.4f} in row {off[0]} ({len(off):,} rows); "
            "pass normalize=True, or similarity='dot' if lengths matter."
        )
    return array
