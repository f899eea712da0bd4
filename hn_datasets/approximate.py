"""Approximate search below a ceiling: exact among the passages of the inverted lists near each anchor.

The lists are read in stages, in each by one product of all anchors that a list is near to with all of its passages. As
in exact search, candidates come from fast scores with a slack and are settled by exact scores; for unit vectors the
slack is a likely one, a fifth of the proven one in 384 dimensions, for what it loses is nothing beside what stands in
other lists. An answer depends on the anchor and the lists alone. It is kept only where it is full and where the lists
reach deep enough: the passages that score at least the ceiling are counted, and if the answer stands further down the
ranking than the lists hold it almost completely, the row goes on to more lists and in the end to all of them. Rows that
are short even then, or have a crowd of candidates, are searched exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hn_datasets.errors import ArgumentError
from hn_datasets.inverted_lists import Int8s, InvertedLists, Stage, load_faiss, multiply
from hn_datasets.list_building import check_size, open_lists
from hn_datasets.list_scanning import Fine, scan_list
from hn_datasets.quantized import likely_slack_of, rotate, round_to_int8, slack_of
from hn_datasets.scanning import PASSAGES_PER_CANDIDATE
from hn_datasets.scoring import CROWD, DenseScorer, DenseScores
from hn_datasets.search import Found, Search, k_best_below, riders_of
from hn_datasets.teachers.base import Encoder, Exact, Floats, Ids, Scores, Teacher
from hn_datasets.threads import over_rows

AUTO_PASSAGES = 1_000_000
"""Passages from which on ``"auto"`` is approximate.

