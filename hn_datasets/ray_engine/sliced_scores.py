"""The scores of a corpus in pieces: those of pairs are looked up in files, the search goes to other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hn_datasets.errors import VectorError
from hn_datasets.products import dot_products
from hn_datasets.ray_engine.sliced import SlicedCorpus
from hn_datasets.search import Found, Search
from hn_datasets.sums import mean_vector
from hn_datasets.teachers.base import NO_CROWD, Exact, Floats, Ids, Scores, Tile
from hn_datasets.teachers.bm25 import BM25Scorer, BM25Scores
from hn_datasets.teachers.bm25_index import TermCounts
from hn_datasets.texts import (
    Ragged,
)

Prepared = Floats | TermCounts
"""Anchors as a teacher sees them: vectors, or counts of terms."""

Ask = Callable[[Prepared, Sequence[Search], bool], list[Found]]
"""From anchors and searches of the whole corpus, approximate ones or not, to their answers."""

_NO_PASSAGES = np.empty((0, 0), np.float32)


class _SlicedScores:
    """What the scores of all teachers share; they are searched where the passages are."""

    on_accelerator = False
    crowd = NO_CROWD

    def __init__(self, num_passages: int, anchors: Prepared, num_anchors: int, ask: Ask) -> None:
        self.num_passages = num_passages
        self.units = np.ones(num_anchors)
        self.slack = np.zeros(num_anchors)
        self._anchors = anchors
        self._ask = ask

    def find(self, searches: Sequence[Search]) -> list[Found]:
        """Answer several searches exactly; see ``search.k_best_below``."""
        return self._ask(self._anchors, searches, False)

    def find_approximately(self, searches: Sequence[Search]) -> list[Found]:
        """Answer several searches by the index of every piece."""
        return self._ask(self._anchors, searches, True)

    def tiles(self, begin: int, end: int) -> Iterator[tuple[int, Tile]]:
        """Refuse: there is no tile here."""
        raise NotImplementedError("scores in pieces are searched by find")

    def narrower(self, rows: Ids) -> Scores:
        """Refuse, as ``tiles``."""
        raise NotImplementedError("scores in pieces are searched by find")


class SlicedIndex:
    """The approximate indexes of all pieces as one; see ``picking.Index``."""

    def k_best_below(self, scores: Any, searches: Sequence[Search]) -> list[Found]:
        """Answer several searches; every score is exact, and no row is short that need not be."""
        found: list[Found] = scores.find_approximately(searches)
        return found


class SlicedDenseScorer:
    """An encoder with a corpus in pieces, whose vectors lie in one file per piece.

    Args:
        corpus: the passages.
        passages: the vectors of each piece, None where it has no passage.
        anchors: the texts of all anchors.
        vectors: the vectors of each piece of the anchors.
        sums: of all passage vectors; None where no guard asks.
        ask: searches.
    """

    def __init__(
        self,
        corpus: SlicedCorpus,
        passages: Sequence[Floats | None],
        anchors: SlicedCorpus,
        vectors: Sequence[Floats | None],
        sums: tuple[int, ...] | None,
        ask: Ask,
    ) -> None:
        self.corpus = corpus
        self.num_passages = len(corpus)
        self.sums = sums
        self.ask = ask
        self._passages = passages
        self._anchors = anchors
        self._vectors = vectors

    def scores(self, anchors: Sequence[str]) -> SlicedDenseScores:
        """Return the scores of these anchors against the corpus."""
        ids = self._anchors.ids(anchors)
        return SlicedDenseScores(self, _gather(self._anchors, self._vectors, ids, "anchor"))

    def stored(self, ids: Ids) -> Floats:
        """Return the vectors of passages."""
        return _gather(self.corpus, self._passages, ids, "passage")

    @cached_property
    def mean_passage(self) -> npt.NDArray[np.float64]:
        """Mean vector of the passages, shape ``[d]``, float64."""
        return mean_vector(self.sums or (), self.num_passages)


class SlicedDenseScores(_SlicedScores):
    """The scores of a block of anchors; see ``teachers.base.DenseScoresLike``."""

    def __init__(self, scorer: SlicedDenseScorer, anchors: Floats) -> None:
        super().__init__(scorer.num_passages, anchors, len(anchors), scorer.ask)
        self.exact = Exact(anchors, _NO_PASSAGES)
        self._scorer = scorer

    def pairs(self, rows: Ids, ids: Ids) -> Floats:
        """Return the score of each (anchor row, passage id) pair, shape ``[n]``, float32."""
        return dot_products(self.exact.anchors, self.stored(ids), rows, np.arange(len(ids)))

    def of_texts(self, rows: Ids, texts: Sequence[str]) -> Floats:
        """Return the score of each (anchor row, text) pair, shape ``[n]``, float32."""
        return dot_products(self.exact.anchors, self.passage_vectors(texts), rows, np.arange(len(texts)))

    @property
    def mean_passage(self) -> npt.NDArray[np.float64]:
        """Mean vector of the passages, shape ``[d]``, float64."""
        return self._scorer.mean_passage

    def stored(self, ids: Ids) -> Floats:
        """Return the vectors of passages, shape ``[len(ids), d]``, float32."""
        return self._scorer.stored(ids)

    def similarities(self, ids: Ids, others: Ids) -> Floats:
        """Return the product of the vectors of each pair of passages, shape ``[len(ids)]``, float32."""
        known, places = np.unique(np.concatenate([ids, others]), return_inverse=True)
        vectors = self.stored(known)
        return dot_products(vectors, vectors, places[: len(ids)], places[len(ids) :])

    def passage_vectors(self, texts: Sequence[str]) -> Floats:
        """Return the vectors of texts of the corpus, shape ``[len(texts), d]``, float32."""
        return self.stored(self._scorer.corpus.ids(texts))


class SlicedBM25Scorer:
    """A BM25 teacher with a corpus in pieces.

    Args:
        corpus: the passages.
        scorers: of each piece, None where it has no passage.
        ask: searches.
    """

    def __init__(self, corpus: SlicedCorpus, scorers: Sequence[BM25Scorer | None], ask: Ask) -> None:
        self.corpus = corpus
        self.num_passages = len(corpus)
        self.scorers = scorers
        self.ask = ask

    def scores(self, anchors: Sequence[str]) -> SlicedBM25Scores:
        """Return the scores of these anchors against the corpus."""
        return SlicedBM25Scores(self, self.any_scorer.count_terms(anchors))

    @property
    def any_scorer(self) -> BM25Scorer:
        """The scorer of one piece: all of them know the terms of the whole corpus."""
        return next(scorer for scorer in self.scorers if scorer is not None)


class SlicedBM25Scores(_SlicedScores):
    """The scores of a block of anchors; see ``teachers.base.Scores``."""

    exact = Exact(_NO_PASSAGES, _NO_PASSAGES)

    def __init__(self, scorer: SlicedBM25Scorer, anchors: TermCounts) -> None:
        super().__init__(scorer.num_passages, anchors, len(anchors.lengths), scorer.ask)
        self._scorer = scorer
        self._terms = anchors

    def pairs(self, rows: Ids, ids: Ids) -> Floats:
        """Return the score of each (anchor row, passage id) pair, shape ``[n]``, float32."""
        scores = np.empty(len(ids), dtype=np.float32)
        for number, places, own in self._scorer.corpus.pieces(ids):
            scorer = self._scorer.scorers[number]
            if scorer is not None:
                scores[places] = BM25Scores(scorer, self._terms).pairs(rows[places], own)
        return scores

    def of_texts(self, rows: Ids, texts: Sequence[str]) -> Floats:
        """Return the score of each (anchor row, text) pair, shape ``[n]``, float32."""
        return BM25Scores(self._scorer.any_scorer, self._terms).of_texts(rows, texts)


def cut(search: Search, begin: int, end: int) -> Search:
    """Return the search among passages ``begin`` to ``end``, whose ids begin at 0 there."""
    excluded = search.excluded
    inside = (excluded.values >= begin) & (excluded.values < end)
    counts = np.bincount(excluded.rows[inside], minlength=len(excluded))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    blocked = search.blocked[begin:end] if search.blocked is not None else None
    own = Ragged(offsets, excluded.values[inside] - begin)
    return Search(search.ceilings, search.k, own, blocked, search.nearness)


def _gather(texts: SlicedCorpus, matrices: Sequence[Floats | None], ids: Ids, what: str) -> Floats:
    """Return the vectors of some texts from the files of their pieces.

    Raises:
        VectorError: a text is not there.
    """
    if len(ids) and ids.min() < 0:
        raise VectorError(f"Expected a vector for every {what}, {(ids < 0).sum()} of {len(ids)} have none.")
    dimension = next(matrix.shape[1] for matrix in matrices if matrix is not None)
    vectors = np.empty((len(ids), dimension), dtype=np.float32)
    for number, places, own in texts.pieces(ids):
        matrix = matrices[number]
        if matrix is not None:
            vectors[places] = matrix[own]
    return vectors
