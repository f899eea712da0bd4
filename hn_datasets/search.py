"""Search below a ceiling: for each anchor the k best passages that may be picked, exactly.

Scores come in tiles (anchors x passages) that may be off by a known slack. One pass over a tile picks out what can
still belong to the answer: more than the exact score of the k-th best so far less the slack, and less than the ceiling
plus the slack. Candidates wait, a few per anchor, until their exact scores are asked for; those raise the bound. So
nothing is left to be proved at the end, and the answer depends neither on the tiles nor on how exact they are. Memory
is one tile, ``len(anchors)`` x 4,096 scores, and the candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

from hn_datasets.teachers.base import Floats, Ids, Scores
from hn_datasets.texts import Ragged
from hn_datasets.threads import over_rows

TILE_COLUMNS = 4096
"""Passages per tile; with 2,048 anchors, 16 MiB of bfloat16."""

WAITING = 16
"""Candidates per anchor that wait for their exact scores: fewer ask too often, more raise the bound too late."""

_CHUNK = 256
_PART = 32

Keys = npt.NDArray[np.int16] | npt.NDArray[np.int32]


@dataclass(frozen=True)
class Search:
    """One question to all anchors: the ``k`` best passages that may be picked.

    Attributes:
        ceilings: shape ``[num_anchors]``, float64; a score has to be strictly below.
        k: how many.
        excluded: for each anchor the ids, in rising order, of passages that are never picked.
    """

    ceilings: npt.NDArray[np.float64]
    k: int
    excluded: Ragged


@dataclass(frozen=True)
class Found:
    """The answer, best first; rows with fewer than k passages below their ceiling are padded.

    Attributes:
        ids: shape ``[num_anchors, k]``, int64, -1 where padded.
        scores: shape ``[num_anchors, k]``, float32, -inf where padded.
    """

    ids: Ids
    scores: Floats


def k_best_below(scores: Scores, searches: Sequence[Search]) -> list[Found]:
    """Answer several searches with one pass over the scores.

    Strictly below the ceiling; higher scores first, ties to the lower id.

    Args:
        scores: those of the anchors against the whole corpus.
        searches: any number of questions; each gets its own answer.

    Returns:
        One ``Found`` per search. A row is short only if fewer than k passages of the whole corpus qualify.
    """
    picks = [_Pick.start(search, scores) for search in searches]
    for start in range(0, scores.num_passages, TILE_COLUMNS):
        tile = scores.tile(start, min(start + TILE_COLUMNS, scores.num_passages))
        for pick in picks:
            if isinstance(tile, torch.Tensor) and not _is_scannable(tile):
                pick.offer_tensor(tile, start)
            else:
                pick.offer(_keys(tile), start)
    for pick in picks:
        pick.settle_rows(np.arange(len(pick.counts)))
    return [pick.found for pick in picks]


@dataclass(frozen=True)
class _Pick:
    """One search on its way through the tiles; passages come in the order of their ids.

    Attributes:
        found: the best passages so far, by exact score.
        waiting: shape ``[num_anchors, WAITING]``, int64: candidates without exact scores.
        counts: shape ``[num_anchors]``, int64: how many wait.
    """

    search: Search
    scores: Scores
    found: Found
    waiting: Ids
    counts: Ids

    @classmethod
    def start(cls, search: Search, scores: Scores) -> _Pick:
        """Return a search that has seen no passage."""
        shape = (len(search.ceilings), search.k)
        found = Found(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))
        waiting = np.empty((shape[0], WAITING), np.int64)
        return cls(search, scores, found, waiting, np.zeros(shape[0], np.int64))

    def bounds(self) -> tuple[Floats, Floats]:
        """Return the lowest and the highest tile score of a candidate, shape ``[num_anchors]`` each.

        A later passage has a higher id, so it has to be better than the k-th best, not just as good.
        """
        slack = self.scores.slack.astype(np.float64)
        return _above(self.found.scores[:, -1] - slack), -_above(-(self.search.ceilings + slack))

    def offer(self, tile: Keys, start: int) -> None:
        """Take the candidates among the passages from ``start`` on, one per column of ``tile``.

        A row that has as many candidates as can wait stops, and goes on once they are settled.
        """
        positions = np.zeros(len(tile), np.int64)
        out = self.search.excluded
        while True:
            low, high = (_keys(_like(bound, tile)) for bound in self.bounds())
            over_rows(
                lambda begin, end, low=low, high=high: _collect(  # type: ignore[misc]
                    tile, start, low, high, out.offsets, out.values, self.waiting, self.counts, positions, begin, end
                ),
                len(tile),
            )
            stopped = np.flatnonzero(positions < tile.shape[1])
            if not len(stopped):
                return
            self.settle_rows(stopped)

    def offer_tensor(self, tile: torch.Tensor, start: int) -> None:
        """Do the same on the tile's device; the tile itself gives a first bound."""
        low, high = self.bounds()
        slack = self.scores.slack.astype(np.float64)
        out = self.search.excluded
        here = (out.values >= start) & (out.values < start + tile.shape[1])
        rows, columns = out.rows[here], out.values[here] - start
        allowed = tile <= _column(high, tile)
        allowed[torch.from_numpy(rows).to(tile.device), torch.from_numpy(columns).to(tile.device)] = False
        if self.search.k <= tile.shape[1]:
            safe = allowed & (tile <= _column(-_above(-(self.search.ceilings - slack)), tile))
            best = tile.masked_fill(~safe, -torch.inf).topk(self.search.k, dim=1).values[:, -1]
            low = np.maximum(low, -_above(-(best.cpu().numpy() - 2 * slack)))
        owners, places = (part.cpu().numpy() for part in torch.nonzero(allowed & (tile >= _column(low, tile))).T)
        self.settle(owners, places + start)

    def settle_rows(self, rows: Ids) -> None:
        """Ask for the exact scores of the candidates that wait in some rows."""
        counts = self.counts[rows]
        self.counts[rows] = 0
        self.settle(np.repeat(rows, counts), self.waiting[rows][np.arange(WAITING) < counts[:, None]])

    def settle(self, rows: Ids, ids: Ids) -> None:
        """Let candidates into the answer by their exact scores; rows have to rise, and ids within a row."""
        exact = self.scores.pairs(rows, ids)
        _insert(rows, ids, exact, self.search.ceilings, self.found.ids, self.found.scores)


