"""Guards: rules that keep likely false negatives out, whatever their score.

A guard is told the rows and answers with a rule for the search. So a passage that it takes out is replaced by the next
one that qualifies, and rows stay full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from hn_datasets.errors import ArgumentError
from hn_datasets.methods import Method, RandomNegatives
from hn_datasets.search import Nearness
from hn_datasets.teachers.base import DenseScoresLike, Encoder, Floats, Ids, Scores, Teacher
from hn_datasets.texts import Corpus, Ragged


@dataclass(frozen=True)
class Block:
    """Rows that are mined together.

    Attributes:
        anchors: n texts.
        positives: all known positives of each anchor, each once.
        positive_scores: shape ``[n]``, float32, the lowest score among the positives of the row itself.
        lowest: shape ``[n]``, float32, the same among all known positives of the anchor.
        scores: of the anchors against the corpus.
        columns: the values of further columns that guards asked for.
    """

    anchors: Sequence[str]
    positives: Sequence[Sequence[str]]
    positive_scores: Floats
    lowest: Floats
    scores: Scores
    columns: Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Rule:
    """What a guard lets no row, or some rows, have.

    Attributes:
        excluded: for each anchor, ids of passages in rising order.
        blocked: shape ``[num_passages]``, bool: passages that no anchor gets.
        nearness: a second ceiling.
    """

    excluded: Ragged | None = None
    blocked: npt.NDArray[np.bool_] | None = None
    nearness: Nearness | None = None

    def refuses(self, scores: Scores, ids: Ids) -> npt.NDArray[np.bool_]:
        """Return which of these passages (``[n, k]``, -1 where there is none) the rule takes from their rows."""
        there = ids >= 0
        rows, passages = np.nonzero(there)[0], ids[there]
        refused = np.zeros(len(rows), dtype=bool)
        if self.blocked is not None:
            refused |= self.blocked[passages]
        if self.excluded is not None:
            size = scores.num_passages
            refused |= np.isin(rows * size + passages, self.excluded.rows * size + self.excluded.values)
        if self.nearness is not None:
            refused |= self.nearness.refuses(scores.exact.passages, rows, passages)
        answer = np.zeros(ids.shape, dtype=bool)
        answer[there] = refused
        return answer


@dataclass(frozen=True)
class Guard:
    """What all guards share; each overrides what it needs."""

    name: ClassVar[str]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the guard reads beside anchors and positives."""
        return ()

    def check(self, teacher: Teacher, method: Method) -> None:
        """Refuse a teacher or method with which this guard cannot work; called before anything is encoded."""

    def rule(self, block: Block, corpus: Corpus) -> Rule:
        """Return what the rows of a block may not have."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: the name and every setting."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class SimilarToPositive(Guard):
    """A second ceiling, on how similar a passage is to the anchor's positives: likely paraphrases of them are left out.

    With t the largest similarity of a passage to one of the positives, p the lowest score of a positive with the
    anchor, and m the mean similarity of the positives to the whole corpus, a negative needs
    ``t < m + percentage * (p - m)``. Measured from m, the rule does not depend on where a teacher's scores begin. At
    the hardness of TopK-PercPos, ``TopK()`` with this guard has a third of its false negatives
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
            if number is not None and not (_is_number(number) and np.isfinite(number)):
                raise ArgumentError(
                    f"SimilarToPositive needs a finite number, got {number!r}; 0.3 is a good percentage."
                )
        if self.percentage is not None and not 0 < self.percentage <= 1:
            raise ArgumentError(
                f"SimilarToPositive needs a percentage in (0, 1], got {self.percentage!r}; write 30 % as 0.3."
            )

    def check(self, teacher: Teacher, method: Method) -> None:
        """Refuse a teacher without vectors, and negatives that are drawn."""
        if not isinstance(teacher, Encoder):
            raise ArgumentError(
                f"SimilarToPositive needs a teacher that gives passages vectors, got {type(teacher).__name__}; "
                "choose a dense teacher, or leave the guard out."
            )
        if isinstance(method, RandomNegatives):
            raise ArgumentError("SimilarToPositive has no effect on negatives drawn uniformly; leave it out.")

    def rule(self, block: Block, corpus: Corpus) -> Rule:
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
        ceilings: npt.NDArray[np.float64] = means + percentage * (block.lowest.astype(np.float64) - means)
        return ceilings


GUARDS: dict[str, type[Guard]] = {guard.name: guard for guard in (SimilarToPositive,)}


def describe_guards(guards: Sequence[Guard]) -> tuple[dict[str, Any], ...]:
    """Return the JSON forms of guards.

    Raises:
        ArgumentError: one is no guard, or there are two of a kind.
    """
    kinds: dict[Any, Guard] = {}
    for guard in guards:
        if not isinstance(guard, Guard):
            raise ArgumentError(f"Expected guards such as SimilarToPositive(), got {guard!r}.")
        other = kinds.setdefault((guard.name, guard.columns), guard)
        if other is not guard:
            raise ArgumentError(f"Expected one guard of each kind, got {other!r} and {guard!r}; leave one out.")
    return tuple(guard.to_dict() for guard in guards)


def same_texts(block: Block, corpus: Corpus) -> Ragged:
    """Return the ids of passages with the normalised text of the anchor or of one of its positives; always left out."""
    counts = np.array([1 + len(texts) for texts in block.positives], dtype=np.int64)
    texts = [text for anchor, own in zip(block.anchors, block.positives, strict=True) for text in (anchor, *own)]
    return corpus.ids_of_same(texts, np.repeat(np.arange(len(block.anchors)), counts), len(block.anchors))


def guard_from_dict(data: dict[str, Any]) -> Guard:
    """Return the guard whose ``to_dict`` gave ``data``.

    Raises:
        ArgumentError: the name or a field is unknown, or a value is out of range.
    """
    settings = dict(data)
    name = settings.pop("name", None)
    if name not in GUARDS:
        raise ArgumentError(f"Unknown guard {name!r}; choose one of {', '.join(GUARDS)}.")
    try:
        return GUARDS[name](**settings)
    except TypeError as error:
        raise ArgumentError(
            f"Unknown setting of the guard {name!r} ({error}); remove what it does not know."
        ) from error


def merge(parts: Sequence[Ragged], num_rows: int) -> Ragged:
    """Return the union of several lists per row."""
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([part.rows for part in parts])
    return Ragged.from_pairs(rows, np.concatenate([part.values for part in parts]), num_rows)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
