"""What a teacher is: something that turns texts into scores.

There are two kinds. An ``Encoder`` gives each text a vector, and a score is the product of two vectors. A ``Ranker``
scores anchors against a whole corpus (BM25). Both end as a ``Scorer``, which is all that the search sees.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from hn_datasets.texts import Corpus

if TYPE_CHECKING:
    import torch

Role = Literal["anchor", "passage", "pair"]
"""What a text is to an encoder; only cross-encoders know pairs."""

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
NO_CROWD = sys.maxsize // 2
"""``Scores.crowd`` where no scores have less slack."""

Tile: TypeAlias = "Floats | npt.NDArray[np.int32] | torch.Tensor"


class Exact(NamedTuple):
    """Vectors whose products are the exact scores; no passages where tiles are exact already.

    Attributes:
        anchors: shape ``[num_anchors, d]``, float32.
        passages: shape ``[num_passages, d]`` or ``[0, 0]``, float32.
    """

    anchors: Floats
    passages: Floats


class Scores(Protocol):
    """The scores of a block of anchors against all passages; computed as asked for, never held whole.

    Attributes:
        num_passages: size of the corpus.
        on_accelerator: whether tiles are tensors on another device.
        exact: what exact scores are made from.
        units: shape ``[num_anchors]``, float64, above 0: a value of a tile times the unit of its row is a score.
        slack: shape ``[num_anchors]``, float64, at least 0: how far that score may be from the exact one.
        crowd: how many candidates within the slack a row may have, beyond its share of the passages, before it is
            cheaper to search in ``narrower`` scores; see ``scanning.PASSAGES_PER_CANDIDATE``.
    """

    num_passages: int
    on_accelerator: bool
    exact: Exact
    units: npt.NDArray[np.float64]
    slack: npt.NDArray[np.float64]
    crowd: int

    def narrower(self, rows: Ids) -> Scores:
        """Return the scores of some anchors (shape ``[n]``) with less slack; only asked of rows with a crowd."""

    def tiles(self, begin: int, end: int) -> Iterator[tuple[int, Tile]]:
        """Yield fast scores of anchors ``begin`` to ``end``: the first passage of a tile, and the tile.

        Shape ``[end - begin, m]``; int32 or float32, or a float32 tensor on an accelerator. A tile may be overwritten
        by the next one. Tiles come in the order of the passages. Threads call this at once, each for its own rows.
        """

    def pairs(self, rows: Ids, ids: Ids) -> Floats:
        """Return *the* score of each (anchor row, passage id) pair, shape ``[n]``.

        It depends on the two texts alone, to the last bit: not on the other pairs, nor on the blocks.
        """

    def of_texts(self, rows: Ids, texts: Sequence[str]) -> Floats:
        """Return *the* score of each (anchor row, text) pair, shape ``[n]``, for texts that the corpus may not have."""


class DenseScoresLike(Scores, Protocol):
    """Scores that are products of vectors.

    Attributes:
        mean_passage: shape ``[d]``, float64, the mean vector of the corpus.
    """

    mean_passage: npt.NDArray[np.float64]

    def stored(self, ids: Ids) -> Floats:
        """Return the vectors of passages of the corpus, shape ``[len(ids), d]``, float32."""

    def similarities(self, ids: Ids, others: Ids) -> Floats:
        """Return the product of the vectors of each pair of passages, shape ``[len(ids)]``, float32."""

    def passage_vectors(self, texts: Sequence[str]) -> Floats:
        """Return the vectors of texts as passages, shape ``[len(texts), d]``, float32."""


class Scorer(Protocol):
    """A teacher with one corpus."""

    num_passages: int

    def scores(self, anchors: Sequence[str]) -> Scores:
        """Return the scores of these anchors against the corpus."""


class Teacher(Protocol):
    """What all teachers share.

    A teacher travels between processes and into fingerprints as its ``spec``; models and indexes stay behind.
    """

    def spec(self) -> dict[str, Any]:
        """Return everything that decides a score, as JSON data that ``load_teacher`` turns into the same teacher."""


@runtime_checkable
class Encoder(Teacher, Protocol):
    """A teacher that gives each text one vector.

    Attributes:
        similarity: ``"cosine"``: vectors have unit length; ``"dot"``: they have any length.
    """

    similarity: Literal["cosine", "dot"]

    @property
    def dimension(self) -> int:
        """Number of components of a vector."""

    def space(self, role: Role) -> str:
        """Return the address of the vectors of one role in the store: a digest of all that decides them."""

    def encode(self, texts: Sequence[str], role: Role) -> Floats:
        """Return the vectors of texts, shape ``[len(texts), dimension]``, float32, finite."""


@runtime_checkable
class Ranker(Teacher, Protocol):
    """A teacher that scores whole texts against a corpus."""

    def scorer(self, corpus: Corpus, directory: Path) -> Scorer:
        """Return this teacher with one corpus; what it has to build goes to ``directory`` and is built once."""
