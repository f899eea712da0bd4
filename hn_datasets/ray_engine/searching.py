"""The pieces of a corpus as a worker has them open: it searches whichever piece it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hn_datasets.approximate import ApproximateIndex
from hn_datasets.ray_engine.indexing import postings_path
from hn_datasets.ray_engine.job import Job, Pieces
from hn_datasets.ray_engine.ranges import range_store
from hn_datasets.ray_engine.sliced_scores import Prepared
from hn_datasets.sampling import sort_by_score
from hn_datasets.scoring import DenseScorer, DenseScores
from hn_datasets.search import Found, Search, k_best_below
from hn_datasets.teachers.base import Encoder
from hn_datasets.teachers.bm25 import BM25Scorer, BM25Scores, BM25Teacher
from hn_datasets.teachers.bm25_index import Index, TermCounts
from hn_datasets.teachers.ensemble import list_members
from hn_datasets.texts import Corpus


def open_postings(job: Job, pieces: Pieces, member: int, number: int) -> BM25Scorer | None:
    """Return BM25 with one piece of the corpus; None where it has no passage."""
    teacher = list_members(job.teacher)[member][1]
    if pieces.passages[number] is None or not isinstance(teacher, BM25Teacher):
        return None
    return BM25Scorer(teacher, Index(postings_path(job, pieces, member, number), pieces.terms[member]))


class OpenPieces:
    """Pieces with their scorers and indexes, opened when they are first searched."""

    def __init__(self, job: Job, pieces: Pieces) -> None:
        self.job = job
        self.pieces = pieces
        self._offsets = np.concatenate([[0], np.cumsum(pieces.sizes)])
        self._scorers: dict[tuple[int, int], DenseScorer | BM25Scorer] = {}
        self._indexes: dict[int, ApproximateIndex] = {}

    def search(
        self, number: int, member: int, anchors: Prepared, searches: Sequence[Search], approximate: bool
    ) -> list[Found]:
        """Answer searches of one piece, in ids of the whole corpus.

        Args:
            number: of the piece.
            member: number of the teacher.
            anchors: as the teacher sees them.
            searches: in ids of the piece.
            approximate: by the index of the recipe.
        """
        scorer = self._scorer(number, member)
        if isinstance(scorer, DenseScorer) and not isinstance(anchors, TermCounts):
            scores = DenseScores(scorer, anchors)
            index = self._index(number, scorer) if approximate else None
            found = k_best_below(scores, searches) if index is None else index.k_best_below(scores, searches)
        elif isinstance(scorer, BM25Scorer) and isinstance(anchors, TermCounts):
            found = k_best_below(BM25Scores(scorer, anchors), searches)
        else:
            raise TypeError(f"Expected anchors as {type(scorer).__name__} sees them, got {type(anchors).__name__}.")
        offset = int(self._offsets[number])
        return [Found(np.where(one.ids < 0, -1, one.ids + offset), one.scores) for one in found]

    def _scorer(self, number: int, member: int) -> DenseScorer | BM25Scorer:
        if (number, member) not in self._scorers:
            self._scorers[number, member] = self._open(number, member)
        return self._scorers[number, member]

    def _open(self, number: int, member: int) -> DenseScorer | BM25Scorer:
        teacher, path = list_members(self.job.teacher)[member][1], self.pieces.passages[number]
        if isinstance(teacher, Encoder) and path is not None:
            return DenseScorer(teacher, Corpus(path), range_store(self.job.store, number, self.job.num_ranges))
        scorer = open_postings(self.job, self.pieces, member, number)
        if scorer is None:
            raise TypeError(f"Expected an encoder or BM25, got {type(teacher).__name__}.")
        return scorer

    def _index(self, number: int, scorer: DenseScorer) -> ApproximateIndex:
        if number not in self._indexes:
            index = index_of_piece(str(self.job.recipe.index), self.job.num_ranges)
            self._indexes[number] = ApproximateIndex(scorer, index)
        return self._indexes[number]


def index_of_piece(index: str, num_pieces: int) -> str:
    """Return the index of one of so many pieces: its share of the lists of the whole corpus."""
    lists, _, codes = index.partition(",")
    return f"IVF{max(1, round(int(lists.removeprefix('IVF')) / num_pieces))},{codes}"


def merge_found(parts: Sequence[Found], k: int) -> Found:
    """Return the ``k`` best of what several pieces have found for the same anchors."""
    found = sort_by_score(
        np.concatenate([part.ids for part in parts], axis=1), np.concatenate([part.scores for part in parts], axis=1)
    )
    return Found(found.ids[:, :k], found.scores[:, :k])
