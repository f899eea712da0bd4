"""From the rankings of several teachers to the negatives of each row; ``EnsembleTeacher`` defines the modes.

A ranking is asked for in pieces: the best passages below a teacher's ceiling, then, for the rows where the others let
too few of them through, those that follow. So every answer is exact, and most rows need the first piece only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hn_datasets.guards import Block, Guard, Rule, merge, same_texts
from hn_datasets.picking import Mined, guarded, passage_keys, top_scores_of
from hn_datasets.recipe import Recipe
from hn_datasets.sampling import Uint64s, choose, row_seeds, uniforms
from hn_datasets.search import Found, Nearness, Search, k_best_below
from hn_datasets.teachers.base import Floats, Ids, Scores
from hn_datasets.texts import Corpus, Ragged, digest_of, digest_texts

FIRST_PIECE = 32
"""Passages of the first piece, at least: with MiniLM and BM25 it filled 93 % of the rows of cranfield, 96 % of vaswani."""

LARGEST_PIECE = 1024
"""The search keeps a piece sorted by insertion, so a larger one costs more than another pass."""

MEMBER_KEY = int(digest_of("teacher of a row")[:16], 16)
"""What the teacher of a row is drawn by, so that it says nothing about which negatives are drawn."""

Look = Callable[[int, Ids], Block]
"""From the number of a teacher and some rows to these rows as it sees them."""


def mine_ensemble(look: Look, anchors: Sequence[str], recipe: Recipe, guards: Sequence[Guard], corpus: Corpus) -> Mined:
    """Pick the negatives of every row of a block.

    Guards that compare vectors do so with those of the first teacher, whoever names a passage.

    Args:
        look: shows rows of the block.
        anchors: of all rows.
        recipe: its teacher is the spec of an ensemble.
        guards: rules for all teachers.
        corpus: the passages.
    """
    views = _Views(look, anchors, recipe, guards, corpus)
    mined = _mine(views)
    if not guards:
        return mined
    free = _mine(_Views(views.look_again, anchors, recipe, (), corpus)).found.ids
    removals = [rule.refuses(views.block(0).scores, free).sum(axis=1) for rule in views.rules]
    return replace(mined, removals=np.array(removals, np.int32).T)


def choose_members(seeds: Uint64s, num_members: int) -> Ids:
    """Return the teacher of each row, drawn uniformly, shape ``[n]``, int64."""
    return (uniforms(seeds, np.array([MEMBER_KEY], np.uint64)) * num_members).astype(np.int64)


class _Views:
    """A block of rows as all teachers see it; what is not asked for is not computed."""

    def __init__(
        self, look: Look, anchors: Sequence[str], recipe: Recipe, guards: Sequence[Guard], corpus: Corpus
    ) -> None:
        self.look = look
        self.anchors = anchors
        self.num_rows = len(anchors)
        self.recipe = recipe
        self.guards = guards
        self.corpus = corpus
        self.num_members = len(recipe.teacher["members"])
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

    def take(self, rows: Ids) -> _Views:
        """Return some of the rows."""
        anchors = [self.anchors[row] for row in rows.tolist()]
        return _Views(
            lambda member, some: self.look(member, rows[some]), anchors, self.recipe, self.guards, self.corpus
        )

    @cached_property
    def seeds(self) -> Uint64s:
        """What everything that is drawn for a row is drawn by, shape ``[num_rows]``."""
        return row_seeds(self.recipe.seed or 0, digest_texts(self.anchors))

    @cached_property
    def rules(self) -> list[Rule]:
        """What the guards say of all rows, by the first teacher."""
        return [guard.rule(self.block(0), self.corpus) for guard in self.guards]

    def same(self, member: int) -> Ragged:
        """Return the passages that are never negatives of a row, which all teachers see alike."""
        if self._same is None:
            self._same = same_texts(self.block(member), self.corpus)
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
        """Return the first ``k`` of a teacher's ranking that are below the ceilings of the others too."""
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
            found, *answers = k_best_below(block.scores, [search, *more])
            return found, answers
        search = replace(search, k=max(FIRST_PIECE, 2 * k))
        piece, *answers = k_best_below(block.scores, [search, *more])
        return self._go_on(member, deciding, k, search, piece), answers

    def _go_on(self, member: int, others: Sequence[int], k: int, search: Search, piece: Found) -> Found:
        """Go down a ranking, of which ``piece`` is the beginning, until every row is full or at its end."""
        shape = (self.num_rows, k)
        found = Found(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))
        counts, rows = np.zeros(self.num_rows, np.int64), np.arange(self.num_rows)
        _append(found, counts, rows, piece, self._agree(member, others, rows, piece))
        left = (counts < k) & (piece.ids[:, -1] >= 0)
        left[left] = self._can_agree(others, rows[left])
        while left.any():
            search, rows = _continue(search, piece, np.flatnonzero(left)), rows[left]
            (piece,) = k_best_below(self.look(member, rows).scores, [search])
            _append(found, counts, rows, piece, self._agree(member, others, rows, piece))
            left = (counts[rows] < k) & (piece.ids[:, -1] >= 0)
        return found

    def _agree(self, member: int, others: Sequence[int], rows: Ids, piece: Found) -> npt.NDArray[np.bool_]:
        """Return which passages of a piece everybody lets through, in the shape of the piece."""
        agreed = piece.ids >= 0
        for other in others:
            places = np.nonzero(agreed)
            owners = rows[places[0]]
            agreed[places] = self.block(other).scores.pairs(owners, piece.ids[places]) < self.ceilings(other)[owners]
        if member and self._nearness:
            places = np.nonzero(agreed)
            passages = self.block(0).scores.exact.passages
            agreed[places] = ~self._nearness.refuses(passages, rows[places[0]], piece.ids[places])
        return agreed

    def _can_agree(self, others: Sequence[int], rows: Ids) -> npt.NDArray[np.bool_]:
        """Return for which rows every other teacher has any passage below its ceiling, shape ``[len(rows)]``."""
        possible = np.ones(len(rows), dtype=bool)
        for other in others if len(rows) else ():
            (lowest,) = k_best_below(self.look(other, rows).scores, [_take(self.search(other, 1), rows)])
            possible &= lowest.ids[:, 0] >= 0
        return possible

    @property
    def _nearness(self) -> Nearness | None:
        return next((rule.nearness for rule in self.rules if rule.nearness is not None), None)


