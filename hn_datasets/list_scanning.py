"""The compiled part of approximate search: picking the candidates of a list, and settling them.

As in ``scanning``, but the rows of a tile are any, its columns are passages in any order, and what scores at least the
ceiling is counted. Where ceilings lie deep, thousands of passages of a row do, and lie anywhere among the vectors. So a
candidate's score is computed finely at once, from two 8-bit integers for each component that lie beside those of its
list; exactly only where that leaves it open whether the passage belongs to the answer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from hn_datasets.products import LANES, dot
from hn_datasets.scanning import has_candidate, insert_passage, is_among
from hn_datasets.teachers.base import Exact, Floats

_CHUNK = 128
"""Products looked at together; most runs hold no candidate."""

_PART = 16
"""The same within a run that holds one."""


class Fine(NamedTuple):
    """What fine scores of some anchors are computed with.

    Attributes:
        anchors: shape ``[n, d]``, float32, rotated.
        errors: shape ``[n]``, float64: how far a fine score may be from the exact one.
        unit: what 1 stands for in the integers of a passage.
        remainder_unit: what 1 stands for in its remainders.
    """

    anchors: Floats
    errors: npt.NDArray[np.float64]
    unit: np.float32
    remainder_unit: np.float32


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def scan_list(  # noqa: PLR0912 - a call for each candidate would cost more than its score
    tile: Any, rows: Any, passages: Any, integers: Any, remainders: Any, exact: Exact, fine: Fine, pick: Any,
    reach: int, crowd: int,
) -> None:  # fmt: skip
    """Settle the candidates of one list; the tile has a line for each of ``rows``, a column for each passage.

    A row with so many passages above its ceiling that its answer lies beyond the reach is left as it is, and so is one
    with a crowd of candidates.
    """
    out_offsets, out_ids, blocked, ceilings, high = (
        pick.out_offsets,
        pick.out_ids,
        pick.blocked,
        pick.ceilings,
        pick.high,
    )
    scores, ids, units, slack, above, settled = (
        pick.best_scores, pick.best_ids, pick.units, pick.slack, pick.above, pick.settled,
    )  # fmt: skip
    top_scores, top_ids, any_top = pick.top_scores, pick.top_ids, len(pick.top_scores) > 0
    anchors, vectors, rotated, errors = exact.anchors, exact.passages, fine.anchors, fine.errors
    unit, remainder_unit, width, last = fine.unit, fine.remainder_unit, tile.shape[1], scores.shape[1] - 1
    lanes = np.empty(LANES)
    for line in range(len(rows)):
        row = rows[line]
        error, ceiling = errors[row], ceilings[row]
        low = np.float32((scores[row, last] - slack[row]) / units[row])
        top = np.float32((top_scores[row, 0] - slack[row]) / units[row]) if any_top else np.float32(np.inf)
        for start in range(0, width, _CHUNK):
            if above[row] >= reach or settled[row] > crowd:
                break
            stop = min(start + _CHUNK, width)
            number, found = _look(tile[line, start:stop], low, high[row], top)
            above[row] += number
            if not found:
                continue
            for begin in range(start, stop, _PART):
                end = min(begin + _PART, stop)
                if not has_candidate(tile[line, begin:end], low, high[row], top):
                    continue
                for column in range(begin, end):
                    value, passage = np.float32(tile[line, column]), passages[column]
                    if not (low <= value <= high[row] or value >= top):
                        continue
                    if (len(blocked) and blocked[passage]) or is_among(
                        out_ids, out_offsets[row], out_offsets[row + 1], passage
                    ):
                        above[row] += value <= high[row]  # it stands before the answer too; those above are counted
                        continue
                    settled[row] += 1
                    score = _fine_dot(rotated, row, integers, remainders, column, unit, remainder_unit)
                    best = any_top and score + error >= top_scores[row, 0]
                    if not best and score + error < scores[row, last]:
                        continue
                    if best or score - error < ceiling:
                        score = dot(anchors, row, vectors, passage, lanes)
                    if best:
                        insert_passage(top_scores, top_ids, row, score, passage)
                        top = np.float32((top_scores[row, 0] - slack[row]) / units[row])
                    if score < ceiling:
                        insert_passage(scores, ids, row, score, passage)
                        low = np.float32((scores[row, last] - slack[row]) / units[row])
                    elif value <= high[row]:  # others are counted
                        above[row] += 1


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _fine_dot(
    anchors: Any, row: int, integers: Any, remainders: Any, column: int, unit: Any, remainder_unit: Any
) -> Any:
    """Return the product of an anchor with a passage as its integers and remainders have it, float32."""
    whole, rest = np.float32(0), np.float32(0)
    for place in range(anchors.shape[1]):
        whole += anchors[row, place] * np.float32(integers[column, place])
        rest += anchors[row, place] * np.float32(remainders[column, place])
    return whole * unit + rest * remainder_unit


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
