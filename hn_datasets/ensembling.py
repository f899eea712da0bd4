"""From the rankings of several teachers to the negatives of each row; ``EnsembleTeacher`` defines the modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hn_datasets.guards import Guard, Sources
from hn_datasets.picking import Mined, passage_keys
from hn_datasets.sampling import Uint64s, choose, uniforms
from hn_datasets.search import Found
from hn_datasets.teachers.base import Floats, Ids, Scores
from hn_datasets.texts import digest_of
from hn_datasets.views import Look, Views

MEMBER_KEY = int(digest_of("teacher of a row")[:16], 16)
"""What the teacher of a row is drawn by, so that it says nothing about which negatives are drawn."""


def mine_ensemble(look: Look, anchors: Sequence[str], guards: Sequence[Guard], sources: Sources) -> Mined:
    """Pick the negatives of every row of a block.

    Guards that compare vectors do so with those of the first teacher, whoever names a passage.

    Args:
        look: shows rows of the block.
        anchors: of all rows.
        guards: rules for all teachers.
        sources: the recipe, whose teacher is the spec of an ensemble, the corpus, and what guards look up.
    """
    views = Views(look, anchors, guards, sources)
    mined = _mine(views)
    if not guards:
        return mined
    free = _mine(Views(views.look_again, anchors, (), sources)).found.ids
    removals = [rule.refuses(views.block(0).scores, free).sum(axis=1) for rule in views.rules]
    return replace(mined, removals=np.array(removals, np.int32).T)


def choose_members(seeds: Uint64s, num_members: int) -> Ids:
    """Return the teacher of each row, drawn uniformly, shape ``[n]``, int64."""
    return (uniforms(seeds, np.array([MEMBER_KEY], np.uint64)) * num_members).astype(np.int64)


def _mine(views: Views) -> Mined:
    recipe = views.recipe
    mode, others = recipe.teacher["mode"], range(1, views.num_members)
    if mode == "cross-sample":
        return _mine_cross_sample(views)
    if mode == "agree":
        ranking, top = views.rank_with_top(0, others, recipe.method.skip + recipe.pool_size)
        found = choose(ranking, recipe, views.seeds, lambda ids: passage_keys(views.sources.corpus, ids))
        return _mined_by(views, 0, found, top, np.zeros_like(found.ids))
    ids, teachers, top = (_take_turns if mode == "intra-sample" else _fuse_ranks)(views)
    found, teachers = _sort_by(views.block(0).scores, ids, teachers)
    return _mined_by(views, 0, found, top, teachers)


def _mined_by(views: Views, member: int, found: Found, top: Floats, teachers: Ids) -> Mined:
    """Return the columns on the scale of one teacher."""
    no_guards = np.empty((views.num_rows, 0), np.int32)
    return Mined(found, views.block(member).positive_scores, views.ceilings(member), top, no_guards, teachers)


def _mine_cross_sample(views: Views) -> Mined:
    """Mine the rows of each teacher with it alone."""
    recipe = views.recipe
    members = choose_members(views.seeds, views.num_members)
    rows, parts = [], []
    for member in np.unique(members).tolist():
        rows.append(np.flatnonzero(members == member))
        own = views.take(rows[-1])
        ranking, top = own.rank_with_top(member, (), recipe.method.skip + recipe.pool_size)
        found = choose(ranking, recipe, own.seeds, lambda ids: passage_keys(views.sources.corpus, ids))
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


def _take_turns(views: Views) -> tuple[Ids, Ids, Floats]:
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


def _fuse_ranks(views: Views) -> tuple[Ids, Ids, Floats]:
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


def _nobody(views: Views) -> tuple[Ids, Ids]:
    shape = (views.num_rows, views.recipe.num_negatives)
    return np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)


def _sort_by(scores: Scores, ids: Ids, teachers: Ids) -> tuple[Found, Ids]:
    """Sort every row by the scores of one teacher, best first, ties to the lower id, padding last."""
    given = np.full(ids.shape, -np.inf, np.float32)
    given[ids >= 0] = scores.pairs(np.nonzero(ids >= 0)[0], ids[ids >= 0])
    order = np.lexsort((ids, -given), axis=1)
    found = Found(np.take_along_axis(ids, order, axis=1), np.take_along_axis(given, order, axis=1))
    return found, np.take_along_axis(teachers, order, axis=1)
