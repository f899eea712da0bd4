"""Search below a ceiling: for each anchor the k best passages that may be picked, exactly.

Scores come in tiles (anchors x passages) that may be off by a known slack. A heap per anchor keeps the best candidates
below ceiling + slack; their exact scores then give the answer, together with the proof that no passage outside the heap
can belong to it. Where the proof fails (many scores within the slack of one another) the row is searched again with a
larger heap. Memory is one tile, ``len(anchors)`` x 4,096 scores, and the heaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

from hn_datasets.teachers.base import Floats, Ids, Scorer, Scores
from hn_datasets.texts import Ragged
from hn_datasets.threads import over_rows

TILE_COLUMNS = 4096
"""Passages per tile; with 2,048 anchors, 32 MiB of float32."""

SPARE = 12
"""Candidates kept beyond k; unit vectors of real texts rarely have more scores within the slack of the k-th."""

GROWTH = 8
"""How much larger the heap is when a row is searched again."""

_CHUNK = 64


@dataclass(frozen=True)
class Search:
    """One question to all anchors: the ``k`` best below ``ceilings`` (shape ``[num_anchors]``, float64)."""

    ceilings: npt.NDArray[np.float64]
    k: int


@dataclass(frozen=True)
class Found:
    """The answer, best first; rows with fewer than k passages below their ceiling are padded.

    Attributes:
        ids: shape ``[num_anchors, k]``, int64, -1 where padded.
        scores: shape ``[num_anchors, k]``, float32, -inf where padded.
    """

    ids: Ids
    scores: Floats


def k_best_below(
    scorer: Scorer, anchors: Sequence[str], searches: Sequence[Search], excluded: Ragged, scores: Scores | None = None
) -> list[Found]:
    """Answer several searches with one pass over the scores.

    Strictly below the ceiling; higher scores first, ties to the lower id.

    Args:
        scorer: the teacher with its corpus.
        anchors: n texts.
        searches: any number of (ceilings, k); each gets its own answer.
        excluded: n lists of passage ids in rising order that are never picked.
        scores: the scores of these anchors, where the caller has opened them already.

    Returns:
        One ``Found`` per search. A row is short only if fewer than k passages of the whole corpus qualify.
    """
    if scores is None:
        scores = scorer.scores(anchors)
    num_rows = len(anchors)
    answers = [
        Found(np.full((num_rows, search.k), -1, np.int64), np.full((num_rows, search.k), -np.inf, np.float32))
        for search in searches
    ]
    rows = np.arange(num_rows)
    pending = [(number, rows) for number in range(len(searches))]
    spare = SPARE
    while pending:
        pending = _settle(scorer.num_passages, scores, rows, searches, pending, excluded, spare, answers)
        spare *= GROWTH
        if pending:
            rows = np.unique(np.concatenate([part for _, part in pending]))
            scores = scorer.scores([anchors[row] for row in rows.tolist()])
    return answers


def _settle(
    num_passages: int,
    scores: Scores,
    rows: Ids,
    searches: Sequence[Search],
    pending: list[tuple[int, Ids]],
    excluded: Ragged,
    spare: int,
    answers: list[Found],
) -> list[tuple[int, Ids]]:
    """Run one pass over the corpus for ``rows``, write down what is proved, return what is not."""
    out = excluded.take(rows)
    heaps = []
    for number, _ in pending:
        ceilings = searches[number].ceilings[rows]
        upper = np.nextafter((ceilings + scores.slack).astype(np.float32), np.float32(np.inf))
        size = min(searches[number].k + spare, num_passages)
        heaps.append(_Heaps.empty(len(rows), size, upper))
    for start in range(0, num_passages, TILE_COLUMNS):
        tile = scores.tile(start, min(start + TILE_COLUMNS, num_passages))
        for heap in heaps:
            heap.push(tile, start, out)
    open_rows = []
    for (number, wanted), heap in zip(pending, heaps, strict=True):
        at = np.searchsorted(rows, wanted)
        search, answer = searches[number], answers[number]
        found, proved = heap.best(scores, search.ceilings[rows], search.k, whole=heap.ids.shape[1] == num_passages)
        answer.ids[wanted], answer.scores[wanted] = found.ids[at], found.scores[at]
        if not proved[at].all():
            open_rows.append((number, wanted[~proved[at]]))
    return open_rows


@dataclass(frozen=True)
class _Heaps:
    """The best candidates of every anchor so far: binary heaps with the worst one at the root.

    Attributes:
        scores: shape ``[num_anchors, size]``, float32, as the tiles had them; -inf in free places.
        ids: shape ``[num_anchors, size]``, int64; -1 in free places.
        upper: shape ``[num_anchors]``, float32: candidates stay strictly below.
    """

    scores: Floats
    ids: Ids
    upper: Floats

    @classmethod
    def empty(cls, num_anchors: int, size: int, upper: Floats) -> _Heaps:
        """Return heaps with all places free."""
        return cls(np.full((num_anchors, size), -np.inf, np.float32), np.full((num_anchors, size), -1, np.int64), upper)

    def push(self, tile: Floats | torch.Tensor, start: int, excluded: Ragged) -> None:
        """Offer the passages from ``start`` on, one per column of ``tile``."""
        if isinstance(tile, torch.Tensor):
            self._push_tensor(tile, start, excluded)
            return
        over_rows(
            lambda begin, end: _push(
                tile, start, self.upper, excluded.offsets, excluded.values, self.scores, self.ids, begin, end
            ),
            len(self.ids),
        )

    def _push_tensor(self, tile: torch.Tensor, start: int, excluded: Ragged) -> None:
        """Do the same on the tile's device, by top-k instead of heaps."""
        here = (excluded.values >= start) & (excluded.values < start + tile.shape[1])
        allowed = tile < torch.from_numpy(self.upper).to(tile.device)[:, None]
        rows, columns = excluded.rows[here], excluded.values[here] - start
        allowed[torch.from_numpy(rows).to(tile.device), torch.from_numpy(columns).to(tile.device)] = False
        best, places = tile.masked_fill(~allowed, -torch.inf).topk(min(self.ids.shape[1], tile.shape[1]), dim=1)
        ids = np.where(best.isinf().cpu().numpy(), -1, places.cpu().numpy() + start)
        scores = np.concatenate([self.scores, best.cpu().numpy()], axis=1)
        ids = np.concatenate([self.ids, ids], axis=1)
        order = np.lexsort((-ids, scores), axis=1)[:, -self.ids.shape[1] :]
        self.scores[:] = np.take_along_axis(scores, order, axis=1)
        self.ids[:] = np.take_along_axis(ids, order, axis=1)

    def best(
        self, scores: Scores, ceilings: npt.NDArray[np.float64], k: int, *, whole: bool
    ) -> tuple[Found, npt.NDArray[np.bool_]]:
        """Return the k best by exact score, and for which rows it is proved that they are.

        A passage outside a full heap had a tile score of at most the root's, so its exact score is at most the root's
        plus the slack; if that is below the k-th best, it cannot belong to the answer. Without slack the heap's order
        is the exact one, and k candidates below the ceiling are proof enough.
        """
        taken = self.ids >= 0
        rows = np.nonzero(taken)[0]
        exact = np.full(self.ids.shape, -np.inf, dtype=np.float32)
        exact[taken] = scores.pairs(rows, self.ids[taken])
        exact[exact >= ceilings[:, None]] = -np.inf
        order = np.lexsort((self.ids, -exact), axis=1)[:, :k]
        best = np.take_along_axis(exact, order, axis=1)
        ids = np.where(np.isneginf(best), -1, np.take_along_axis(self.ids, order, axis=1))
        root = self.scores.min(axis=1).astype(np.float64)
        last = best[:, -1] if best.shape[1] == k else np.full(len(best), -np.inf, np.float32)
        proved = whole | ~taken.all(axis=1) | (root + scores.slack < last) | ((scores.slack == 0) & np.isfinite(last))
        return Found(_pad(ids, k, -1), _pad(best, k, -np.inf)), proved


