"""From the rankings of several teachers to the negatives of each row; ``EnsembleTeacher`` defines the modes.

A ranking is asked for in pieces: the best passages below a teacher's ceiling, then, for the rows where the others let
too few of them through, those that follow. So every answer is exact, and most rows need the first piece only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hn_datasets.guards import merge
from hn_datasets.recipe import Recipe
from hn_datasets.sampling import Uint64s, choose, uniforms
from hn_datasets.search import Found, Search, k_best_below
from hn_datasets.teachers.base import Floats, Ids, Scores
from hn_datasets.texts import Ragged, digest_of

FIRST_PIECE = 32
"""Passages of the first piece, at least: with MiniLM and BM25 it filled 93 % of the rows of two test collections."""

LARGEST_PIECE = 1024
"""The search keeps a piece sorted by insertion, so a larger one costs more than another pass."""

MEMBER_KEY = int(digest_of("teacher of a row")[:16], 16)
"""What the teacher of a row is drawn by, so that it says nothing about which negatives are drawn."""


@dataclass(frozen=True)
class View:
    """What one teacher says of n anchors.

    Attributes:
        scores: against the corpus.
        positive_scores: shape ``[n]``, float32, the lowest score of the row's own positives.
        search: below this teacher's ceilings, for as many passages as the recipe needs; also says what is excluded.
    """

    scores: Scores
    positive_scores: Floats
    search: Search


Look = Callable[[int, Ids], View]
"""From the number of a teacher and the rows that are wanted to its view of them, all else in the search included."""


@dataclass(frozen=True)
class Mined:
    """The added columns of n rows, as arrays.

    Attributes:
        found: the negatives, shape ``[n, num_negatives]``.
        positive_scores: shape ``[n]``.
        ceilings: shape ``[n]``.
        top_scores: shape ``[n]``, of the best passage that is not excluded; -inf if there is none.
        teachers: shape ``[n, num_negatives]``, int64, the number of each negative's teacher; None if there is one.
    """

    found: Found
    positive_scores: Floats
    ceilings: npt.NDArray[np.float64]
    top_scores: Floats
    teachers: Ids | None = None


def mine_ensemble(look: Look, recipe: Recipe, seeds: Uint64s, keys: Uint64s) -> Mined:
    """Mine a block of rows with an ensemble.

    Args:
        look: gives the views.
        recipe: its teacher is the spec of an ensemble.
        seeds: shape ``[n]``, from ``row_seeds``.
        keys: shape ``[num_passages]``, as for ``choose``.
    """
    num_members = len(recipe.teacher["members"])
    if recipe.teacher["mode"] == "cross-sample":
        return _mine_cross_sample(look, num_members, recipe, seeds, keys)
    views = _Views(look, [look(member, np.arange(len(seeds))) for member in range(num_members)])
    first = views.all[0]
    if recipe.teacher["mode"] == "agree":
        ranking, top = views.rank_first(range(1, num_members), first.search.k)
        found = choose(ranking, recipe, seeds, keys)
        return Mined(found, first.positive_scores, first.search.ceilings, top, np.zeros_like(found.ids))
    combine = _take_turns if recipe.teacher["mode"] == "intra-sample" else _fuse_ranks
    ids, teachers, top = combine(views, recipe)
    found, teachers = _sort_by(first.scores, ids, teachers)
    return Mined(found, first.positive_scores, first.search.ceilings, top, teachers)


def mine_alone(view: View, recipe: Recipe, seeds: Uint64s, keys: Uint64s) -> Mined:
    """Mine rows with one teacher, whose method has a ranking; the arguments are those of ``mine_ensemble``."""
    ranking, top = _search_with_top(view, view.search.k)
    return Mined(choose(ranking, recipe, seeds, keys), view.positive_scores, view.search.ceilings, top)


def choose_members(seeds: Uint64s, num_members: int) -> Ids:
    """Return the teacher of each row, drawn uniformly, shape ``[n]``, int64."""
    return (uniforms(seeds, np.array([MEMBER_KEY], np.uint64)) * num_members).astype(np.int64)


def _mine_cross_sample(look: Look, num_members: int, recipe: Recipe, seeds: Uint64s, keys: Uint64s) -> Mined:
    members = choose_members(seeds, num_members)
    rows = [np.flatnonzero(members == member) for member in range(num_members)]
    parts = [mine_alone(look(member, own), recipe, seeds[own], keys) for member, own in enumerate(rows) if len(own)]
    places = np.argsort(np.concatenate(rows))
    found = Found(
        np.concatenate([part.found.ids for part in parts])[places],
        np.concatenate([part.found.scores for part in parts])[places],
    )
    return Mined(
        found,
        np.concatenate([part.positive_scores for part in parts])[places],
        np.concatenate([part.ceilings for part in parts])[places],
        np.concatenate([part.top_scores for part in parts])[places],
        np.repeat(members[:, None], found.ids.shape[1], axis=1),
    )


@dataclass(frozen=True)
class _Views:
    """All teachers' views of a block of rows.

    Attributes:
        look: gives views of some rows.
        all: those of all rows.
    """

    look: Look
    all: Sequence[View]

    def rank(self, member: int, others: Sequence[int], k: int) -> Found:
        """Return the first ``k`` of a teacher's ranking that are below the ceilings of the others too."""
        view, others = self.all[member], self._with_ceiling(others)
        (piece,) = k_best_below(view.scores, [replace(view.search, k=_piece_of(k, others))])
        return self._keep_agreed(member, others, k, piece)

    def rank_first(self, others: Sequence[int], k: int) -> tuple[Found, Floats]:
        """Return ``rank`` of the first teacher, and the scores of the best passages, ceiling or not."""
        others = self._with_ceiling(others)
        piece, top = _search_with_top(self.all[0], _piece_of(k, others))
        return self._keep_agreed(0, others, k, piece), top

    def _with_ceiling(self, members: Sequence[int]) -> list[int]:
        return [member for member in members if not np.isposinf(self.all[member].search.ceilings).all()]

    def _keep_agreed(self, member: int, others: list[int], k: int, piece: Found) -> Found:
        """Go down a teacher's ranking, of which ``piece`` is the beginning, until every row is full or at its end."""
        if not others:
            return Found(piece.ids[:, :k], piece.scores[:, :k])
        num_rows = len(piece.ids)
        found = Found(np.full((num_rows, k), -1, np.int64), np.full((num_rows, k), -np.inf, np.float32))
        counts, rows = np.zeros(num_rows, np.int64), np.arange(num_rows)
        search, first = self.all[member].search, True
        while True:
            _append(found, counts, rows, piece, self._agree(rows, piece, others))
            left = (counts[rows] < k) & (piece.ids[:, -1] >= 0)
            if first:
                left[left] = self._can_agree(rows[left], others)
            if not left.any():
                return found
            view = self.look(member, rows[left])
            search = _continue(view.search, search.excluded.take(np.flatnonzero(left)), piece, left)
            rows, first = rows[left], False
            (piece,) = k_best_below(view.scores, [search])

    def _agree(self, rows: Ids, piece: Found, others: list[int]) -> npt.NDArray[np.bool_]:
        """Return which passages of a piece are below the ceilings of all others, in the shape of the piece."""
        agreed = piece.ids >= 0
        for other in others:
            view = self.all[other]
            places = np.nonzero(agreed)
            owners = rows[places[0]]
            agreed[places] = view.scores.pairs(owners, piece.ids[places]) < view.search.ceilings[owners]
        return agreed

    def _can_agree(self, rows: Ids, others: list[int]) -> npt.NDArray[np.bool_]:
        """Return for which rows every other teacher has any passage below its ceiling, shape ``[len(rows)]``."""
        possible = np.ones(len(rows), dtype=bool)
        for other in others if len(rows) else ():
            view = self.look(other, rows)
            (any_below,) = k_best_below(view.scores, [replace(view.search, k=1)])
            possible &= any_below.ids[:, 0] >= 0
        return possible


