"""A block of rows as the teachers of an ensemble see it, and the rankings of each below the ceilings of others.

A ranking is asked for in pieces: the best passages below a teacher's ceiling, then, for the rows where the others let
too few of them through, those that follow. So every answer is exact, and most rows need the first piece only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt

from hn_datasets.guards import Block, Guard, Rule, Sources, merge, same_texts
from hn_datasets.picking import find_best, guarded, top_scores_of
from hn_datasets.sampling import Uint64s, row_seeds
from hn_datasets.search import Found, Nearness, Search
from hn_datasets.teachers.base import DenseScoresLike, Floats, Ids
from hn_datasets.texts import Ragged, digest_texts

FIRST_PIECE = 32
"""Passages of the first piece, at least: with MiniLM and BM25 it fills 93 % (cranfield) and 96 % (vaswani) of rows."""

LARGEST_PIECE = 1024
"""The search keeps a piece sorted by insertion, so a larger one costs more than another pass."""

Look = Callable[[int, Ids], Block]
"""From the number of a teacher and some rows to these rows as it sees them."""


class Views:
    """A block of rows as all teachers see it; what is not asked for is not computed."""

    def __init__(self, look: Look, anchors: Sequence[str], guards: Sequence[Guard], sources: Sources) -> None:
        self.look = look
        self.anchors = anchors
        self.num_rows = len(anchors)
        self.recipe = sources.recipe
        self.guards = guards
        self.sources = sources
        self.num_members = len(sources.recipe.teacher["members"])
        self._blocks: dict[int, Block] = {}
        self._same: Ragged | None = None

    def block(self, member: int) -> Block:
        """Return all rows as one teacher sees them."""
        if member not in self._blocks:
            self._blocks[member] = self.look(member, np.arange(self.num_rows))
        return self._blocks[member]

    def look_again(self, member: int, rows: Ids) -> Block:
        """Do what ``look`` does, without opening the whole block again."""
        return self.block(member) if len(rows) == self.num_rows else self.look(member, rows)

    def take(self, rows: Ids) -> Views:
        """Return some of the rows."""
        anchors = [self.anchors[row] for row in rows.tolist()]
        return Views(lambda member, some: self.look(member, rows[some]), anchors, self.guards, self.sources)

    @cached_property
    def seeds(self) -> Uint64s:
        """What everything that is drawn for a row is drawn by, shape ``[num_rows]``."""
        return row_seeds(self.recipe.seed or 0, digest_texts(self.anchors))

    @cached_property
    def rules(self) -> list[Rule]:
        """What the guards say of all rows, by the first teacher."""
        return [guard.rule(self.block(0), self.sources) for guard in self.guards]

    def same(self, member: int) -> Ragged:
        """Return the passages that are never negatives of a row, which all teachers see alike."""
        if self._same is None:
            self._same = same_texts(self.block(member), self.sources.corpus)
        return self._same

    def ceilings(self, member: int) -> npt.NDArray[np.float64]:
        """Return a teacher's ceilings, shape ``[num_rows]``."""
        return self.recipe.method.ceiling(self.block(member).lowest)

    def search(self, member: int, k: int) -> Search:
        """Return the search below a teacher's ceilings; only the first teacher's has the second ceiling of a guard."""
        plain = Search(self.ceilings(member), k, self.same(member))
        search = guarded(plain, self.rules) if self.guards else plain
        return search if member == 0 else replace(search, nearness=None)

    def rank(self, member: int, others: Sequence[int], k: int) -> Found:
        """Return the first ``k`` of a teacher's ranking that are below the ceilings of the others too.

        Another teacher than the first has no say in rows where it puts no passage below its ceiling.
        """
        return self._rank(member, others, k, [])[0]

    def rank_with_top(self, member: int, others: Sequence[int], k: int) -> tuple[Found, Floats]:
        """Return ``rank``, and the score of the best passage, ceiling or not, shape ``[num_rows]``, NaN for none."""
        best = Search(np.full(self.num_rows, np.inf), 1, self.same(member))
        found, (top,) = self._rank(member, others, k, [best])
        return found, top_scores_of(top)

    def _rank(self, member: int, others: Sequence[int], k: int, more: list[Search]) -> tuple[Found, list[Found]]:
        """Return a ranking, and the answers to further searches with the scores of the same teacher."""
        block = self.block(member)
        deciding = [other for other in others if not np.isposinf(self.ceilings(other)).all()]
        search = self.search(member, k)
        if not deciding and not (member and self._nearness):
            found, *answers = find_best(block.scores, [search, *more])
            return found, answers
        search = replace(search, k=max(FIRST_PIECE, 2 * k))
        piece, *answers = find_best(block.scores, [search, *more])
        return self._go_on(member, deciding, k, search, piece), answers

    def _go_on(self, member: int, others: Sequence[int], k: int, search: Search, piece: Found) -> Found:
        """Go down a ranking, of which ``piece`` is the beginning, until every row is full or at its end."""
        shape = (self.num_rows, k)
        found = Found(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))
        counts, rows = np.zeros(self.num_rows, np.int64), np.arange(self.num_rows)
        limits = {other: self.ceilings(other) for other in others}
        agreed = self._agree(member, limits, rows, piece)
        nothing = np.flatnonzero((piece.ids[:, 0] >= 0) & ~agreed.any(axis=1))
        hopeless = self._silence(limits, nothing)
        agreed[nothing] = self._agree(member, limits, nothing, Found(piece.ids[nothing], piece.scores[nothing]))
        _append(found, counts, rows, piece, agreed)
        left = (counts < k) & (piece.ids[:, -1] >= 0)
        left[hopeless] = False
        while left.any():
            search, rows = _continue(search, piece, np.flatnonzero(left)), rows[left]
            (piece,) = find_best(self.look(member, rows).scores, [search])
            _append(found, counts, rows, piece, self._agree(member, limits, rows, piece))
            left = (counts[rows] < k) & (piece.ids[:, -1] >= 0)
        return found

    def _silence(self, limits: dict[int, npt.NDArray[np.float64]], rows: Ids) -> Ids:
        """Lift the ceilings of teachers in rows where they are above no passage at all.

        The first teacher, on whose scale a row is, has its say in any case.

        Args:
            limits: the ceilings of all rows, which are changed, by the number of their teacher.
            rows: where that can be.

        Returns:
            The rows where it is the first teacher that lets nothing through.
        """
        hopeless = np.empty(0, np.int64)
        for other in limits if len(rows) else ():
            (lowest,) = find_best(self.look(other, rows).scores, [self.search(other, 1).take(rows, 1)])
            silent = rows[lowest.ids[:, 0] < 0]
            if other == 0:
                hopeless = silent
            else:
                limits[other][silent] = np.inf
        return hopeless

    def _agree(
        self, member: int, limits: dict[int, npt.NDArray[np.float64]], rows: Ids, piece: Found
    ) -> npt.NDArray[np.bool_]:
        """Return which passages of a piece are below all limits and pass the guards, in the shape of the piece."""
        agreed = piece.ids >= 0
        for other, ceilings in limits.items():
            places = np.nonzero(agreed)
            owners = rows[places[0]]
            agreed[places] = self.block(other).scores.pairs(owners, piece.ids[places]) < ceilings[owners]
        if member and self._nearness:
            places = np.nonzero(agreed)
            vectors = cast(DenseScoresLike, self.block(0).scores).stored(piece.ids[places])
            agreed[places] = ~self._nearness.refuses(vectors, rows[places[0]], np.arange(len(vectors)))
        return agreed

    @property
    def _nearness(self) -> Nearness | None:
        return next((rule.nearness for rule in self.rules if rule.nearness is not None), None)


