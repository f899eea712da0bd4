"""The compiled part of approximate search: picking the candidates of a list, and settling them by exact scores.

As in ``scanning``, but the rows of a tile are any, its columns are passages in any order, and what scores at least the
ceiling is counted.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from hn_datasets.products import LANES, dot, rough_dot
from hn_datasets.scanning import insert_passage, insert_value, is_among, lowest_value, place_of_largest
from hn_datasets.teachers.base import Exact

_CHUNK = 128
"""Products looked at together; most runs hold no candidate."""


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def scan_list(tile: Any, rows: Any, passages: Any, exact: Exact, pick: Any, reach: int, crowd: int) -> None:
    """Collect the candidates of one list; the tile has a line for each of ``rows``, a column for each passage.

    A row with so many passages above its ceiling that its answer lies beyond the reach is left as it is, and so is one
    with a crowd of candidates.
    """
    out_offsets, out_ids, blocked, high, safe = pick.out_offsets, pick.out_ids, pick.blocked, pick.high, pick.safe
    waiting, values, counts, sure, above = pick.waiting, pick.values, pick.counts, pick.sure, pick.above
    scores, units, slack, width, last = pick.best_scores, pick.units, pick.slack, tile.shape[1], pick.sure.shape[1] - 1
    settled, top_scores, any_top = pick.settled, pick.top_scores, len(pick.top_scores) > 0
    lanes = np.empty(LANES)
    for line in range(len(rows)):
        row = rows[line]
        low = lowest_value(scores[row, last], sure[row, last], units[row], slack[row])
        top = np.float32((top_scores[row, 0] - slack[row]) / units[row]) if any_top else np.float32(np.inf)
        for start in range(0, width, _CHUNK):
            if above[row] >= reach or settled[row] > crowd:
                break
            stop = min(start + _CHUNK, width)
            number, found = _look(tile[line, start:stop], low, high[row], top)
            above[row] += number
            if not found:
                continue
            for column in range(start, stop):
                value, passage = np.float32(tile[line, column]), passages[column]
                if not (low <= value <= high[row] or value >= top):
                    continue
                if (len(blocked) and blocked[passage]) or is_among(
                    out_ids, out_offsets[row], out_offsets[row + 1], passage
                ):
                    above[row] += value <= high[row]  # it stands before the answer too; those above are counted
                    continue
                waiting[row, counts[row]], values[row, counts[row]] = passage, value
                counts[row] += 1
                if any_top:
                    top = max(top, value - np.float32(2 * slack[row] / units[row]))
                if value < safe[row] and value > sure[row, last]:
                    insert_value(sure, row, value)
                    low = lowest_value(scores[row, last], sure[row, last], units[row], slack[row])
                if counts[row] == waiting.shape[1]:
                    _settle(exact, pick, row, lanes)
                    low = lowest_value(scores[row, last], sure[row, last], units[row], slack[row])
                    if any_top:
                        top = max(top, np.float32((top_scores[row, 0] - slack[row]) / units[row]))


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def finish_rows(exact: Exact, pick: Any, begin: int, end: int) -> None:
    """Settle what still waits in some rows."""
    lanes = np.empty(LANES)
    for row in range(begin, end):
        _settle(exact, pick, row, lanes)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _look(keys: Any, low: Any, high: Any, top: Any) -> tuple[Any, bool]:
    """Return how many products are above ``high``, and whether any lies from ``low`` to it, or from ``top`` on.

    A loop that compiles to vector code.
    """
    number, found = np.int32(0), False
    for place in range(len(keys)):
        value = np.float32(keys[place])
        above = value > high
        number = np.int32(number + np.int32(above))
        found |= ((value >= low) & ~above) | (value >= top)
    return number, found


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _settle(exact: Exact, pick: Any, row: int, lanes: Any) -> None:
    """Let the candidates that wait in a row into the answer, or count them as above the ceiling, by exact scores."""
    anchors, passages, waiting, ceiling = exact.anchors, exact.passages, pick.waiting, pick.ceilings[row]
    scores, ids, last, sure = pick.best_scores, pick.best_ids, pick.best_scores.shape[1] - 1, pick.sure[row, -1]
    values, unit, slack = pick.values[row, : pick.counts[row]], pick.units[row], pick.slack[row]
    top_scores, top_ids, high = pick.top_scores, pick.top_ids, pick.high[row]
    any_top = len(top_scores) > 0
    for _ in range(len(values)):
        place = place_of_largest(values)
        value, passage = values[place], waiting[row, place]
        if value < lowest_value(scores[row, last], sure, unit, slack) or value == -np.inf:
            break
        values[place] = -np.inf
        pick.settled[row] += 1
        rough, error = rough_dot(anchors, row, passages, passage)
        best = any_top and rough + error >= top_scores[row, 0]
        if not best and rough + error < scores[row, last]:
            continue
        score = dot(anchors, row, passages, passage, lanes) if best or rough - error < ceiling else rough
        if best:
            insert_passage(top_scores, top_ids, row, score, passage)
        if score < ceiling:
            insert_passage(scores, ids, row, score, passage)
        elif value <= high:  # others are counted
            pick.above[row] += 1
    pick.counts[row] = 0
