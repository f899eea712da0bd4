"""What a guard is: a rule that keeps likely false negatives out, whatever their score.

A guard is told the rows and answers with a rule for the search, or with a sieve for the ranking that the search gives.
So a passage that it takes out is replaced by the next one that qualifies, and rows stay full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, Self, cast

import numpy as np
import numpy.typing as npt

from hn_datasets.errors import ArgumentError
from hn_datasets.methods import Method, RandomNegatives
from hn_datasets.recipe import Recipe
from hn_datasets.search import Nearness
from hn_datasets.store import EmbeddingStore
from hn_datasets.teachers.base import DenseScoresLike, Encoder, Floats, Ids, Scores, Teacher
from hn_datasets.texts import AnyCorpus, AnyGroups, Ragged


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
            vectors = cast(DenseScoresLike, scores).stored(passages)
            refused |= self.nearness.refuses(vectors, rows, np.arange(len(passages)))
        answer = np.zeros(ids.shape, dtype=bool)
        answer[there] = refused
        return answer


@dataclass(frozen=True)
class Sources:
    """Where guards look things up; the same in every process.

    Attributes:
        recipe: every choice that decides the result.
        corpus: the passages.
        store: has vectors, and the files of guards.
        groups: by column, the passages of every group.
    """

    recipe: Recipe
    corpus: AnyCorpus
    store: EmbeddingStore
    groups: Mapping[str, AnyGroups]


class Sieve(Protocol):
    """Judges the candidates of a block after the search, each row's best first.

    Attributes:
        num_candidates: how many of a row's best passages it wants to see at once.
        most_candidates: how many of them it sees at most.
    """

    num_candidates: int
    most_candidates: int

    def prepare(self, rows: Ids, ids: Ids) -> None:
        """Get ready for candidates.

        Args:
            rows: shape ``[n]``, numbers within the block.
            ids: shape ``[n, w]``, the passages of each row that are about to be judged, -1 where there is none.
        """

    def refuses(self, rows: Ids, ids: Ids, kept: Ids) -> npt.NDArray[np.bool_]:
        """Return which candidates are left out, shape ``[n]``.

        Args:
            rows: shape ``[n]``, numbers within the block, each once.
            ids: shape ``[n]``, one passage for each of these rows.
            kept: shape ``[n, k]``, the passages that the row has so far, then -1.
        """


@dataclass(frozen=True)
class Guard:
    """What all guards share; each overrides what it needs, and gives a rule or a sieve."""

    name: ClassVar[str]
    sifts: ClassVar[bool] = False
    """Whether the guard gives a sieve."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the guard reads beside anchors and positives; their values name groups."""
        return ()

    @property
    def kind(self) -> tuple[str, ...]:
        """Two guards of one kind contradict one another."""
        return (self.name, *self.columns)

    def check(self, teacher: Teacher, method: Method) -> None:
        """Refuse a teacher or method with which this guard cannot work; called before anything is encoded."""

    def prepare(self, sources: Sources) -> None:
        """Write what workers need, and refuse what cannot work; called before anything is encoded."""

    def most_excluded(self, sources: Sources) -> int:
        """Return how many passages a rule typically lists for a row at most: it limits the rows of a block."""
        return 0

    def rule(self, block: Block, sources: Sources) -> Rule:
        """Return what the rows of a block may not have."""
        return Rule()

    def sieve(self, block: Block, sources: Sources) -> Sieve | None:
        """Return what judges the rows' candidates, if the guard does so after the search."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: the name and every setting."""
        return {"name": self.name, **asdict(self)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Return the guard with the settings of its JSON form.

        Raises:
            ArgumentError: a value is out of range.
            TypeError: a setting is unknown.
        """
        return cls(**settings)


def same_texts(block: Block, corpus: AnyCorpus) -> Ragged:
    """Return the ids of passages with the normalised text of the anchor or of one of its positives; always left out."""
    counts = np.array([1 + len(texts) for texts in block.positives], dtype=np.int64)
    texts = [text for anchor, own in zip(block.anchors, block.positives, strict=True) for text in (anchor, *own)]
    return corpus.ids_of_same(texts, np.repeat(np.arange(len(block.anchors)), counts), len(block.anchors))


def merge(parts: Sequence[Ragged], num_rows: int) -> Ragged:
    """Return the union of several lists per row."""
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([part.rows for part in parts])
    return Ragged.from_pairs(rows, np.concatenate([part.values for part in parts]), num_rows)


def check_vectors(guard: Guard, teacher: Teacher, method: Method) -> None:
    """Refuse what a guard that compares vectors cannot work with.

    Raises:
        ArgumentError: the teacher gives texts no vectors, or negatives are drawn uniformly.
    """
    name = type(guard).__name__
    if not isinstance(teacher, Encoder):
        raise ArgumentError(
            f"{name} needs a teacher that gives passages vectors, got {type(teacher).__name__}; choose a dense "
            "teacher, or leave the guard out."
        )
    if isinstance(method, RandomNegatives):
        raise ArgumentError(f"{name} has no effect on negatives drawn uniformly; leave it out.")


def is_number(value: object) -> bool:
    """Return whether a setting is a number, which True is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
