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
from typing import Any, Protocol

import numba
import numpy as np
import numpy.typing as npt
import torch

from hn_datasets.inverted_lists import InvertedLists, Stage
from hn_datasets.scoring import FLOAT32_ROUNDING, TINY, float32_products
from hn_datasets.search import Found, Search, k_best_below
from hn_datasets.teachers.base import Floats, Ids, Scores
from hn_datasets.threads import over_rows

CAPACITY = 128
"""Candidates per anchor that have room at first; rows that need more are read again with more."""

MOST_CANDIDATES = 1 << 22
"""Room for candidates in one reading; fewer anchors are read at once where each needs more."""

BFLOAT16_ROUNDING = 2.0**-8

_CHUNK = 64
_MORE = 8


class VectorScores(Scores, Protocol):
    """Scores that are products of vectors.

    Attributes:
        anchors: shape ``[num_anchors, dimension]``, float32.
    """

    anchors: Floats

    def of_rows(self, rows: Ids) -> VectorScores:
        """Return the scores of some of the anchors."""


def approximate_k_best_below(
    scores: VectorScores,
    lists: InvertedLists,
    searches: Sequence[Search],
    *,
    precision: torch.dtype = torch.float32,
    stages: Sequence[Stage] | None = None,
) -> list[Found]:
    """Answer several searches from inverted lists; see ``search.k_best_below``.

    Args:
        scores: those of the anchors against the whole corpus.
        lists: of the same corpus.
        searches: any number of questions; each gets its own answer.
        precision: of the products; the answer does not depend on it.
        stages: other ones than those that were measured for these lists.

    Returns:
        One ``Found`` per search, every score exact. A row is short only if fewer than k passages of the whole corpus
        qualify.
    """
    answers = [_nothing(len(search.ceilings), search.k) for search in searches]
    rows = np.arange(len(scores.anchors))
    for stage in lists.measured.stages if stages is None else stages:
        parts = [_of_rows(search, rows) for search in searches]
        found, done = _search_lists(scores.of_rows(rows), lists, parts, stage, precision)
        _put(answers, found, rows, np.flatnonzero(done))
        rows = rows[~done]
        if not len(rows):
            return answers
    exact = k_best_below(scores.of_rows(rows), [_of_rows(search, rows) for search in searches])
    _put(answers, exact, rows, np.arange(len(rows)))
    return answers


def _nothing(num_rows: int, k: int) -> Found:
    return Found(np.full((num_rows, k), -1, np.int64), np.full((num_rows, k), -np.inf, np.float32))


def _of_rows(search: Search, rows: Ids) -> Search:
    return replace(search, ceilings=search.ceilings[rows], excluded=search.excluded.take(rows))


def _put(answers: Sequence[Found], found: Sequence[Found], rows: Ids, chosen: Ids) -> None:
    """Copy the chosen rows of what was found to where they belong."""
    for answer, part in zip(answers, found, strict=True):
        answer.ids[rows[chosen]], answer.scores[rows[chosen]] = part.ids[chosen], part.scores[chosen]