def _piece_of(k: int, others: list[int]) -> int:
    return max(FIRST_PIECE, 2 * k) if others else k


def _search_with_top(view: View, k: int) -> tuple[Found, Floats]:
    """Return the ``k`` best below the ceiling, and the score of the best passage, ceiling or not, shape ``[n]``."""
    wanted, unlimited = replace(view.search, k=k), np.full(len(view.search.ceilings), np.inf)
    if np.isposinf(view.search.ceilings).all():
        (found,) = k_best_below(view.scores, [wanted])
        return found, found.scores[:, 0]
    found, best = k_best_below(view.scores, [wanted, Search(unlimited, 1, view.search.excluded)])
    return found, best.scores[:, 0]


def _continue(search: Search, excluded: Ragged, piece: Found, rows: npt.NDArray[np.bool_]) -> Search:
    """Return the search for what follows a piece: nothing above its last score, and nothing of it with that score.

    Args:
        search: that of a view of the rows that go on.
        excluded: what the search that gave the piece left out, for the rows that go on.
        piece: of all rows before.
        rows: shape ``[len(piece.ids)]``, which of them go on.
    """
    ids, scores = piece.ids[rows], piece.scores[rows]
    last = scores[:, -1]
    owners, places = np.nonzero(scores == last[:, None])
    tied = Ragged.from_pairs(owners, ids[owners, places], len(ids))
    return replace(
        search,
        ceilings=np.nextafter(last.astype(np.float64), np.inf),
        excluded=merge([excluded, tied], len(ids)),
        k=min(8 * piece.ids.shape[1], LARGEST_PIECE),
    )


