"""What a teacher is: something that turns texts into scores.

There are two kinds. An ``Encoder`` gives each text a vector, and a score is the product of two vectors. A ``Ranker``
scores anchors against a whole corpus (BM25). Both end as a ``Scorer``, which is all that the search sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hn_datasets.texts import Corpus

if TYPE_CHECKING:
    import torch

Role = Literal["anchor", "passage"]
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Scores(Protocol):
    """The scores of a block of anchors against all passages; computed as asked for, never held whole.

    Attributes:
        num_passages: size of the corpus.
        slack: shape ``[num_anchors]``, float32, at least 0: how far a value of ``tile`` may be from that of ``pairs``,
            before it is rounded to bfloat16 where the tile is bfloat16.
    """

    num_passages: int
    slack: Floats

    def tile(self, start: int, stop: int) -> Floats | torch.Tensor:
        """Return fast scores of all anchors against passages ``start`` to ``stop``: ``[num_anchors, stop - start]``.

        A float32 array, a bfloat16 tensor on the CPU, or a tensor on another device.
        """

    def pairs(self, rows: Ids, ids: Ids) -> Floats:
        """Return *the* score of each (anchor row, passage id) pair, shape ``[n]``.

        It depends on the two texts alone, to the last bit: not on the other pairs, nor on the blocks.
        """

    def of_texts(self, rows: Ids, texts: Sequence[str]) -> Floats:
        """Return *the* score of each (anchor row, text) pair, shape ``[n]``, for texts that the corpus may not have."""


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