def _mine(views: _Views) -> Mined:
    recipe = views.recipe
    mode, others = recipe.teacher["mode"], range(1, views.num_members)
    if mode == "cross-sample":
        return _mine_cross_sample(views)
    if mode == "agree":
        ranking, top = views.rank_with_top(0, others, recipe.method.skip + recipe.pool_size)
        found = choose(ranking, recipe, views.seeds, passage_keys(views.corpus))
        return _mined_by(views, 0, found, top, np.zeros_like(found.ids))
    ids, teachers, top = (_take_turns if mode == "intra-sample" else _fuse_ranks)(views)
    found, teachers = _sort_by(views.block(0).scores, ids, teachers)
    return _mined_by(views, 0, found, top, teachers)


def _mined_by(views: _Views, member: int, found: Found, top: Floats, teachers: Ids) -> Mined:
    """Return the columns on the scale of one teacher."""
    no_guards = np.empty((views.num_rows, 0), np.int32)
    return Mined(found, views.block(member).positive_scores, views.ceilings(member), top, no_guards, teachers)


def _mine_cross_sample(views: _Views) -> Mined:
    """Mine the rows of each teacher with it alone."""
    recipe, keys = views.recipe, passage_keys(views.corpus)
    members = choose_members(views.seeds, views.num_members)
    rows, parts = [], []
    for member in np.unique(members).tolist():
        rows.append(np.flatnonzero(members == member))
        own = views.take(rows[-1])
        ranking, top = own.rank_with_top(member, (), recipe.method.skip + recipe.pool_size)
        found = choose(ranking, recipe, own.seeds, keys)
        parts.append(_mined_by(own, member, found, top, np.full_like(found.ids, member)))
    return _concatenate(parts, np.argsort(np.concatenate(rows)))


def _concatenate(parts: Sequence[Mined], order: Ids) -> Mined:
    found = Found(
        np.concatenate([part.found.ids for part in parts])[order],
        np.concatenate([part.found.scores for part in parts])[order],
    )
    return Mined(
        found,
        np.concatenate([part.positive_scores for part in parts])[order],
        np.concatenate([part.ceilings for part in parts])[order],
        np.concatenate([part.top_scores for part in parts])[order],
        np.concatenate([part.removals for part in parts])[order],
        np.concatenate([part.teachers for part in parts if part.teachers is not None])[order],
    )