def _is_scannable(tile: torch.Tensor) -> bool:
    return tile.device.type == "cpu" and tile.dtype == torch.bfloat16


def _above(values: npt.NDArray[np.float64]) -> Floats:
    """Return the lowest float32 above each value."""
    nearest = values.astype(np.float32)
    return np.where(nearest > values, nearest, np.nextafter(nearest, np.float32(np.inf)))


def _column(bounds: Floats, tile: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(bounds).to(tile.device)[:, None]


def _like(bounds: Floats, tile: Keys) -> Floats | torch.Tensor:
    """Round bounds as the tile was rounded: whatever was not below a bound before is not below it afterwards."""
    return torch.from_numpy(bounds).bfloat16() if tile.dtype == np.int16 else bounds


def _keys(scores: Floats | torch.Tensor) -> Keys:
    """Return the bits of scores as integers: float32 as int32, bfloat16 as int16."""
    return scores.view(torch.int16).numpy() if isinstance(scores, torch.Tensor) else scores.view(np.int32)


@numba.njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def _ordered(key: Any, kind: Any, sign: int) -> Any:
    """Return the integer that stands to others as the number with these bits does: negative ones fall as bits rise."""
    return kind(key ^ kind(kind(key >> sign) & kind(~(-1 << sign))))


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _has_between(keys: Any, first: Any, last: Any) -> bool:
    """Return whether any key lies from ``first`` to ``last``, both ordered; a loop that compiles to vector code."""
    kind, sign = keys.dtype.type, 8 * keys.itemsize - 1
    highest = kind(-1 << sign)
    for place in range(len(keys)):
        key = _ordered(keys[place], kind, sign)
        highest = max(highest, key if key <= last else kind(-1 << sign))
    return bool(highest >= first)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _collect(
    tile: Any,
    start: int,
    low: Any,
    high: Any,
    offsets: Any,
    excluded: Any,
    waiting: Any,
    counts: Any,
    positions: Any,
    begin: int,
    end: int,
) -> None:
    """Collect candidates of rows ``begin`` to ``end`` from ``positions`` on, and say there how far each row came."""
    kind, sign = tile.dtype.type, 8 * tile.itemsize - 1
    for row in range(begin, end):
        counts[row], positions[row] = _collect_row(
            tile[row],
            start,
            _ordered(low[row], kind, sign),
            _ordered(high[row], kind, sign),
            excluded[offsets[row] : offsets[row + 1]],
            waiting[row],
            counts[row],
            positions[row],
        )


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _collect_row(
    keys: Any, start: int, first: Any, last: Any, excluded: Any, waiting: Any, count: int, position: int
) -> tuple[int, int]:
    """Return how many candidates wait after this, and the column to go on from."""
    kind, sign = keys.dtype.type, 8 * keys.itemsize - 1
    width = len(keys)
    for chunk in range(position, width, _CHUNK):
        stop = min(chunk + _CHUNK, width)
        if not _has_between(keys[chunk:stop], first, last):
            continue
        for part in range(chunk, stop, _PART):
            if not _has_between(keys[part : min(part + _PART, stop)], first, last):
                continue
            for column in range(part, min(part + _PART, stop)):
                if not first <= _ordered(keys[column], kind, sign) <= last:
                    continue
                place = np.searchsorted(excluded, start + column)
                if place < len(excluded) and excluded[place] == start + column:
                    continue
                if count == len(waiting):
                    return count, column
                waiting[count] = start + column
                count += 1
    return count, width


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _insert(rows: Any, ids: Any, exact: Any, ceilings: Any, best_ids: Any, best_scores: Any) -> None:
    """Insert passages into the sorted answers; later ones have higher ids, so they go behind equal scores."""
    for number in range(len(rows)):
        row, score = rows[number], exact[number]
        place = best_scores.shape[1] - 1
        if score >= ceilings[row] or score <= best_scores[row, place]:
            continue
        while place > 0 and best_scores[row, place - 1] < score:
            best_scores[row, place], best_ids[row, place] = best_scores[row, place - 1], best_ids[row, place - 1]
            place -= 1
        best_scores[row, place], best_ids[row, place] = score, ids[number]
