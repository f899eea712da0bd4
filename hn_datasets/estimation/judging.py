"""Who says whether a negative is false: hidden positives, a cross-encoder, or a function of the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from hn_datasets.errors import ArgumentError
from hn_datasets.estimation.hiding import Trial
from hn_datasets.teachers.base import Ids
from hn_datasets.teachers.cross_encoder import PairScorer, join_pair
from hn_datasets.texts import Corpus

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Judge: TypeAlias = Callable[[list[str], list[str]], Sequence[float] | npt.NDArray[np.float64]]
"""``judge(anchors, passages)`` says of each pair whether the passage is a right answer: a bool, or a probability."""

PAIRS_AT_ONCE = 1024
Doubles = npt.NDArray[np.float64]


class Verdicts(Protocol):
    """Says of negatives how likely they are false.

    Attributes:
        source: what says so, in words.
        num_judged: how many pairs it has been asked for; 0 where labels know.
    """

    source: str

    @property
    def num_judged(self) -> int:
        """How many pairs were asked for."""

    def of(self, rows: Ids, ids: Ids) -> Doubles:
        """Return, for each (row of the trial, passage id) pair, 0 for a true negative to 1 for a false one."""


class HiddenPositives:
    """A negative is false if it is one of the positives that were hidden."""

    source = "hidden positives"
    num_judged = 0

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def of(self, rows: Ids, ids: Ids) -> Doubles:
        """Return 1 for a hidden positive, else 0 (shape ``[n]``)."""
        return self._trial.is_hidden(rows, ids).astype(np.float64)


class Judged:
    """A negative is false if a judge says so; each pair is asked for once.

    Args:
        judge: gets the texts of at most 1,024 pairs at once.
        trial: the rows.
        corpus: has the texts of the ids.
        source: what the judge is, in words.
    """

    def __init__(self, judge: Judge, trial: Trial, corpus: Corpus, source: str) -> None:
        self.source = source
        self._judge, self._trial, self._corpus = judge, trial, corpus
        self._known: dict[tuple[int, int], float] = {}

    @property
    def num_judged(self) -> int:
        """How many pairs were asked for."""
        return len(self._known)

    def of(self, rows: Ids, ids: Ids) -> Doubles:
        """Return the judge's answers (shape ``[n]``).

        Raises:
            ArgumentError: the judge gives another number of answers, or one outside 0 to 1.
        """
        pairs = list(zip(rows.tolist(), ids.tolist(), strict=True))
        new = sorted({*pairs} - self._known.keys())
        passages = self._corpus.texts(np.array([number for _, number in new], np.int64))
        answers = ask(self._judge, [self._trial.anchors[row] for row, _ in new], passages)
        self._known.update(zip(new, answers.tolist(), strict=True))
        return np.array([self._known[pair] for pair in pairs], dtype=np.float64)


class CrossEncoderJudge:
    """Calls a passage a right answer where a cross-encoder scores it at least as high as the anchor's positive.

    Args:
        model: a cross-encoder with one label, or its name or folder.
        anchors: n texts.
        positives: one of each anchor; of several for one anchor, the lowest score counts.

    Raises:
        TeacherError: the model cannot be loaded.
        ArgumentError: the model has several labels.
        VectorError: a score is NaN or infinite.
    """

    def __init__(self, model: CrossEncoder | str, anchors: Sequence[str], positives: Sequence[str]) -> None:
        self._scorer = PairScorer(model)
        self._bounds: dict[str, float] = {}
        for anchor, score in zip(anchors, self._score(anchors, positives).tolist(), strict=True):
            self._bounds[anchor] = min(score, self._bounds.get(anchor, score))

    def __call__(self, anchors: list[str], passages: list[str]) -> Doubles:
        """Return 1 where the passage scores at least as high as the positive, else 0 (shape ``[n]``)."""
        bounds = np.array([self._bounds[anchor] for anchor in anchors])
        return (self._score(anchors, passages) >= bounds).astype(np.float64)

    def _score(self, anchors: Sequence[str], passages: Sequence[str]) -> Doubles:
        pairs = [join_pair(*pair) for pair in zip(anchors, passages, strict=True)]
        return self._scorer.encode(pairs, "pair")[:, 0].astype(np.float64)


def ask(judge: Judge, anchors: Sequence[str], passages: Sequence[str]) -> Doubles:
    """Return a judge's answers about n pairs (shape ``[n]``), of which it gets at most 1,024 at once.

    Raises:
        ArgumentError: the judge gives another number of answers, or one outside 0 to 1.
    """
    answers = [np.empty(0)]
    for start in range(0, len(anchors), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        answers.append(_check_answers(judge([*anchors[part]], [*passages[part]]), len(anchors[part])))
    return np.concatenate(answers)


def _check_answers(answers: Sequence[float] | Doubles, number: int) -> Doubles:
    values = np.asarray(answers, dtype=np.float64)
    if values.shape != (number,):
        raise ArgumentError(
            f"Expected {number:,} answers of the judge, one for each pair, got an array of shape {values.shape}; "
            "return a list as long as its two arguments."
        )
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        raise ArgumentError(
            f"Expected answers of the judge from 0 to 1, got {values[wrong][0]:g}; return bools or probabilities."
        )
    return values