def _take_turns(views: _Views) -> tuple[Ids, Ids, Floats]:
    """Mode "intra-sample"; return ids and teachers, shape ``[n, num_negatives]`` each, and the top scores.

    No teacher is ever asked for more than its ``num_negatives`` best: fewer are taken whenever it has its turn.
    """
    recipe, members = views.recipe, views.num_members
    wanted = recipe.method.skip + recipe.num_negatives
    first, top = views.rank_with_top(0, (), wanted)
    rankings = [first, *(views.rank(other, (0,), wanted) for other in range(1, members))]
    lists = [ranking.ids[:, recipe.method.skip :] for ranking in rankings]
    ids, teachers = _nobody(views)
    counts = np.zeros(len(ids), np.int64)
    for turn in range(recipe.num_negatives * members):
        own = lists[turn % members]
        free = (own >= 0) & ~(own[:, :, None] == ids[:, None, :]).any(axis=2)
        rows = np.flatnonzero(free.any(axis=1) & (counts < recipe.num_negatives))
        ids[rows, counts[rows]] = own[rows, free[rows].argmax(axis=1)]
        teachers[rows, counts[rows]] = turn % members
        counts[rows] += 1
    return ids, teachers, top


def _fuse_ranks(views: _Views) -> tuple[Ids, Ids, Floats]:
    """Mode "mean-rank"; return what ``_take_turns`` does.

    The lowest sum of ranks is the largest sum of what each rank is better than that of a passage without one.
    """
    recipe, members, k = views.recipe, views.num_members, views.recipe.teacher["num_ranked"]
    first, top = views.rank_with_top(0, range(1, members), k)
    others = ([other for other in range(members) if other != member] for member in range(1, members))
    rankings = [first, *(views.rank(member, rest, k) for member, rest in enumerate(others, start=1))]
    listed = np.stack([ranking.ids for ranking in rankings], axis=1)  # [n, members, k]
    rows, owners, ranks = np.nonzero(listed >= 0)
    size = views.block(0).scores.num_passages
    keys, place = np.unique(rows * size + listed[rows, owners, ranks], return_inverse=True)
    pairs = np.column_stack(np.divmod(keys, size))
    gains = np.bincount(place, weights=k - ranks, minlength=len(pairs))
    best = np.full(len(pairs), k * members, np.int64)
    np.minimum.at(best, place, ranks * members + owners)
    order = np.lexsort((pairs[:, 1], -gains, pairs[:, 0]))
    counts = np.bincount(pairs[:, 0], minlength=len(listed))
    positions = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts) - recipe.method.skip
    kept = (positions >= 0) & (positions < recipe.num_negatives)
    chosen = order[kept]
    target = pairs[chosen, 0], positions[kept]
    ids, teachers = _nobody(views)
    ids[target], teachers[target] = pairs[chosen, 1], best[chosen] % members
    return ids, teachers, top


def _nobody(views: _Views) -> tuple[Ids, Ids]:
    shape = (views.num_rows, views.recipe.num_negatives)
    return np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)


def _sort_by(scores: Scores, ids: Ids, teachers: Ids) -> tuple[Found, Ids]:
    """Sort every row by the scores of one teacher, best first, ties to the lower id, padding last."""
    given = np.full(ids.shape, -np.inf, np.float32)
    given[ids >= 0] = scores.pairs(np.nonzero(ids >= 0)[0], ids[ids >= 0])
    order = np.lexsort((ids, -given), axis=1)
    found = Found(np.take_along_axis(ids, order, axis=1), np.take_along_axis(given, order, axis=1))
    return found, np.take_along_axis(teachers, order, axis=1)


def _continue(search: Search, piece: Found, rows: Ids) -> Search:
    """Return the search for what follows a piece in some of its rows, which are full.

    Nothing scores above the last of a piece; what scores like it is left out by its id, from this piece and others.
    """
    following = _take(search, rows)
    ids, scores = piece.ids[rows], piece.scores[rows]
    last = scores[:, -1]
    owners, places = np.nonzero(scores == last[:, None])
    tied = Ragged.from_pairs(owners, ids[owners, places], len(ids))
    return replace(
        following,
        ceilings=np.nextafter(last.astype(np.float64), np.inf),
        excluded=merge([following.excluded, tied], len(ids)),
        k=min(8 * search.k, LARGEST_PIECE),
    )


def _take(search: Search, rows: Ids) -> Search:
    """Return a search for some of its rows."""
    near = search.nearness
    if near is not None:
        near = replace(near, ceilings=near.ceilings[rows], positives=near.positives.take(rows))
    return replace(search, ceilings=search.ceilings[rows], excluded=search.excluded.take(rows), nearness=near)


def _append(found: Found, counts: Ids, rows: Ids, piece: Found, agreed: npt.NDArray[np.bool_]) -> None:
    """Put what is agreed behind what ``rows`` have, as far as there is room, and count it."""
    places = np.cumsum(agreed, axis=1) - 1 + counts[rows, None]
    owners, columns = np.nonzero(agreed & (places < found.ids.shape[1]))
    target = rows[owners], places[owners, columns]
    found.ids[target], found.scores[target] = piece.ids[owners, columns], piece.scores[owners, columns]
    counts += np.bincount(target[0], minlength=len(counts))