With MiniLM, 719,233 sentences and runs of them were searched 4.2 times as fast through lists as exactly, 98.8 % of the
negatives found, 400,000 of them 3.2 times, and a million sentences, clauses and runs of clauses 4.0 times, 99.6 % of
the negatives found (``tests/benchmarks/bench_approximate.py``). Vectors of words, with ceilings far deeper, were no
faster through lists when lists took twice as long: so this is where exact search begins to take minutes, and not the
first size at which lists can win.
"""

AUTO_LIST = 1000
"""Passages per list of ``"auto"``; a fifth as many searched 100,000 passages no faster, and were slower to make."""

LISTS_FACTOR = 0.3
"""Seconds of the search through lists for a second of exact search; see ``AUTO_PASSAGES``."""

FURTHER = 32
"""Passages looked at beyond the k best where some of them may be refused by a second ceiling."""

SHORT = np.iinfo(np.int64).max - 1
"""Depth of a row with too few passages."""

CROWDED = SHORT + 1
"""Depth of a row with too many candidates."""

Doubles = npt.NDArray[np.float64]


class ApproximateIndex:
    """The inverted lists of one corpus, with what it takes to search them.

    Args:
        scorer: the teacher with that corpus.
        index: for instance ``"IVF4096,SQ8"``.

    Raises:
        ArgumentError: faiss is missing, or the corpus does not suit the index.
        StoreError: the lists cannot be written.
    """

    def __init__(self, scorer: DenseScorer, index: str) -> None:
        self._scorer = scorer
        self.lists, self._corpus8 = open_lists(scorer.passages, index)

    def k_best_below(
        self, scores: Scores, searches: Sequence[Search], stages: Sequence[Stage] | None = None
    ) -> list[Found]:
        """Answer several searches from the lists; see ``search.k_best_below``.

        Args:
            scores: those of the anchors against the whole corpus.
            searches: any number of questions; each gets its own answer.
            stages: other ones than were measured for these lists.

        Returns:
            One ``Found`` per search, every score exact. A row is short only if fewer than k passages of the whole
            corpus qualify.
        """
        answers = [_nothing(len(search.ceilings), search.k) for search in searches]
        anchors, crowds = self._round(scores), []
        rows = np.random.default_rng(0).permutation(len(scores.exact.anchors))  # those that take long stand together
        every = Stage(self.lists.num_lists, len(scores.exact.passages))
        for stage in [*(self.lists.stages if stages is None else stages), every]:
            if not len(rows):
                break
            found, depths = _search_lists(scores, anchors, rows, self.lists, searches, stage)
            _put(answers, found, rows, depths <= stage.reach)
            crowds.append(rows[depths == CROWDED])
            rows = rows[(depths > stage.reach) & (depths < CROWDED)]
        rest = np.concatenate([*crowds, rows])
        if len(rest):
            remaining = DenseScores(self._scorer, scores.exact.anchors[rest])
            exact = k_best_below(remaining, [search.take(rest, search.k) for search in searches])
            _put(answers, exact, rest, np.ones(len(rest), dtype=bool))
        return answers

    def _round(self, scores: Scores) -> _Anchors:
        rotated, rounded = (scores.rotated, scores.rounded) if isinstance(scores, DenseScores) else (None, None)
        if rotated is None or rounded is None:
            rotated = rotate(scores.exact.anchors)
            rounded = round_to_int8(rotated)
        corpus8, remainders = self._corpus8, self.lists.remainders
        # Rounding may take all of a passage that is far shorter than others, and what it takes has a direction then.
        bound = likely_slack_of if self._scorer.encoder.similarity == "cosine" else slack_of
        slack = bound(rounded, corpus8.longest, corpus8.most_lost)
        # Higham, Accuracy and Stability of Numerical Algorithms, section 3.1, as for tiles of float32.
        errors = rounded.lengths * (remainders.most_lost + corpus8.longest * (rotated.shape[1] + 8) * 2.0**-23) + 1e-30
        fine = Fine(rotated.astype(np.float32), errors, np.float32(corpus8.unit), np.float32(remainders.unit))
        return _Anchors(rounded.integers, rounded.units * corpus8.unit, slack, fine)


def check_index(index: str | None, teacher: Teacher) -> None:
    """Check that an index has an effect on a teacher.

    Raises:
        ArgumentError: the teacher has no vectors, or is an ensemble.
    """
    if index not in (None, "exact") and not isinstance(teacher, Encoder):
        raise ArgumentError(
            f"index={index!r} has an effect only on a single teacher with vectors, not on BM25 or an ensemble; leave "
            "it out."
        )


def choose_index(index: str | None, num_passages: int) -> str | None:
    """Return the FAISS factory string for a corpus, or None where it is searched exactly.

    Raises:
        ArgumentError: faiss is missing, or the corpus has fewer passages than lists.
    """
    if index in (None, "exact") or (index == "auto" and num_passages < AUTO_PASSAGES):
        return None
    load_faiss()
    if index == "auto":
        return f"IVF{2 ** round(np.log2(num_passages / AUTO_LIST))},SQ8"
    check_size(str(index), num_passages)
    return index


@dataclass(frozen=True)
class _Anchors:
    """Anchors as integers.

    Attributes:
        integers: shape ``[n, d]``, int8.
        units: shape ``[n]``, float64: a product of integers times this is a score.
        slack: shape ``[n]``, float64: how far that score is likely to be from the exact one at most.
        fine: what finer scores are computed with.
    """

    integers: Int8s
    units: Doubles
    slack: Doubles
    fine: Fine

    def of_rows(self, rows: Ids) -> _Anchors:
        fine = self.fine._replace(anchors=self.fine.anchors[rows], errors=self.fine.errors[rows])
        return _Anchors(self.integers[rows], self.units[rows], self.slack[rows], fine)


def _nothing(num_rows: int, k: int) -> Found:
    return Found(np.full((num_rows, k), -1, np.int64), np.full((num_rows, k), -np.inf, np.float32))


def _put(answers: Sequence[Found], found: Sequence[Found], rows: Ids, chosen: npt.NDArray[np.bool_]) -> None:
    """Copy chosen rows of what was found to where they belong."""
    for answer, part in zip(answers, found, strict=True):
        answer.ids[rows[chosen]], answer.scores[rows[chosen]] = part.ids[chosen], part.scores[chosen]


def _search_lists(
    scores: Scores,
    anchors: _Anchors,
    rows: Ids,
    lists: InvertedLists,
    searches: Sequence[Search],
    stage: Stage,
) -> tuple[list[Found], Ids]:
    """Return the best passages of the nearest lists for some rows, and how deep the answers to all searches stand."""
    parts, own = [search.take(rows, search.k) for search in searches], anchors.of_rows(rows)
    exact = Exact(scores.exact.anchors[rows], scores.exact.passages)
    picks = [_Pick.of(search, own) for search in parts]
    riders = riders_of(parts)
    for rider, number in riders.items():
        picks[number] = picks[number]._replace(top_ids=picks[rider].best_ids, top_scores=picks[rider].best_scores)
    scanned = [pick for number, pick in enumerate(picks) if number not in riders]
    num_read = len(exact.passages) * stage.num_lists // lists.num_lists
    crowd = CROWD + num_read // PASSAGES_PER_CANDIDATE
    over_rows(lambda begin, end: _read(own, exact, lists, scanned, stage, crowd, begin, end), len(rows))
    found = [_found(exact, search, pick) for search, pick in zip(parts, picks, strict=True)]
    depths = np.max([own_depths for _, own_depths in found], axis=0)
    for pick in scanned:
        depths[pick.settled > crowd] = CROWDED
    return [answer for answer, _ in found], depths


def _read(
    anchors: _Anchors,
    exact: Exact,
    lists: InvertedLists,
    picks: Sequence[_Pick],
    stage: Stage,
    crowd: int,
    begin: int,
    end: int,
) -> None:
    """Take some rows through their lists."""
    nearest = lists.nearest(anchors.integers[begin:end], stage.num_lists)
    order = np.argsort(nearest, axis=None, kind="stable")
    numbers, starts = np.unique(nearest.ravel()[order], return_index=True)
    owners = np.split(begin + order // nearest.shape[1], starts[1:])
    for number, rows in zip(numbers.tolist(), owners, strict=True):
        if lists.sizes[number]:
            integers, ids, remainders = lists.integers(number), lists.ids(number), lists.remainders_of(number)
            tile = multiply(anchors.integers[rows], integers)
            for pick in picks:
                scan_list(tile, rows, ids, integers, remainders, exact, anchors.fine, pick, stage.reach, crowd)


class _Pick(NamedTuple):
    """One search on its way through lists, whose passages come in any order.

    Attributes:
        high: shape ``[n]``, float32: products of integers above are not likely to be below the ceiling.
        units: shape ``[n]``, float64, and
        slack: shape ``[n]``, float64: those of the anchors.
        settled: shape ``[n]``, int64: how many candidates there were.
        best_ids: shape ``[n, m]``, int64: the best passages below the ceiling so far, by exact scores.
        best_scores: shape ``[n, m]``, float32.
        above: shape ``[n]``, int64: how many passages score at least the ceiling.
        top_ids: shape ``[n, 1]``, int64: the best passage, ceiling or not; empty where nobody asks.
        top_scores: shape ``[n, 1]``, float32.
    """

    ceilings: Doubles
    out_offsets: Ids
    out_ids: Ids
    blocked: npt.NDArray[np.bool_]
    high: Floats
    units: Doubles
    slack: Doubles
    settled: Ids
    best_ids: Ids
    best_scores: Floats
    above: Ids
    top_ids: Ids
    top_scores: Floats

    @classmethod
    def of(cls, search: Search, anchors: _Anchors) -> _Pick:
        """Return a search that has seen no passage."""
        n, m = len(search.ceilings), search.k + (FURTHER if search.nearness is not None else 0)
        return cls(
            np.ascontiguousarray(search.ceilings, np.float64),
            search.excluded.offsets,
            search.excluded.values,
            search.blocked if search.blocked is not None else np.empty(0, dtype=bool),
            ((search.ceilings + anchors.slack) / anchors.units).astype(np.float32),
            anchors.units,
            anchors.slack,
            np.zeros(n, np.int64),
            np.full((n, m), -1, np.int64),
            np.full((n, m), -np.inf, np.float32),
            np.zeros(n, np.int64),
            np.empty((0, 1), np.int64),
            np.empty((0, 1), np.float32),
        )


def _found(exact: Exact, search: Search, pick: _Pick) -> tuple[Found, Ids]:
    """Return the best passages, and how deep in the ranking of what was read they stand.

    Returns:
        What was found, and for each row the rank of its last passage, ceiling or not; SHORT where there are too few.
    """
    rows, ranks = np.nonzero(pick.best_ids >= 0)
    if search.nearness is not None:
        fine = ~search.nearness.refuses(exact.passages, rows, pick.best_ids[rows, ranks])
        rows, ranks = rows[fine], ranks[fine]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept, last = places < search.k, places == search.k - 1
    found, depths = _nothing(len(pick.above), search.k), np.full(len(pick.above), SHORT)
    found.ids[rows[kept], places[kept]] = pick.best_ids[rows[kept], ranks[kept]]
    found.scores[rows[kept], places[kept]] = pick.best_scores[rows[kept], ranks[kept]]
    depths[rows[last]] = pick.above[rows[last]] + ranks[last] + 1
    return found, depths
