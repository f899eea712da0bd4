"""A corpus, its groups and its scores in pieces, for what mines rows: texts and vectors are read from shared files.

Only the search goes to other processes. Everything else is a look-up in memory-mapped files, so the process that mines
a row holds nothing that grows with the corpus, but one byte for each passage where texts are held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hn_datasets.errors import VectorError
from hn_datasets.products import dot_products
from hn_datasets.ray_engine.ranges import ranges_of
from hn_datasets.search import Found, Search
from hn_datasets.sums import mean_vector
from hn_datasets.teachers.base import NO_CROWD, Exact, Floats, Ids, Scores, Tile
from hn_datasets.teachers.bm25 import BM25Scorer, BM25Scores
from hn_datasets.teachers.bm25_index import TermCounts
from hn_datasets.texts import (
    Corpus,
    Digests,
    PassageGroups,
    PassageLists,
    Ragged,
    digest_texts,
    normalise,
)

Prepared = Floats | TermCounts
"""Anchors as a teacher sees them: vectors, or counts of terms."""

Ask = Callable[[Prepared, Sequence[Search], bool], list[Found]]
"""From anchors and searches of the whole corpus, approximate ones or not, to their answers."""

_NO_PASSAGES = np.empty((0, 0), np.float32)


class SlicedCorpus:
    """Passages in ranges of their digests; see ``texts.AnyCorpus``.

    Args:
        paths: the file of each range, None where it has no passage.
    """

    def __init__(self, paths: Sequence[Path | None]) -> None:
        self.paths = tuple(paths)
        self.parts = [Corpus(path) if path is not None else None for path in paths]
        sizes = [len(part) if part is not None else 0 for part in self.parts]
        self.offsets: Ids = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def pieces(self, ids: Ids) -> Iterator[tuple[int, Ids, Ids]]:
        """Yield for each range that has some of the passages its number, their places, and their ids within it."""
        numbers = np.searchsorted(self.offsets, ids, side="right") - 1
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            yield number, places, ids[places] - self.offsets[number]

    def texts(self, ids: Ids) -> list[str]:
        """Return the texts of passages."""
        texts = np.empty(len(ids), dtype=object)
        for number, places, own in self.pieces(ids):
            texts[places] = self._part(number).texts(own)
        return list(texts)

    def digests_of(self, ids: Ids) -> Digests:
        """Return the digests of passages."""
        digests = np.empty(len(ids), dtype="S16")
        for number, places, own in self.pieces(ids):
            digests[places] = self._part(number).digests_of(own)
        return digests

    def ids(self, texts: Sequence[str]) -> Ids:
        """Return the id of each text, -1 where there is none."""
        return self.ids_of_digests(digest_texts(texts))

    def ids_of_digests(self, digests: Digests) -> Ids:
        """Return the id of the text of each digest, -1 where there is none."""
        ids = np.full(len(digests), -1, dtype=np.int64)
        numbers = ranges_of(digests, len(self.parts))
        for number in np.unique(numbers).tolist():
            part, places = self.parts[number], np.flatnonzero(numbers == number)
            found = part.ids_of_digests(digests[places]) if part is not None else np.full(len(places), -1)
            ids[places] = np.where(found < 0, -1, found + self.offsets[number])
        return ids

    def ids_of_same(self, texts: Sequence[str], rows: Ids, num_rows: int) -> Ragged:
        """Return, for each row, the ids of all passages equal to one of its texts after ``normalise``."""
        forms = digest_texts(texts, normalise)
        found = [
            (part.ids_of_forms(forms, rows, num_rows), self.offsets[number])
            for number, part in enumerate(self.parts)
            if part is not None
        ]
        return _union([(lists.rows, lists.values + offset) for lists, offset in found], num_rows)

    def have_form(self, keys: Digests) -> npt.NDArray[np.bool_]:
        """Return which passages have one of these rising digests after ``normalise``."""
        return np.concatenate([part.have_form(keys) for part in self.parts if part is not None])

    def _part(self, number: int) -> Corpus:
        part = self.parts[number]
        assert part is not None, "ids lead to ranges that have passages"  # noqa: S101 - for the type checker
        return part


class SlicedLists:
    """Lists of passages under texts, in ranges of the texts' digests."""

    def __init__(self, paths: Sequence[Path | None]) -> None:
        self._parts = [PassageLists(path) if path is not None else None for path in paths]

    def of(self, texts: Sequence[str]) -> Ragged:
        """Return the list of each text; an empty one for a text that is no key."""
        digests = digest_texts(texts)
        numbers, pairs = ranges_of(digests, len(self._parts)), []
        for number in np.unique(numbers).tolist():
            part, places = self._parts[number], np.flatnonzero(numbers == number)
            if part is not None:
                lists = part.of_digests(digests[places])
                pairs.append((places[lists.rows], lists.values))
        return _union(pairs, len(texts))


class SlicedGroups(SlicedLists):
    """The passages of every group, in ranges of the digests of the groups' names; see ``texts.AnyGroups``."""

    def __init__(self, paths: Sequence[Path | None]) -> None:
        super().__init__(paths)
        self._groups = [PassageGroups(path) for path in paths if path is not None]

    @property
    def largest(self) -> int:
        """Number of passages in the largest group."""
        return max((groups.largest for groups in self._groups), default=0)

    def beside(self, ids: Ids) -> Ragged:
        """Return, for each passage, the passages of all its groups, itself among them."""
        found = [groups.beside(ids) for groups in self._groups]
        return _union([(lists.rows, lists.values) for lists in found], len(ids))


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


def _union(pairs: Sequence[tuple[Ids, Ids]], num_rows: int) -> Ragged:
    """Return lists from (row, value) pairs."""
    nothing = np.empty(0, np.int64)
    rows = np.concatenate([nothing, *(rows for rows, _ in pairs)])
    return Ragged.from_pairs(rows, np.concatenate([nothing, *(values for _, values in pairs)]), num_rows)


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
