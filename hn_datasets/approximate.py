"""Approximate search below a ceiling: exact among the passages of the inverted lists near each anchor.

The lists are read in stages, in each by one product of all anchors that a list is near to with all of its passages. As
in exact search, candidates come from fast scores with a proven slack and are settled by exact scores, so that an answer
depends on the anchor and the lists alone. It is kept only where it is full and where the lists reach deep enough: the
passages that score at least the ceiling are counted, and if the answer stands further down the ranking than the lists
hold it almost completely, the row goes on to more lists and in the end to exact search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from hn_datasets.errors import ArgumentError
from hn_datasets.inverted_lists import Int8s, InvertedLists, Stage, load_faiss, multiply
from hn_datasets.list_building import check_size, open_lists
from hn_datasets.quantized import rotate, round_to_int8, slack_of
from hn_datasets.scoring import DenseScorer, DenseScores
from hn_datasets.search import Found, Search, k_best_below
from hn_datasets.teachers.base import Encoder, Floats, Ids, Scores, Teacher
from hn_datasets.texts import Ragged
from hn_datasets.threads import over_rows

CAPACITY = 128
"""Candidates per anchor that have room at first; rows that need more are read again with more."""

MOST_CANDIDATES = 1 << 22
"""Room for candidates in one reading; fewer anchors are read at once where each needs more."""

AUTO_PASSAGES = 500_000
"""Passages from which on ``"auto"`` is approximate."""

AUTO_LIST = 1000
"""Passages per list of ``"auto"``: with fewer, more time goes into going from list to list than into products."""

FURTHER = 32
"""Passages looked at beyond the k best where some of them may be refused by a second ceiling."""

DEEPEST = np.iinfo(np.int64).max

_MORE = 8
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
        exact = k_best_below(rest, [_of_rows(search, rows) for search in searches])
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


def _of_rows(search: Search, rows: Ids) -> Search:
    near = search.nearness
    if near is not None:
        near = replace(near, ceilings=near.ceilings[rows], positives=near.positives.take(rows))
    return replace(search, ceilings=search.ceilings[rows], excluded=search.excluded.take(rows), nearness=near)


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
    capacity: int = CAPACITY,
) -> tuple[list[Found], npt.NDArray[np.bool_]]:
    """Return the best passages of the nearest lists for some rows, and for which of them that answers all searches."""
    parts = [_of_rows(search, rows) for search in searches]
    answers, done, lost = [], np.ones(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
    read = _read(anchors.of_rows(rows), lists, parts, stage.num_lists, capacity)
    for search, candidates in zip(parts, read, strict=True):
        found, depths = _settle(scores, rows, search, candidates)
        answers.append(found)
        done &= depths <= stage.reach
        lost |= np.any([each.lost for each in candidates], axis=0)
    num_groups = min(int(lost.sum()), 1 + int(lost.sum()) * _MORE * capacity // MOST_CANDIDATES)
    for group in np.array_split(np.flatnonzero(lost), num_groups) if num_groups else ():
        again, done[group] = _search_lists(scores, anchors, rows[group], lists, searches, stage, _MORE * capacity)
        _put(answers, again, group, np.ones(len(group), dtype=bool))
    return answers, done


def _read(
    anchors: _Anchors, lists: InvertedLists, searches: Sequence[Search], num_lists: int, capacity: int
) -> list[list[_Candidates]]:
    """Return, for each search, candidates from the nearest lists in a few parts; each thread fills its own."""
    nearest = lists.nearest(anchors.integers, num_lists).ravel()
    order = np.argsort(nearest, kind="stable")
    owners, starts = order // num_lists, np.searchsorted(nearest[order], np.arange(lists.num_lists + 1))
    parts: list[list[_Candidates]] = []

    def read(begin: int, end: int) -> None:
        own = [_Candidates.start(search, anchors, capacity) for search in searches]
        for number in range(begin, end):
            rows = owners[starts[number] : starts[number + 1]]
            if len(rows) and lists.sizes[number]:
                tile = multiply(anchors.integers[rows], lists.integers(number))
                for candidates in own:
                    candidates.offer(tile, rows, lists.ids(number))
        parts.append(own)

    over_rows(read, lists.num_lists)
    return [list(own) for own in zip(*parts, strict=True)]


@dataclass(frozen=True)
class _Candidates:
    """Passages that may belong to the answer of one search, by products of integers.

    Attributes:
        low: shape ``[n]``, float32: products below are too low; it rises.
        high: shape ``[n]``, float32: products above are not below the ceiling.
        safe: shape ``[n]``, float32: products up to it are below the ceiling.
        slack: shape ``[n]``, float64, in products.
        best: shape ``[n, k]``, float32: the highest safe products, falling.
        ids: shape ``[n, capacity]``, int64, with their products in ``values``, float32.
        counts: shape ``[n]``, int64: how many candidates there are.
        above: shape ``[n]``, int64: how many products were above ``high``.
        lost: shape ``[n]``, bool: whether candidates found no room.
    """

    excluded: Ragged
    blocked: npt.NDArray[np.bool_]
    low: Floats
    high: Floats
    safe: Floats
    slack: Doubles
    best: Floats
    ids: Ids
    values: Floats
    counts: Ids
    above: Ids
    lost: npt.NDArray[np.bool_]

    @classmethod
    def start(cls, search: Search, anchors: _Anchors, capacity: int) -> _Candidates:
        """Return no candidates yet."""
        num_rows = len(search.ceilings)
        return cls(
            search.excluded,
            search.blocked if search.blocked is not None else np.empty(0, dtype=bool),
            low=np.full(num_rows, -np.inf, np.float32),
            high=((search.ceilings + anchors.slack) / anchors.units).astype(np.float32),
            safe=((search.ceilings - anchors.slack) / anchors.units).astype(np.float32),
            slack=anchors.slack / anchors.units,
            best=np.full((num_rows, search.k + (FURTHER if search.nearness else 0)), -np.inf, np.float32),
            ids=np.empty((num_rows, capacity), np.int64),
            values=np.empty((num_rows, capacity), np.float32),
            counts=np.zeros(num_rows, np.int64),
            above=np.zeros(num_rows, np.int64),
            lost=np.zeros(num_rows, dtype=bool),
        )

    def offer(self, tile: npt.NDArray[Any], rows: Ids, ids: Ids) -> None:
        """Take the candidates of one list; ``tile`` has a line for each of ``rows``, a column for each of ``ids``."""
        _collect(
            tile, rows, ids, self.excluded.offsets, self.excluded.values, self.blocked, self.low, self.high, self.safe,
            self.slack, self.best, self.ids, self.values, self.counts, self.above, self.lost,
        )  # fmt: skip


def _settle(scores: Scores, of: Ids, search: Search, parts: Sequence[_Candidates]) -> tuple[Found, Ids]:
    """Return the best candidates by exact scores, and how deep in the ranking of what was read they stand.

    Args:
        scores: those of all anchors.
        of: the anchor of each row.
        search: of these rows.
        parts: candidates of these rows.

    Returns:
        What was found, and for each row the rank of its last passage, ceiling or not; DEEPEST where it is short.
    """
    num_rows, low = len(of), np.max([part.low for part in parts], axis=0)
    chosen = [(np.arange(part.ids.shape[1]) < part.counts[:, None]) & (part.values >= low[:, None]) for part in parts]
    rows = np.concatenate([np.nonzero(mask)[0] for mask in chosen])
    ids = np.concatenate([part.ids[mask] for part, mask in zip(parts, chosen, strict=True)])
    exact = scores.pairs(of[rows], ids)
    below = exact < search.ceilings[rows]
    above = np.sum([part.above for part in parts], axis=0) + np.bincount(rows[~below], minlength=num_rows)
    rows, ids, exact = rows[below], ids[below], exact[below]
    order = np.lexsort((ids, -exact, rows))
    rows, ids, exact = rows[order], ids[order], exact[order]
    ranks = _count_within(rows)
    known = ranks < parts[0].best.shape[1]  # further down candidates may be missing
    rows, ids, exact, ranks = rows[known], ids[known], exact[known], ranks[known]
    if search.nearness is not None:
        fine = ~search.nearness.refuses(scores.exact.passages, rows, ids)
        rows, ids, exact, ranks = rows[fine], ids[fine], exact[fine], ranks[fine]
    places = _count_within(rows)
    kept = places < search.k
    found, depths = _nothing(num_rows, search.k), np.full(num_rows, DEEPEST)
    found.ids[rows[kept], places[kept]], found.scores[rows[kept], places[kept]] = ids[kept], exact[kept]
    last = places == search.k - 1
    depths[rows[last]] = above[rows[last]] + ranks[last] + 1
    return found, depths


def _count_within(rows: Ids) -> Ids:
    """Return 0, 1, 2, ... within each run of equal values of a rising array."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _collect(
    tile: Any,
    rows: Any,
    passages: Any,
    offsets: Any,
    excluded: Any,
    blocked: Any,
    low: Any,
    high: Any,
    safe: Any,
    slack: Any,
    best: Any,
    ids: Any,
    values: Any,
    counts: Any,
    above: Any,
    lost: Any,
) -> None:
    """Collect the candidates of one list."""
    width = tile.shape[1]
    for line in range(len(rows)):
        row, keys = rows[line], tile[line]
        out = excluded[offsets[row] : offsets[row + 1]]
        for start in range(0, width, _CHUNK):
            if not _has_from(keys[start : start + _CHUNK], low[row]):
                continue
            for column in range(start, min(start + _CHUNK, width)):
                value = np.float32(keys[column])
                passage = passages[column]
                if value < low[row] or _is_in(out, passage) or (len(blocked) and blocked[passage]):
                    continue
                if value > high[row]:
                    above[row] += 1
                    continue
                if counts[row] == ids.shape[1]:
                    counts[row] = _drop(ids[row], values[row], low[row])
                if counts[row] == ids.shape[1]:
                    lost[row] = True
                else:
                    ids[row, counts[row]], values[row, counts[row]] = passage, value
                    counts[row] += 1
                if value < safe[row] and value > best[row, -1]:
                    low[row] = _insert(best[row], value) - np.float32(2 * slack[row])


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _has_from(keys: Any, low: Any) -> bool:
    """Return whether any key is at least ``low``; a loop that compiles to vector code."""
    count = np.int32(0)
    for place in range(len(keys)):
        count += np.int32(np.float32(keys[place]) >= low)
    return bool(count)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _is_in(rising: Any, wanted: int) -> bool:
    place = np.searchsorted(rising, wanted)
    return bool(place < len(rising) and rising[place] == wanted)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _drop(ids: Any, values: Any, low: Any) -> int:
    """Drop the candidates of a row that are too low by now; return how many are left."""
    count = 0
    for place in range(len(values)):
        if values[place] >= low:
            ids[count], values[count] = ids[place], values[place]
            count += 1
    return count


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _insert(falling: Any, value: Any) -> Any:
    """Put a value above the last into a falling list; the last drops out. Return the new last one."""
    place = len(falling) - 1
    while place > 0 and falling[place - 1] < value:
        falling[place] = falling[place - 1]
        place -= 1
    falling[place] = value
    return falling[-1]
