"""Search below a ceiling: for each anchor the k best passages that may be picked, exactly.

Scores come in tiles (anchors x passages) that may be off by a known slack. One pass over a tile picks out what can
still belong to the answer: at least the k-th best so far less the slack, and at most the ceiling plus the slack.
Candidates wait, a few per anchor, until their exact scores are computed. So nothing is left to be proved at the end,
and the answer depends neither on the tiles nor on how exact they are. Memory is a tile per thread, and the candidates.
Anchors with a crowd of candidates, as where the ceiling lies in the middle of all scores, are searched once more in
scores with less slack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch

from hn_datasets.products import LANES, dot, dot_products, float32_products, rough_dot
from hn_datasets.teachers.base import Exact, Floats, Ids, Scores
from hn_datasets.texts import Ragged
from hn_datasets.threads import over_rows

WAITING = 64
"""Candidates per anchor that wait for their exact scores; most never need one, for the bound has risen meanwhile."""

WAITING_FOR_NEARNESS = 8
"""The same where a candidate can still be refused: then only exact answers raise the bound."""

BEST_FIRST = 64
"""The same on an accelerator: so many of a tile's best per anchor are settled before the bound is used."""

PASSAGES_PER_CANDIDATE = 16
"""An exact score takes as long as so many float32 products: where more of the passages lie within the slack, as below a
ceiling in the middle of all scores, the whole row takes less time as such products."""

CROWDED = -1
"""Count of a row whose candidates are too many; narrower scores will tell them apart."""

_CHUNK = 128
"""Scores looked at together; most runs hold no candidate."""

_NO_VECTORS = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Nearness:
    """A second ceiling, on how near a passage is to the anchor's positives.

    A passage qualifies if the product of its vector with that of every positive is strictly below the ceiling.

    Attributes:
        ceilings: shape ``[num_anchors]``, float64.
        positives: for each anchor, rows of ``vectors``.
        vectors: shape ``[m, d]``, float32, of positives as passages.
    """

    ceilings: npt.NDArray[np.float64]
    positives: Ragged
    vectors: Floats

    def take(self, rows: Ids) -> Nearness:
        """Return the ceiling of some anchors (shape ``[n]``)."""
        return Nearness(self.ceilings[rows], self.positives.take(rows), self.vectors)

    def refuses(self, passages: Floats, rows: Ids, ids: Ids) -> npt.NDArray[np.bool_]:
        """Return for each (anchor row, passage id) pair whether it is not below the ceiling, shape ``[n]``."""
        near = self.positives.take(rows)
        products = dot_products(passages, self.vectors, np.repeat(ids, near.counts), near.values)
        refused = np.zeros(len(rows), dtype=bool)
        refused[near.rows[products >= self.ceilings[np.repeat(rows, near.counts)]]] = True
        return refused


@dataclass(frozen=True)
class Search:
    """One question to all anchors: the ``k`` best passages that may be picked.

    Attributes:
        ceilings: shape ``[num_anchors]``, float64; a score has to be strictly below.
        k: how many.
        excluded: for each anchor the ids, in rising order, of passages that are never picked.
        blocked: shape ``[num_passages]``, bool: passages that are picked for no anchor.
        nearness: a second ceiling; needs a teacher with vectors.
    """

    ceilings: npt.NDArray[np.float64]
    k: int
    excluded: Ragged
    blocked: npt.NDArray[np.bool_] | None = None
    nearness: Nearness | None = None

    @property
    def is_for_the_best(self) -> bool:
        """Whether this asks for the one best passage, ceiling or not."""
        plain = self.k == 1 and self.blocked is None and self.nearness is None
        return plain and bool(np.isposinf(self.ceilings).all())

    def take(self, rows: Ids, k: int) -> Search:
        """Return the question to some anchors (shape ``[n]``), with another ``k``."""
        nearness = self.nearness.take(rows) if self.nearness is not None else None
        return Search(self.ceilings[rows], k, self.excluded.take(rows), self.blocked, nearness)


@dataclass(frozen=True)
class Found:
    """The answer, best first; rows with fewer than k passages below their ceiling are padded.

    Attributes:
        ids: shape ``[num_anchors, k]``, int64, -1 where padded.
        scores: shape ``[num_anchors, k]``, float32, -inf where padded.
        free: where the search has a second ceiling, what it would have found without.
    """

    ids: Ids
    scores: Floats
    free: Found | None = None


