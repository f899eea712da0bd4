"""Approximate search below a ceiling: exact among the passages of the inverted lists near each anchor.

The lists are read in stages, in each by one product of all anchors that a list is near to with all of its passages. As
in exact search, candidates come from fast scores with a proven slack and are settled by exact scores, so that an answer
depends on the anchor and the lists alone. It is kept only where it is full and where the lists reach deep enough: the
passages that score at least the ceiling are counted, and if the answer stands further down the ranking than the lists
hold it almost completely, the row goes on to more lists and in the end to exact search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from hn_datasets.errors import ArgumentError
from hn_datasets.inverted_lists import Int8s, InvertedLists, Stage, load_faiss, multiply
from hn_datasets.list_building import check_size, open_lists
from hn_datasets.products import LANES, dot, rough_dot
from hn_datasets.quantized import rotate, round_to_int8, slack_of
from hn_datasets.scoring import DenseScorer, DenseScores
from hn_datasets.search import (
    Found,
    Search,
    insert_passage,
    insert_value,
    is_among,
    k_best_below,
    lowest_value,
    place_of_largest,
)
from hn_datasets.teachers.base import Encoder, Exact, Floats, Ids, Scores, Teacher
from hn_datasets.threads import over_rows

WAITING = 64
"""Candidates per anchor that wait for their exact scores; most never need one, for the bound has risen meanwhile."""

AUTO_PASSAGES = 1_000_000
"""Passages from which on ``"auto"`` is approximate.

Through lists, 400,000 sentences were searched 1.7 times as fast as exactly, 99.2 % of the negatives found
(``tests/benchmarks/bench_approximate.py``), but vectors of words, with ceilings far deeper, no faster among 719,000: so
this is where exact search begins to take minutes, and not the first size at which lists can win.
"""

AUTO_LIST = 1000
"""Passages per list of ``"auto"``; a fifth as many searched 100,000 passages no faster, and were slower to make."""

LISTS_FACTOR = 0.6
"""Seconds of the search through lists for a second of exact search; see ``AUTO_PASSAGES``."""

FURTHER = 32
"""Passages looked at beyond the k best where some of them may be refused by a second ceiling."""

DEEPEST = np.iinfo(np.int64).max

_CHUNK = 64

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
        anchors, rows = self._round(scores.exact.anchors), np.arange(len(scores.exact.anchors))
        for stage in self.lists.stages if stages is None else stages:
            found, done = _search_lists(scores, anchors, rows, self.lists, searches, stage)
            _put(answers, found, rows, done)
            rows = rows[~done]
            if not len(rows):
                return answers
        rest = DenseScores(self._scorer, scores.exact.anchors[rows])
        exact = k_best_below(rest, [search.take(rows, search.k) for search in searches])
        _put(answers, exact, rows, np.ones(len(rows), dtype=bool))
        return answers

    def _round(self, anchors: Floats) -> _Anchors:
        rounded = round_to_int8(rotate(anchors))
        slack = slack_of(rounded, self._corpus8.longest, self._corpus8.most_lost)
        return _Anchors(rounded.integers, rounded.units * self._corpus8.unit, slack)


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
        slack: shape ``[n]``, float64: how far that score may be from the exact one.
    """

    integers: Int8s
    units: Doubles
    slack: Doubles

    def of_rows(self, rows: Ids) -> _Anchors:
        return _Anchors(self.integers[rows], self.units[rows], self.slack[rows])


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
) -> tuple[list[Found], npt.NDArray[np.bool_]]:
    """Return the best passages of the nearest lists for some rows, and for which of them that answers all searches."""
    parts, own = [search.take(rows, search.k) for search in searches], anchors.of_rows(rows)
    exact = Exact(scores.exact.anchors[rows], scores.exact.passages)
    picks = [_Pick.of(search, own) for search in parts]
    over_rows(lambda begin, end: _read(own, exact, lists, picks, stage, begin, end), len(rows))
    answers, done = [], np.ones(len(rows), dtype=bool)
    for search, pick in zip(parts, picks, strict=True):
        found, depths = _found(exact, search, pick)
        answers.append(found)
        done &= depths <= stage.reach
    return answers, done


def _read(
    anchors: _Anchors,
    exact: Exact,
    lists: InvertedLists,
    picks: Sequence[_Pick],
    stage: Stage,
    begin: int,
    end: int,
) -> None:
    """Take some rows through their lists: first the nearest, which raises the bounds, then the others."""
    nearest = lists.nearest(anchors.integers[begin:end], stage.num_lists)
    for part in (nearest[:, :1], nearest[:, 1:]):
        order = np.argsort(part, axis=None, kind="stable")
        numbers, starts = np.unique(part.ravel()[order], return_index=True)
        owners = np.split(begin + order // max(1, part.shape[1]), starts[1:])
        for number, rows in zip(numbers.tolist(), owners, strict=False):
            if lists.sizes[number]:
                tile = multiply(anchors.integers[rows], lists.integers(number))
                for pick in picks:
                    _scan(tile, rows, lists.ids(number), exact, pick, stage.reach)
        for pick in picks:
            _finish(exact, pick, begin, end)


class _Pick(NamedTuple):
    """One search on its way through lists, whose passages come in any order.

    Attributes:
        high: shape ``[n]``, float32: products of integers above are not below the ceiling.
        safe: shape ``[n]``, float32: products up to it are below the ceiling.
        units: shape ``[n]``, float64, and
        slack: shape ``[n]``, float64: those of the anchors.
        waiting: shape ``[n, w]``, int64: candidates without exact scores.
        values: shape ``[n, w]``, float32: their products.
        counts: shape ``[n]``, int64: how many wait.
        sure: shape ``[n, m]``, float32, falling: the best safe products.
        best_ids: shape ``[n, m]``, int64: the best passages below the ceiling so far, by exact scores.
        best_scores: shape ``[n, m]``, float32.
        above: shape ``[n]``, int64: how many passages score at least the ceiling.
    """

    ceilings: Doubles
    out_offsets: Ids
    out_ids: Ids
    blocked: npt.NDArray[np.bool_]
    high: Floats
    safe: Floats
    units: Doubles
    slack: Doubles
    waiting: Ids
    values: Floats
    counts: Ids
    sure: Floats
    best_ids: Ids
    best_scores: Floats
    above: Ids

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
            ((search.ceilings - anchors.slack) / anchors.units).astype(np.float32),
            anchors.units,
            anchors.slack,
            np.empty((n, WAITING), np.int64),
            np.empty((n, WAITING), np.float32),
            np.zeros(n, np.int64),
            np.full((n, m), -np.inf, np.float32),
            np.full((n, m), -1, np.int64),
            np.full((n, m), -np.inf, np.float32),
            np.zeros(n, np.int64),
        )