def _continue(search: Search, piece: Found, rows: Ids) -> Search:
    """Return the search for what follows a piece in some of its rows, which are full.

    Nothing scores above the last of a piece; what scores like it is left out by its id, from this piece and others.
    """
    following = search.take(rows, min(8 * search.k, LARGEST_PIECE))
    ids, scores = piece.ids[rows], piece.scores[rows]
    last = scores[:, -1]
    owners, places = np.nonzero(scores == last[:, None])
    tied = Ragged.from_pairs(owners, ids[owners, places], len(ids))
    return replace(
        following,
        ceilings=np.nextafter(last.astype(np.float64), np.inf),
        excluded=merge([following.excluded, tied], len(ids)),
    )


def _append(found: Found, counts: Ids, rows: Ids, piece: Found, agreed: npt.NDArray[np.bool_]) -> None:
    """Put what is agreed behind what ``rows`` have, as far as there is room, and count it."""
    places = np.cumsum(agreed, axis=1) - 1 + counts[rows, None]
    owners, columns = np.nonzero(agreed & (places < found.ids.shape[1]))
    target = rows[owners], places[owners, columns]
    found.ids[target], found.scores[target] = piece.ids[owners, columns], piece.scores[owners, columns]
    counts += np.bincount(target[0], minlength=len(counts))