def _pad(array: npt.NDArray[Any], width: int, value: float) -> npt.NDArray[Any]:
    missing = width - array.shape[1]
    return np.pad(array, ((0, 0), (0, missing)), constant_values=value) if missing else array


@numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz", "reassoc"})  # type: ignore[untyped-decorator]
def _largest(values: Any) -> Any:
    largest = values[0]
    for value in values:
        largest = max(largest, value)
    return largest


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _push(
    tile: Any,
    start: int,
    upper: Any,
    offsets: Any,
    excluded: Any,
    scores: Any,
    ids: Any,
    begin: int,
    end: int,
) -> None:
    """Offer a tile to the heaps of rows ``begin`` to ``end``.

    Ids rise from tile to tile, so an equal score that comes later never displaces an earlier one.
    """
    width = tile.shape[1]
    for row in range(begin, end):
        out = excluded[offsets[row] : offsets[row + 1]]
        for chunk in range(0, width, _CHUNK):
            stop = min(chunk + _CHUNK, width)
            if _largest(tile[row, chunk:stop]) <= scores[row, 0]:
                continue
            for column in range(chunk, stop):
                score = tile[row, column]
                if score <= scores[row, 0] or score >= upper[row]:
                    continue
                place = np.searchsorted(out, start + column)
                if place < len(out) and out[place] == start + column:
                    continue
                _replace_root(scores[row], ids[row], score, start + column)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _replace_root(scores: Any, ids: Any, score: Any, passage: int) -> None:
    """Put a better candidate in place of the worst: lowest score first, the higher id first among equals."""
    size = len(scores)
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            scores[other] < scores[child] or (scores[other] == scores[child] and ids[other] > ids[child])
        ):
            child = other
        if scores[child] > score or (scores[child] == score and ids[child] < passage):
            break
        scores[hole], ids[hole] = scores[child], ids[child]
        hole = child
    scores[hole], ids[hole] = score, passage
