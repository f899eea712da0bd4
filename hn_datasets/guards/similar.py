"""The guard on how similar a passage is to the positives."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt

from hn_datasets.errors import ArgumentError
from hn_datasets.guards.base import Block, Guard, Rule, Sources, check_vectors, is_number
from hn_datasets.methods import Method
from hn_datasets.search import Nearness
from hn_datasets.teachers.base import DenseScoresLike, Floats, Teacher
from hn_datasets.texts import Ragged


@dataclass(frozen=True)
class SimilarToPositive(Guard):
    """A second ceiling, on how similar a passage is to the anchor's positives: likely paraphrases of them are left out.

    With t the largest similarity of a passage to one of the positives, p the lowest score of a positive with the
    anchor, and m the mean similarity of the positives to the whole corpus, a negative needs
    ``t < m + percentage * max(p - m, 0)``. Measured from m, the rule does not depend on where a teacher's scores begin;
    and with a teacher that scores anchors lower than passages, where p may be below m, rows are still full. At the
    hardness of TopK-PercPos, ``TopK()`` with this guard has a third of its false negatives
    (``tests/benchmarks/bench_false_negatives.py``).

    Args:
        percentage: in (0, 1]; the lower, the stricter. 0.3 if neither is given.
        max_score: ``t < max_score`` instead; a finite number.

    Raises:
        ArgumentError: both are given, or one is out of range; or the teacher gives texts no vectors.
    """

    percentage: float | None = None
    max_score: float | None = None
    name: ClassVar[str] = "similar-to-positive"

    def __post_init__(self) -> None:
        if self.percentage is not None and self.max_score is not None:
            raise ArgumentError(
                f"SimilarToPositive takes a percentage or a max_score, got {self.percentage!r} and {self.max_score!r}; "
                "leave one out."
            )
        if self.percentage is None and self.max_score is None:
            object.__setattr__(self, "percentage", 0.3)
        for number in (self.percentage, self.max_score):
            if number is not None and not (is_number(number) and np.isfinite(number)):
                raise ArgumentError(
                    f"SimilarToPositive needs a finite number, got {number!r}; 0.3 is a good percentage."
                )
        if self.percentage is not None and not 0 < self.percentage <= 1:
            raise ArgumentError(
                f"SimilarToPositive needs a percentage in (0, 1], got {self.percentage!r}; write 30 % as 0.3."
            )

    def check(self, teacher: Teacher, method: Method) -> None:
        """Refuse a teacher without vectors, and negatives that are drawn."""
        check_vectors(self, teacher, method)

    def rule(self, block: Block, sources: Sources) -> Rule:
        """Return a ceiling for each anchor on the similarity to its positives."""
        scores = cast(DenseScoresLike, block.scores)  # ``check`` has seen to it
        numbers = {text: number for number, text in enumerate(dict.fromkeys(chain.from_iterable(block.positives)))}
        vectors = scores.passage_vectors(list(numbers))
        rows = np.repeat(np.arange(len(block.anchors)), [len(row) for row in block.positives])
        values = np.fromiter(map(numbers.__getitem__, chain.from_iterable(block.positives)), np.int64, len(rows))
        positives = Ragged.from_pairs(rows, values, len(block.anchors))
        return Rule(nearness=Nearness(self._ceilings(block, positives, vectors), positives, vectors))

    def _ceilings(self, block: Block, positives: Ragged, vectors: Floats) -> npt.NDArray[np.float64]:
        if self.max_score is not None:
            return np.full(len(block.anchors), float(self.max_score))
        percentage, scores = cast(float, self.percentage), cast(DenseScoresLike, block.scores)
        similarities = np.einsum("ij,j->i", vectors.astype(np.float64), scores.mean_passage)
        sums = np.bincount(positives.rows, weights=similarities[positives.values], minlength=len(block.anchors))
        means = sums / np.maximum(positives.counts, 1)
        leads = np.maximum(block.lowest.astype(np.float64) - means, 0)
        ceilings: npt.NDArray[np.float64] = means + percentage * leads
        return ceilings