def _search_lists(
    scores: VectorScores,
    lists: InvertedLists,
    searches: Sequence[Search],
    stage: Stage,
    precision: torch.dtype,
    capacity: int = CAPACITY,
) -> tuple[list[Found], npt.NDArray[np.bool_]]:
    """Return the best passages of the nearest lists, and for which rows they are the answer to all searches."""
    answers, num_rows = [], len(scores.anchors)
    done, lost = np.ones(num_rows, dtype=bool), np.zeros(num_rows, dtype=bool)
    read = _read(scores.anchors, lists, searches, stage.num_lists, precision, capacity)
    for search, parts in zip(searches, read, strict=True):
        found, depths = _settle(scores, search, parts)
        answers.append(found)
        done &= (found.ids[:, -1] >= 0) & (depths + search.k <= stage.reach)
        lost |= np.any([part.lost for part in parts], axis=0)
    num_groups = min(lost.sum(), 1 + lost.sum() * _MORE * capacity // MOST_CANDIDATES)
    for rows in np.array_split(np.flatnonzero(lost), num_groups) if num_groups else ():
        again = [_of_rows(search, rows) for search in searches]
        found_again, done[rows] = _search_lists(scores.of_rows(rows), lists, again, stage, precision, _MORE * capacity)
        _put(answers, found_again, rows, np.arange(len(rows)))
    return answers, done


def _read(
    anchors: Floats,
    lists: InvertedLists,
    searches: Sequence[Search],
    num_lists: int,
    precision: torch.dtype,
    capacity: int,
) -> list[list[_Candidates]]:
    """Return, for each search, candidates from the nearest lists in a few parts; each thread fills its own."""
    block = torch.from_numpy(anchors * lists.scale).to(precision)
    shifts, slack = anchors.astype(np.float64) @ lists.shift, _slack(anchors, block, lists)
    nearest = lists.nearest(anchors, num_lists).ravel()
    order = np.argsort(nearest, kind="stable")
    owners, starts = order // num_lists, np.searchsorted(nearest[order], np.arange(lists.num_lists + 1))
    parts: list[list[_Candidates]] = []

    def read(begin: int, end: int) -> None:
        own = [_Candidates.start(search, shifts, slack, precision, capacity) for search in searches]
        for number in range(begin, end):
            rows = owners[starts[number] : starts[number + 1]]
            if len(rows) and lists.sizes[number]:
                tile = block[torch.from_numpy(rows)] @ lists.block(number, precision).T
                for candidates in own:
                    candidates.offer(tile.float().numpy(), rows, lists.ids(number))
        parts.append(own)

    with float32_products():
        over_rows(read, lists.num_lists)
    return [list(own) for own in zip(*parts, strict=True)]


def _slack(anchors: Floats, block: torch.Tensor, lists: InvertedLists) -> npt.NDArray[np.float64]:
    """Return how far the fast score of a passage may be from the exact one, before it is rounded to bfloat16.

    By Cauchy and Schwarz, as for the tiles of ``DenseScores``: what the code takes from a passage times the anchor,
    what ``block`` takes from the scaled anchor times the row, and the rounding of sums of d float32 products.
    """
    rounded = block.float().numpy()
    lengths, losses, scaled = (
        np.linalg.norm(vectors.astype(np.float64), axis=1)
        for vectors in (anchors, rounded - anchors * lists.scale, rounded)
    )
    adding = 2 * (anchors.shape[1] + 4) * FLOAT32_ROUNDING
    longest, known = lists.measured.largest_length, lists.measured
    whole = float(np.abs(lists.scale).max()) * longest + float(np.linalg.norm(lists.shift))
    slack = lengths * (known.largest_loss + 4 * FLOAT32_ROUNDING * whole) + (losses + adding * scaled) * longest
    return np.asarray(1.001 * slack + TINY)


@dataclass(frozen=True)
class _Candidates:
    """Passages that may belong to the answer of one search, by fast scores.

    Attributes:
        low: shape ``[num_anchors]``, float32: fast scores below are too low; it rises.
        high: shape ``[num_anchors]``, float32: fast scores above are not below the ceiling.
        safe: shape ``[num_anchors]``, float32: fast scores up to it are below the ceiling.
        slack: shape ``[num_anchors]``, float64.
        rounding: how much of itself a fast score may have lost by rounding.
        best: shape ``[num_anchors, k]``, float32, the highest safe fast scores, falling.
        ids: shape ``[num_anchors, capacity]``, int64, with their fast scores in ``values``, float32.
        counts: shape ``[num_anchors]``, int64: how many candidates there are.
        above: shape ``[num_anchors]``, int64: how many fast scores were above ``high``.
        lost: shape ``[num_anchors]``, bool: whether candidates found no room.
    """

    search: Search
    low: Floats
    high: Floats
    safe: Floats
    slack: npt.NDArray[np.float64]
    rounding: float
    best: Floats
    ids: Ids
    values: Floats
    counts: Ids
    above: Ids
    lost: npt.NDArray[np.bool_]

    @classmethod
    def start(
        cls,
        search: Search,
        shifts: npt.NDArray[np.float64],
        slack: npt.NDArray[np.float64],
        precision: torch.dtype,
        capacity: int,
    ) -> _Candidates:
        """Return no candidates; fast scores lack ``shifts``, shape ``[num_anchors]``."""
        num_rows, rounding = len(search.ceilings), BFLOAT16_ROUNDING if precision == torch.bfloat16 else 0.0
        ceilings = search.ceilings - shifts
        high, safe = -_lowest(-(ceilings + slack), rounding), _lowest(ceilings - slack, rounding)
        return cls(
            search,
            low=np.full(num_rows, -np.inf, np.float32),
            high=np.nextafter(high.astype(np.float32), np.float32(np.inf)),
            safe=np.nextafter(safe.astype(np.float32), np.float32(-np.inf)),
            slack=slack,
            rounding=rounding,
            best=np.full((num_rows, search.k), -np.inf, np.float32),
            ids=np.empty((num_rows, capacity), np.int64),
            values=np.empty((num_rows, capacity), np.float32),
            counts=np.zeros(num_rows, np.int64),
            above=np.zeros(num_rows, np.int64),
            lost=np.zeros(num_rows, dtype=bool),
        )

    def offer(self, tile: Floats, rows: Ids, ids: Ids) -> None:
        """Take the candidates of one list; ``tile`` has a line for each of ``rows``, a column for each of ``ids``."""
        out = self.search.excluded
        _collect(
            tile, rows, ids, out.offsets, out.values, self.low, self.high, self.safe, self.slack, self.rounding,
            self.best, self.ids, self.values, self.counts, self.above, self.lost,
        )  # fmt: skip


def _settle(scores: Scores, search: Search, parts: Sequence[_Candidates]) -> tuple[Found, Ids]:
    """Return the best candidates by exact scores, and how many passages that were read score at least the ceiling."""
    num_rows = len(search.ceilings)
    low = np.max([part.low for part in parts], axis=0)
    chosen = [(np.arange(part.ids.shape[1]) < part.counts[:, None]) & (part.values >= low[:, None]) for part in parts]
    rows = np.concatenate([np.nonzero(mask)[0] for mask in chosen])
    ids = np.concatenate([part.ids[mask] for part, mask in zip(parts, chosen, strict=True)])
    exact = scores.pairs(rows, ids)
    below = exact < search.ceilings[rows]
    depths = np.sum([part.above for part in parts], axis=0) + np.bincount(rows[~below], minlength=num_rows)
    rows, ids, exact = rows[below], ids[below], exact[below]
    order = np.lexsort((ids, -exact, rows))
    rows = rows[order]
    ranks = np.arange(len(rows)) - np.searchsorted(rows, rows)
    best = ranks < search.k
    found = _nothing(num_rows, search.k)
    found.ids[rows[best], ranks[best]], found.scores[rows[best], ranks[best]] = ids[order][best], exact[order][best]
    return found, depths


def _lowest(bounds: npt.NDArray[np.float64], rounding: float) -> npt.NDArray[np.float64]:
    """Return the lowest x with x + rounding * abs(x) >= bound."""
    return np.where(bounds >= 0, bounds / (1 + rounding), bounds / (1 - rounding))


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _collect(
    tile: Any,
    rows: Any,
    passages: Any,
    offsets: Any,
    excluded: Any,
    low: Any,
    high: Any,
    safe: Any,
    slack: Any,
    rounding: float,
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
        row = rows[line]
        out = excluded[offsets[row] : offsets[row + 1]]
        for start in range(0, width, _CHUNK):
            stop = min(start + _CHUNK, width)
            num_high = 0
            for column in range(start, stop):
                num_high += tile[line, column] >= low[row]
            if num_high == 0:
                continue
            for column in range(start, stop):
                value = tile[line, column]
                if value < low[row]:
                    continue
                place = np.searchsorted(out, passages[column])
                if place < len(out) and out[place] == passages[column]:
                    continue
                if value > high[row]:
                    above[row] += 1
                    continue
                if counts[row] == ids.shape[1]:
                    counts[row] = _drop(ids[row], values[row], low[row])
                if counts[row] == ids.shape[1]:
                    lost[row] = True
                else:
                    ids[row, counts[row]], values[row, counts[row]] = passages[column], value
                    counts[row] += 1
                if value <= safe[row] and value > best[row, -1]:
                    low[row] = _raise(best[row], value, slack[row], rounding)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _drop(ids: Any, values: Any, low: float) -> int:
    """Drop the candidates of a row that are too low by now; return how many are left."""
    count = 0
    for place in range(len(values)):
        if values[place] >= low:
            ids[count], values[count] = ids[place], values[place]
            count += 1
    return count


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _raise(best: Any, value: float, slack: float, rounding: float) -> Any:
    """Insert a fast score among the best ones; return the lowest that a candidate may have now."""
    place = len(best) - 1
    while place > 0 and best[place - 1] < value:
        best[place] = best[place - 1]
        place -= 1
    best[place] = value
    last = np.float64(best[-1])
    if last == -np.inf:
        return np.float32(last)
    bound = last - rounding * abs(last) - 2 * slack
    bound = bound / (1 + rounding) if bound >= 0 else bound / (1 - rounding)
    return np.float32(bound - 1e-6 * abs(bound) - 1e-37)