def k_best_below(scores: Scores, searches: Sequence[Search]) -> list[Found]:
    """Answer several searches with one pass over the scores.

    Strictly below the ceiling; higher scores first, ties to the lower id.

    Args:
        scores: those of the anchors against the whole corpus.
        searches: any number of questions; each gets its own answer.

    Returns:
        One ``Found`` per search. A row is short only if fewer than k passages of the whole corpus qualify.
    """
    picks = [_Pick.of(search) for search in searches]
    riders = {} if scores.on_accelerator else _riders(searches)
    for rider, number in riders.items():
        picks[number] = picks[number]._replace(top_ids=picks[rider].best_ids, top_scores=picks[rider].best_scores)
    scanned = [number for number in range(len(searches)) if number not in riders]
    with float32_products():
        if scores.on_accelerator:
            _pick_on_accelerator(scores, picks)
        else:
            of_scan = [picks[number] for number in scanned]
            over_rows(lambda begin, end: _pick_rows(scores, of_scan, begin, end), len(scores.units))
    for number in scanned:
        rows = np.flatnonzero(picks[number].counts == CROWDED)
        if len(rows):
            together = [number, *(rider for rider, other in riders.items() if other == number)]
            again = [searches[each].take(rows, searches[each].k) for each in together]
            for each, found in zip(together, k_best_below(scores.narrower(rows), again), strict=True):
                picks[each].put(rows, found)
    return [pick.found() for pick in picks]


def _riders(searches: Sequence[Search]) -> dict[int, int]:
    """Return which searches for the one best passage are answered on the way of which others.

    A scan that looks for two things takes little longer than for one. The other search has to have the same exclusions.
    """
    tops = [number for number, search in enumerate(searches) if search.is_for_the_best]
    riders: dict[int, int] = {}
    for number, search in enumerate(searches):
        if number in tops or search.blocked is not None:
            continue
        rider = next((top for top in tops if top not in riders and _exclude_alike(searches[top], search)), None)
        if rider is not None:
            riders[rider] = number
    return riders


def _exclude_alike(some: Search, other: Search) -> bool:
    """Return whether two searches have the same exclusions."""
    offsets, values = (some.excluded.offsets, other.excluded.offsets), (some.excluded.values, other.excluded.values)
    return np.array_equal(*offsets) and np.array_equal(*values)


class _Pick(NamedTuple):
    """One search on its way through the tiles; passages come in the order of their ids.

    Attributes:
        waiting: shape ``[n, w]``, int64: candidates without exact scores.
        values: shape ``[n, w]``, float32: what the tile said of them.
        counts: shape ``[n]``, int64: how many wait; ``CROWDED`` where there were too many.
        settled: shape ``[n]``, int64: how many no longer wait.
        sure: shape ``[n, k]``, float32, falling: the best values of tiles that surely belong to passages that qualify.
        best_ids: shape ``[n, k]``, int64: the answer so far, by exact scores.
        best_scores: shape ``[n, k]``, float32.
        free_ids: shape ``[n, k]``, int64: the answer without the second ceiling; empty where there is none.
        free_scores: shape ``[n, k]``, float32.
        top_ids: shape ``[n, 1]``, int64: the best passage, ceiling or not; empty where nobody asks.
        top_scores: shape ``[n, 1]``, float32.
    """

    ceilings: npt.NDArray[np.float64]
    out_offsets: Ids
    out_ids: Ids
    blocked: npt.NDArray[np.bool_]
    near_ceilings: npt.NDArray[np.float64]
    near_offsets: Ids
    near_rows: Ids
    near_vectors: Floats
    waiting: Ids
    values: Floats
    counts: Ids
    settled: Ids
    sure: Floats
    best_ids: Ids
    best_scores: Floats
    free_ids: Ids
    free_scores: Floats
    top_ids: Ids
    top_scores: Floats

    def put(self, rows: Ids, found: Found) -> None:
        """Let some rows (shape ``[n]``) have another answer."""
        self.best_ids[rows], self.best_scores[rows] = found.ids, found.scores
        if found.free is not None:
            self.free_ids[rows], self.free_scores[rows] = found.free.ids, found.free.scores

    def found(self) -> Found:
        """Return the answer."""
        free = Found(self.free_ids, self.free_scores) if len(self.near_ceilings) else None
        return Found(self.best_ids, self.best_scores, free)

    @classmethod
    def of(cls, search: Search) -> _Pick:
        """Return a search that has seen no passage."""
        n = len(search.ceilings)
        near = search.nearness or Nearness(
            np.empty(0), Ragged(np.zeros(1, np.int64), np.empty(0, np.int64)), _NO_VECTORS
        )
        wait = WAITING if search.nearness is None else WAITING_FOR_NEARNESS
        return cls(
            np.ascontiguousarray(search.ceilings, np.float64),
            search.excluded.offsets,
            search.excluded.values,
            search.blocked if search.blocked is not None else np.empty(0, np.bool_),
            np.ascontiguousarray(near.ceilings, np.float64),
            near.positives.offsets,
            near.positives.values,
            np.ascontiguousarray(near.vectors, np.float32),
            np.empty((n, wait), np.int64),
            np.empty((n, wait), np.float32),
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.full((n, search.k), -np.inf, np.float32),
            np.full((n, search.k), -1, np.int64),
            np.full((n, search.k), -np.inf, np.float32),
            np.full((n if search.nearness is not None else 0, search.k), -1, np.int64),
            np.full((n if search.nearness is not None else 0, search.k), -np.inf, np.float32),
            np.empty((0, 1), np.int64),
            np.empty((0, 1), np.float32),
        )