def _found(exact: Exact, search: Search, pick: _Pick) -> tuple[Found, Ids]:
    """Return the best passages, and how deep in the ranking of what was read they stand.

    Returns:
        What was found, and for each row the rank of its last passage, ceiling or not; DEEPEST where it is short.
    """
    rows, ranks = np.nonzero(pick.best_ids >= 0)
    if search.nearness is not None:
        fine = ~search.nearness.refuses(exact.passages, rows, pick.best_ids[rows, ranks])
        rows, ranks = rows[fine], ranks[fine]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept, last = places < search.k, places == search.k - 1
    found, depths = _nothing(len(pick.above), search.k), np.full(len(pick.above), DEEPEST)
    found.ids[rows[kept], places[kept]] = pick.best_ids[rows[kept], ranks[kept]]
    found.scores[rows[kept], places[kept]] = pick.best_scores[rows[kept], ranks[kept]]
    depths[rows[last]] = pick.above[rows[last]] + ranks[last] + 1
    return found, depths


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _scan(tile: Any, rows: Any, passages: Any, exact: Exact, pick: _Pick, reach: int) -> None:
    """Collect the candidates of one list; the tile has a line for each of ``rows``, a column for each passage.

    A row with so many passages above its ceiling that its answer lies beyond the reach is left as it is.
    """
    out_offsets, out_ids, blocked, high, safe = pick.out_offsets, pick.out_ids, pick.blocked, pick.high, pick.safe
    waiting, values, counts, sure, above = pick.waiting, pick.values, pick.counts, pick.sure, pick.above
    scores, units, slack, width, last = pick.best_scores, pick.units, pick.slack, tile.shape[1], pick.sure.shape[1] - 1
    lanes = np.empty(LANES)
    for line in range(len(rows)):
        row = rows[line]
        low = lowest_value(scores[row, last], sure[row, last], units[row], slack[row])
        for start in range(0, width, _CHUNK):
            if above[row] >= reach:
                break
            if not _has_from(tile[line, start : start + _CHUNK], low):
                continue
            for column in range(start, min(start + _CHUNK, width)):
                value, passage = np.float32(tile[line, column]), passages[column]
                if value < low or (len(blocked) and blocked[passage]):
                    continue
                if is_among(out_ids, out_offsets[row], out_offsets[row + 1], passage):
                    continue
                if value > high[row]:
                    above[row] += 1
                    continue
                waiting[row, counts[row]], values[row, counts[row]] = passage, value
                counts[row] += 1
                if value < safe[row] and value > sure[row, last]:
                    insert_value(sure, row, value)
                    low = lowest_value(scores[row, last], sure[row, last], units[row], slack[row])
                if counts[row] == WAITING:
                    _settle(exact, pick, row, lanes)
                    low = lowest_value(scores[row, last], sure[row, last], units[row], slack[row])


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _finish(exact: Exact, pick: _Pick, begin: int, end: int) -> None:
    """Settle what still waits in some rows."""
    lanes = np.empty(LANES)
    for row in range(begin, end):
        _settle(exact, pick, row, lanes)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _has_from(keys: Any, low: Any) -> bool:
    """Return whether any key is at least ``low``; a loop that compiles to vector code."""
    found = False
    for place in range(len(keys)):
        found |= np.float32(keys[place]) >= low
    return found


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _settle(exact: Exact, pick: _Pick, row: int, lanes: Any) -> None:
    """Let the candidates that wait in a row into the answer, or count them as above the ceiling, by exact scores."""
    anchors, passages, waiting, ceiling = exact.anchors, exact.passages, pick.waiting, pick.ceilings[row]
    scores, ids, last, sure = pick.best_scores, pick.best_ids, pick.best_scores.shape[1] - 1, pick.sure[row, -1]
    values, unit, slack = pick.values[row, : pick.counts[row]], pick.units[row], pick.slack[row]
    for _ in range(len(values)):
        place = place_of_largest(values)
        if values[place] < lowest_value(scores[row, last], sure, unit, slack) or values[place] == -np.inf:
            break
        values[place], passage = -np.inf, waiting[row, place]
        rough, error = rough_dot(anchors, row, passages, passage)
        if rough + error < scores[row, last]:
            continue
        score = dot(anchors, row, passages, passage, lanes) if rough - error < ceiling else rough
        if score >= ceiling:
            pick.above[row] += 1
        else:
            insert_passage(scores, ids, row, score, passage)
    pick.counts[row] = 0
