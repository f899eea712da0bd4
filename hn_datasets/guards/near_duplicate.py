"""The guard on negatives that nearly repeat one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt

from hn_datasets.errors import ArgumentError
from hn_datasets.guards.base import Block, Guard, Sieve, Sources, check_vectors, is_number
from hn_datasets.methods import Method
from hn_datasets.teachers.base import DenseScoresLike, Ids, Teacher

CANDIDATES = 16
"""How many of a row's best passages are looked at first."""


@dataclass(frozen=True)
class NearDuplicate(Guard):
    """No two negatives of a row that nearly repeat one another.

    Going down the ranking, a passage whose vector has a product of ``threshold`` or more with that of a negative which
    the row has already is left out, and the next one takes its place. With ``sampling``, this holds for the passages
    that are drawn from.

    Args:
        threshold: above 0; 0.95 is a near repetition for most models with cosine similarity.

    Raises:
        ArgumentError: ``threshold`` is out of range; or the teacher gives texts no vectors.
    """

    threshold: float = 0.95
    name: ClassVar[str] = "near-duplicate"
    sifts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not is_number(self.threshold) or not 0 < self.threshold < np.inf:
            raise ArgumentError(f"NearDuplicate needs a threshold above 0, got {self.threshold!r}; 0.95 is a good one.")

    def check(self, teacher: Teacher, method: Method) -> None:
        """Refuse a teacher without vectors, and negatives that are drawn."""
        check_vectors(self, teacher, method)

    def sieve(self, block: Block, sources: Sources) -> Sieve:
        """Return what compares candidates with the negatives that a row has."""
        return _Similarities(cast(DenseScoresLike, block.scores), self.threshold)


class _Similarities:
    """Refuses passages that are too near to one that is kept.

    Args:
        scores: those of a block, which have the vectors of the passages.
        threshold: the product from which on two passages are too near.
    """

    num_candidates = CANDIDATES

    def __init__(self, scores: DenseScoresLike, threshold: float) -> None:
        self._scores = scores
        self._threshold = threshold
        self.most_candidates = scores.num_passages

    def prepare(self, rows: Ids, ids: Ids) -> None:
        """Nothing has to be ready: only few pairs of candidates are ever compared."""

    def refuses(self, rows: Ids, ids: Ids, kept: Ids) -> npt.NDArray[np.bool_]:
        """Return which candidates are too near to one that is kept."""
        places, columns = np.nonzero(kept >= 0)
        products = self._scores.similarities(ids[places], kept[places, columns])
        refused = np.zeros(len(ids), dtype=bool)
        refused[places[products >= self._threshold]] = True
        return refused