def _pick_rows(scores: Scores, picks: list[_Pick], begin: int, end: int) -> None:
    """Take some rows through all tiles."""
    for start, tile in scores.tiles(begin, end):
        for pick in picks:
            _scan(tile, begin, start, scores.exact, scores.units, scores.slack, scores.crowd, pick)
    for pick in picks:
        _finish(scores.exact, scores.units, scores.slack, pick, begin, end)


def _pick_on_accelerator(scores: Scores, picks: list[_Pick]) -> None:
    """Take all rows through all tiles, which stay where they are; only candidates come from there."""
    for start, tile in scores.tiles(0, len(scores.units)):
        for pick in picks:
            allowed = _allowed(torch.as_tensor(tile), start, scores.slack, pick)
            if len(pick.near_ceilings):
                # Nothing is sure to qualify, so the best ones go first: their exact answers are the bound.
                best = allowed.topk(min(BEST_FIRST, allowed.shape[1]), dim=1).indices
                _settle_above(allowed, best, start, scores, pick)
                allowed.scatter_(1, best, -torch.inf)
            low = _raised_bound(allowed, scores.slack, pick)
            rows, columns = torch.nonzero(allowed >= _column(low, allowed), as_tuple=True)
            _settle_all(allowed, rows, columns, start, scores, pick)


def _allowed(tile: torch.Tensor, start: int, slack: npt.NDArray[np.float64], pick: _Pick) -> torch.Tensor:
    """Return a tile with -inf where a passage cannot belong to the answer."""
    here = (pick.out_ids >= start) & (pick.out_ids < start + tile.shape[1])
    rows = np.repeat(np.arange(len(slack)), np.diff(pick.out_offsets))[here]
    columns = torch.from_numpy(pick.out_ids[here] - start).to(tile.device)
    allowed = tile.masked_fill(tile > _column(pick.ceilings + slack, tile), -torch.inf)
    allowed[torch.from_numpy(rows).to(tile.device), columns] = -torch.inf
    if len(pick.blocked):
        blocked = torch.from_numpy(pick.blocked[start : start + tile.shape[1]]).to(tile.device)
        allowed = allowed.masked_fill(blocked, -torch.inf)
    return allowed


def _raised_bound(allowed: torch.Tensor, slack: npt.NDArray[np.float64], pick: _Pick) -> npt.NDArray[np.float64]:
    """Return the lowest value of a candidate, which the tile itself raises where all that it allows will qualify."""
    k = pick.best_scores.shape[1]
    low = np.maximum(pick.best_scores[:, -1] - slack, np.finfo(np.float32).min)
    if k > allowed.shape[1] or len(pick.near_ceilings):
        return low
    sure = allowed.masked_fill(allowed >= _column(pick.ceilings - slack, allowed), -torch.inf)
    return np.maximum(low, sure.topk(k, dim=1).values[:, -1].cpu().numpy() - 2 * slack)


def _settle_above(allowed: torch.Tensor, columns: torch.Tensor, start: int, scores: Scores, pick: _Pick) -> None:
    """Settle some columns of every row (``[n, m]``), where their values can still belong to the answer."""
    low = _column(_raised_bound(allowed, scores.slack, pick), allowed)
    rows, places = torch.nonzero(allowed.gather(1, columns) >= low, as_tuple=True)
    _settle_all(allowed, rows, columns[rows, places], start, scores, pick)