def _append(found: Found, counts: Ids, rows: Ids, piece: Found, agreed: npt.NDArray[np.bool_]) -> None:
    """Put what is agreed behind what ``rows`` have, as far as there is room, and count it."""
    places = np.cumsum(agreed, axis=1) - 1 + counts[rows, None]
    owners, columns = np.nonzero(agreed & (places < found.ids.shape[1]))
    target = rows[owners], places[owners, columns]
    found.ids[target], found.scores[target] = piece.ids[owners, columns], piece.scores[owners, columns]
    counts += np.bincount(target[0], minlength=len(counts))


def _take_turns(views: _Views, recipe: Recipe) -> tuple[Ids, Ids, Floats]:
    """Mode "intra-sample"; return ids and teachers, shape ``[n, num_negatives]`` each, and the top scores.

    No teacher is ever asked for more than its ``num_negatives`` best: fewer are taken whenever it has its turn.
    """
    first, top = views.rank_first((), views.all[0].search.k)
    rankings = [first] + [views.rank(other, (0,), first.ids.shape[1]) for other in range(1, len(views.all))]
    lists = [ranking.ids[:, recipe.method.skip :] for ranking in rankings]
    shape = (len(first.ids), recipe.num_negatives)
    ids, teachers, counts = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64), np.zeros(shape[0], np.int64)
    for turn in range(recipe.num_negatives * len(lists)):
        member = turn % len(lists)
        free = (lists[member] >= 0) & ~(lists[member][:, :, None] == ids[:, None, :]).any(axis=2)
        rows = np.flatnonzero(free.any(axis=1) & (counts < recipe.num_negatives))
        ids[rows, counts[rows]] = lists[member][rows, free[rows].argmax(axis=1)]
        teachers[rows, counts[rows]] = member
        counts[rows] += 1
    return ids, teachers, top


def _fuse_ranks(views: _Views, recipe: Recipe) -> tuple[Ids, Ids, Floats]:
    """Mode "mean-rank"; returns what ``_take_turns`` does.

    The lowest sum of ranks is the largest sum of what each rank is better than that of a passage without one.
    """
    members, k = range(len(views.all)), recipe.teacher["num_ranked"]
    first, top = views.rank_first([other for other in members if other], k)
    rankings = [first] + [views.rank(one, [other for other in members if other != one], k) for one in members[1:]]
    listed = np.stack([ranking.ids for ranking in rankings], axis=1)  # [n, members, k]
    rows, owners, ranks = np.nonzero(listed >= 0)
    pairs, place = np.unique(np.column_stack([rows, listed[rows, owners, ranks]]), axis=0, return_inverse=True)
    gains = np.bincount(place, weights=k - ranks, minlength=len(pairs))
    best = np.full(len(pairs), k * len(members), np.int64)
    np.minimum.at(best, place, ranks * len(members) + owners)
    order = np.lexsort((pairs[:, 1], -gains, pairs[:, 0]))
    counts = np.bincount(pairs[:, 0], minlength=len(first.ids))
    positions = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts) - recipe.method.skip
    kept = (positions >= 0) & (positions < recipe.num_negatives)
    shape = (len(first.ids), recipe.num_negatives)
    ids, teachers = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    chosen = order[kept]
    target = pairs[chosen, 0], positions[kept]
    ids[target], teachers[target] = pairs[chosen, 1], best[chosen] % len(members)
    return ids, teachers, top


def _sort_by(scores: Scores, ids: Ids, teachers: Ids) -> tuple[Found, Ids]:
    """Sort every row by the scores of one teacher, best first, ties to the lower id, padding last."""
    given = np.full(ids.shape, -np.inf, np.float32)
    given[ids >= 0] = scores.pairs(np.nonzero(ids >= 0)[0], ids[ids >= 0])
    order = np.lexsort((ids, -given), axis=1)
    found = Found(np.take_along_axis(ids, order, axis=1), np.take_along_axis(given, order, axis=1))
    return found, np.take_along_axis(teachers, order, axis=1)
