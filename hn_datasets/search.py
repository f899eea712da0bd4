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
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from hn_datasets.products import dot_products, float32_products
from hn_datasets.scanning import CROWDED, finish, scan, settle_rows
from hn_datasets.teachers.base import Floats, Ids, Scores
from hn_datasets.texts import Ragged
from hn_datasets.threads import over_rows

WAITING = 64
"""Candidates per anchor that wait for their exact scores; most never need one, for the bound has risen meanwhile."""

WAITING_FOR_NEARNESS = 8
"""The same where a candidate can still be refused: then only exact answers raise the bound."""

BEST_FIRST = 64
"""The same on an accelerator: so many of a tile's best per anchor are settled before the bound is used."""

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
    riders = {} if scores.on_accelerator else riders_of(searches)
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


def riders_of(searches: Sequence[Search]) -> dict[int, int]:
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
            scan(tile, begin, start, scores.exact, scores.units, scores.slack, scores.crowd, pick)
    for pick in picks:
        finish(scores.exact, scores.units, scores.slack, pick, begin, end)


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
        lambda begin, end: settle_rows(scores.exact, scores.slack, pick, bounds, passages, values, begin, end),
        len(scores.units),
    )


def _column(bounds: npt.NDArray[np.float64], tile: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(bounds.astype(np.float32)).to(tile.device)[:, None]
