"""The compiled part of search: picking the candidates of a tile, and settling them by exact scores.

Everything here works in place on the arrays of a pick, for the rows that a thread has; see ``search``, and
``approximate`` for lists.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from hn_datasets.products import LANES, dot, rough_dot
from hn_datasets.teachers.base import Exact

PASSAGES_PER_CANDIDATE = 16
"""An exact score takes as long as so many float32 products: where more of the passages lie within the slack, as below a
ceiling in the middle of all scores, the whole row takes less time as such products."""

CROWDED = -1
"""Count of a row whose candidates are too many; narrower scores will tell them apart."""

_CHUNK = 64
"""Scores looked at together; most runs hold no candidate."""


# What follows takes arrays out of a pick once, and hands them on by themselves: a tuple of arrays that is handed on
# counts the references to each of them, which cost more than all else that is done for a candidate.


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def scan(tile: Any, begin: int, start: int, exact: Exact, units: Any, slack: Any, crowd: int, pick: Any) -> None:
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
            if not has_candidate(tile[line, chunk : chunk + _CHUNK], low, high, top):
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
def finish(exact: Exact, units: Any, slack: Any, pick: Any, begin: int, end: int) -> None:
    """Settle what still waits in some rows."""
    lanes = np.empty(LANES)
    for row in range(begin, end):
        count = pick.counts[row]
        if count > 0:
            waiting, values = pick.waiting[row, :count], pick.values[row, :count]
            _settle(exact, pick, row, waiting, values, units[row], slack[row], lanes)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def settle_rows(
    exact: Exact, slack: Any, pick: Any, bounds: Any, passages: Any, values: Any, begin: int, end: int
) -> None:
    """Settle the candidates ``bounds[row]`` to ``bounds[row + 1]`` of each row; their values are scores."""
    lanes = np.empty(LANES)
    for row in range(begin, end):
        own = slice(bounds[row], bounds[row + 1])
        _settle(exact, pick, row, passages[own], values[own], 1.0, slack[row], lanes)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _settle(exact: Exact, pick: Any, row: int, waiting: Any, values: Any, unit: float, off: float, lanes: Any) -> None:
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
def has_candidate(keys: Any, low: Any, high: Any, top: Any) -> bool:
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