def _settle_all(
    allowed: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, start: int, scores: Scores, pick: _Pick
) -> None:
    values = allowed[rows, columns].cpu().numpy()
    passages = columns.cpu().numpy() + start
    bounds = np.searchsorted(rows.cpu().numpy(), np.arange(len(scores.units) + 1))
    over_rows(
        lambda begin, end: _settle_rows(scores.exact, scores.slack, pick, bounds, passages, values, begin, end),
        len(scores.units),
    )


def _column(bounds: npt.NDArray[np.float64], tile: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(bounds.astype(np.float32)).to(tile.device)[:, None]


# What follows takes arrays out of a pick once, and hands them on by themselves: a tuple of arrays that is handed on
# counts the references to each of them, which cost more than all else that is done for a candidate.


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _scan(tile: Any, begin: int, start: int, exact: Exact, units: Any, slack: Any, crowd: int, pick: _Pick) -> None:
    """Collect the candidates of a tile, whose first row is ``begin`` and first column passage ``start``."""
    ceilings, out_offsets, out_ids, blocked = pick.ceilings, pick.out_offsets, pick.out_ids, pick.blocked
    waiting, values, counts, sure, scores = pick.waiting, pick.values, pick.counts, pick.sure, pick.best_scores
    last, wait, width, any_near = scores.shape[1] - 1, waiting.shape[1], tile.shape[1], len(pick.near_ceilings) > 0
    top_scores, any_top = pick.top_scores, len(pick.top_scores) > 0
    lanes = np.empty(LANES)
    for line in range(tile.shape[0]):
        row = begin + line
        if counts[row] == CROWDED:
            continue
        unit, off = units[row], slack[row]
        high, safe = np.float32((ceilings[row] + off) / unit), (ceilings[row] - off) / unit
        low = lowest_value(scores[row, last], sure[row, last], unit, off)
        top = np.float32((top_scores[row, 0] - off) / unit) if any_top else np.float32(np.inf)
        for chunk in range(0, width, _CHUNK):
            if not _has_candidate(tile[line, chunk : chunk + _CHUNK], low, high, top):
                continue
            for column in range(chunk, min(chunk + _CHUNK, width)):
                value, passage = np.float32(tile[line, column]), start + column
                if not (low <= value <= high or value >= top) or (len(blocked) and blocked[passage]):
                    continue
                if is_among(out_ids, out_offsets[row], out_offsets[row + 1], passage):
                    continue
                waiting[row, counts[row]], values[row, counts[row]] = passage, value
                counts[row] += 1
                if any_top:
                    top = max(top, value - np.float32(2 * off / unit))
                if not any_near and value < safe and value > sure[row, last]:
                    insert_value(sure, row, value)
                    low = lowest_value(scores[row, last], sure[row, last], unit, off)
                if counts[row] == wait:
                    _settle(exact, pick, row, waiting[row], values[row], unit, off, lanes)
                    counts[row] = 0 if pick.settled[row] <= crowd + passage // PASSAGES_PER_CANDIDATE else CROWDED
                    low = lowest_value(scores[row, last], sure[row, last], unit, off)
                    if counts[row] == CROWDED:
                        low = top = np.float32(np.inf)
                    elif any_top:
                        top = max(top, np.float32((top_scores[row, 0] - off) / unit))


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _finish(exact: Exact, units: Any, slack: Any, pick: _Pick, begin: int, end: int) -> None:
    """Settle what still waits in some rows."""
    lanes = np.empty(LANES)
    for row in range(begin, end):
        count = pick.counts[row]
        if count > 0:
            waiting, values = pick.waiting[row, :count], pick.values[row, :count]
            _settle(exact, pick, row, waiting, values, units[row], slack[row], lanes)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _settle_rows(
    exact: Exact, slack: Any, pick: _Pick, bounds: Any, passages: Any, values: Any, begin: int, end: int
) -> None:
    """Settle the candidates ``bounds[row]`` to ``bounds[row + 1]`` of each row; their values are scores."""
    lanes = np.empty(LANES)
    for row in range(begin, end):
        own = slice(bounds[row], bounds[row + 1])
        _settle(exact, pick, row, passages[own], values[own], 1.0, slack[row], lanes)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _settle(
    exact: Exact, pick: _Pick, row: int, waiting: Any, values: Any, unit: float, off: float, lanes: Any
) -> None:
    """Let the candidates of a row into the answer that qualify by their exact scores, the best first.

    Values that are done with become -inf.
    """
    anchors, passages, near_vectors, near_rows = exact.anchors, exact.passages, pick.near_vectors, pick.near_rows
    scores, ids, ceiling, last = pick.best_scores, pick.best_ids, pick.ceilings[row], pick.best_scores.shape[1] - 1
    any_near, sure = len(pick.near_ceilings) > 0, pick.sure[row, last]
    free_scores, free_ids, top_scores, top_ids = pick.free_scores, pick.free_ids, pick.top_scores, pick.top_ids
    any_top = len(top_scores) > 0
    near_ceiling = pick.near_ceilings[row] if any_near else np.inf
    near_begin, near_end = (pick.near_offsets[row], pick.near_offsets[row + 1]) if any_near else (0, 0)
    for _ in range(len(values)):
        place = place_of_largest(values)
        score, passage = values[place], waiting[place]
        if score == -np.inf or score < lowest_value(scores[row, last], sure, unit, off):
            break
        values[place] = -np.inf
        pick.settled[row] += 1
        near = False
        if len(passages):
            rough, error = rough_dot(anchors, row, passages, passage)
            top = any_top and rough + error >= top_scores[row, 0]
            if not top and (rough - error >= ceiling or rough + error < scores[row, last]):
                continue
            near = _is_near(passages, passage, near_vectors, near_rows, near_begin, near_end, near_ceiling, lanes)
            if near and rough + error < free_scores[row, last]:
                continue
            score = dot(anchors, row, passages, passage, lanes)
        if any_top:
            insert_passage(top_scores, top_ids, row, score, passage)
        if score < ceiling and any_near:
            insert_passage(free_scores, free_ids, row, score, passage)
        if score < ceiling and not near:
            insert_passage(scores, ids, row, score, passage)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def lowest_value(last_score: Any, last_sure: Any, unit: float, off: float) -> Any:
    """Return the lowest value of a tile that can still belong to the answer."""
    return np.float32(max((last_score - off) / unit, last_sure - 2 * off / unit))


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _has_candidate(keys: Any, low: Any, high: Any, top: Any) -> bool:
    """Return whether any key lies from ``low`` to ``high``, or from ``top`` on; a loop that compiles to vector code."""
    found = False
    for place in range(len(keys)):
        value = np.float32(keys[place])
        found |= ((value >= low) & (value <= high)) | (value >= top)
    return found


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def place_of_largest(values: Any) -> int:
    """Return the first place of the largest value."""
    largest = 0
    for place in range(1, len(values)):
        if values[place] > values[largest]:
            largest = place
    return largest


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def is_among(rising: Any, begin: int, end: int, number: int) -> bool:
    """Return whether a number is one of ``rising[begin:end]``."""
    stop = end
    while begin < end:
        middle = (begin + end) >> 1
        if rising[middle] < number:
            begin = middle + 1
        else:
            end = middle
    return bool(begin < stop and rising[begin] == number)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def insert_passage(scores: Any, ids: Any, row: int, score: Any, passage: int) -> None:
    """Put a passage into a row of the best, if it is one of them; of equal scores the lower id comes first."""
    rank = scores.shape[1] - 1
    if not _is_better(score, passage, scores[row, rank], ids[row, rank]):
        return
    while rank > 0 and _is_better(score, passage, scores[row, rank - 1], ids[row, rank - 1]):
        scores[row, rank], ids[row, rank] = scores[row, rank - 1], ids[row, rank - 1]
        rank -= 1
    scores[row, rank], ids[row, rank] = score, passage


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _is_better(score: Any, passage: int, other_score: Any, other: int) -> bool:
    return bool(score > other_score or (score == other_score and passage < other))


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _is_near(
    passages: Any, passage: int, vectors: Any, rows: Any, begin: int, end: int, ceiling: float, lanes: Any
) -> bool:
    """Return whether a passage reaches the second ceiling with any positive, ``vectors[rows[begin:end]]``."""
    for place in range(begin, end):
        rough, error = rough_dot(passages, passage, vectors, rows[place])
        if rough + error < ceiling:
            continue
        if rough - error >= ceiling or dot(passages, passage, vectors, rows[place], lanes) >= ceiling:
            return True
    return False


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def insert_value(falling: Any, row: int, value: Any) -> None:
    """Put a value above the last into a row of falling values; the last drops out."""
    place = falling.shape[1] - 1
    while place > 0 and falling[row, place - 1] < value:
        falling[row, place] = falling[row, place - 1]
        place -= 1
    falling[row, place] = value
