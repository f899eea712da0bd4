"""Who says whether a negative is false: hidden positives, a cross-encoder, or a function of the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from sentence_transformers import CrossEncoder

from hn_datasets.errors import ArgumentError
from hn_datasets.estimation.hiding import Trial
from hn_datasets.teachers.base import Ids
from hn_datasets.texts import Corpus

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
        for start in range(0, len(new), PAIRS_AT_ONCE):
            part = new[start : start + PAIRS_AT_ONCE]
            anchors = [self._trial.anchors[row] for row, _ in part]
            answers = self._judge(anchors, self._corpus.texts(np.array([number for _, number in part], np.int64)))
            self._known.update(zip(part, _check_answers(answers, len(part)).tolist(), strict=True))
        return np.array([self._known[pair] for pair in pairs], dtype=np.float64)


class CrossEncoderJudge:
    """Calls a passage a right answer where a cross-encoder scores it at least as high as the anchor's positive.

    Args:
        model: a cross-encoder with one output, or its name or folder.
        trial: the anchors and their positives.
        batch_size: pairs per forward pass.
    """

    def __init__(self, model: CrossEncoder | str, trial: Trial, batch_size: int = 32) -> None:
        self.model = CrossEncoder(model) if isinstance(model, str) else model
        if self.model.num_labels != 1:
            raise ArgumentError(
                f"Expected a cross-encoder with one score per pair, got one with {self.model.num_labels} "
                "labels; choose a reranker."
            )
        self._batch_size = batch_size
        self._positive_scores = dict(zip(trial.anchors, self._score(trial.anchors, trial.shown), strict=True))

    def __call__(self, anchors: list[str], passages: list[str]) -> Doubles:
        """Return 1 where the passage scores at least as high as the positive, else 0 (shape ``[n]``)."""
        bounds = np.array([self._positive_scores[anchor] for anchor in anchors])
        return (self._score(anchors, passages) >= bounds).astype(np.float64)

    def _score(self, anchors: list[str], passages: list[str]) -> Doubles:
        pairs = list(zip(anchors, passages, strict=True))
        scores = np.asarray(
            self.model.predict(pairs, batch_size=self._batch_size, show_progress_bar=False), dtype=np.float64
        )
        if not np.isfinite(scores).all():
            raise ArgumentError(
                f"Expected finite scores of the cross-encoder, got {(~np.isfinite(scores)).sum():,} that are not; load "
                "it with float32 weights."
            )
        return scores


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
