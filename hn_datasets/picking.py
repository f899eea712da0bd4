"""One block of rows, from texts to the ids and scores of their negatives: a function of the block and the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hn_datasets.guards import Block, Guard, Rule, Sieve, Sources, merge, same_texts
from hn_datasets.methods import RandomNegatives
from hn_datasets.recipe import Recipe
from hn_datasets.sampling import choose, draw_uniformly, row_seeds, sort_by_score
from hn_datasets.search import Found, Search, k_best_below
from hn_datasets.sifting import sift
from hn_datasets.teachers.base import Floats, Ids, Scorer, Scores
from hn_datasets.texts import AnyCorpus, Ragged, digest_texts


class Index(Protocol):
    """What is searched in the place of all scores, such as ``approximate.ApproximateIndex``."""

    def k_best_below(self, scores: Scores, searches: Sequence[Search]) -> list[Found]:
        """Answer several searches; see ``search.k_best_below``."""


@runtime_checkable
class SearchedElsewhere(Protocol):
    """Scores that are searched where their passages are, as in other processes."""

    def find(self, searches: Sequence[Search]) -> list[Found]:
        """Answer several searches; see ``search.k_best_below``."""


def find_best(scores: Scores, searches: Sequence[Search]) -> list[Found]:
    """Answer several searches exactly; see ``search.k_best_below``."""
    return scores.find(searches) if isinstance(scores, SearchedElsewhere) else k_best_below(scores, searches)


@dataclass(frozen=True)
class Mined:
    """The added columns of a block of n rows, as arrays.

    Attributes:
        found: ids and scores, ``[n, num_negatives]``.
        positive_scores: shape ``[n]``, float32.
        ceilings: shape ``[n]``, float64.
        top_scores: shape ``[n]``, float32: the best passage that is no positive; NaN if there is none.
        removals: shape ``[n, num_guards]``, int32: how many passages each guard takes out. Of a rule for the search,
            those among the passages that the row would have without guards; of a sieve, those that it refuses before
            the row is full.
        teachers: shape ``[n, num_negatives]``, int64, the number of each negative's teacher; None where there is one.
    """

    found: Found
    positive_scores: Floats
    ceilings: npt.NDArray[np.float64]
    top_scores: Floats
    removals: npt.NDArray[np.int32]
    teachers: Ids | None = None

    def to_table(self) -> pa.Table:
        """Return one line for each row, with the columns of ``mined_schema``."""
        wide: list[npt.NDArray[Any]] = [self.found.ids, self.found.scores]
        further: list[npt.NDArray[Any]] = [self.removals] if self.removals.shape[1] else []
        further += [self.teachers] if self.teachers is not None else []
        columns = [
            *map(_fixed_lists, wide),
            *map(pa.array, (self.positive_scores, self.ceilings, self.top_scores)),
            *map(_fixed_lists, further),
        ]
        schema = mined_schema(self.found.ids.shape[1], self.removals.shape[1], self.teachers is not None)
        return pa.table(columns, schema=schema)

    @classmethod
    def from_table(cls, table: pa.Table) -> Mined:
        """Return the block whose ``to_table`` this is."""
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        wide = {
            name: column.flatten().to_numpy().reshape(len(table), -1)
            for name, column in columns.items()
            if pa.types.is_fixed_size_list(column.type)
        }
        return cls(
            Found(wide["ids"], wide["scores"]),
            positive_scores=columns["positive_score"].to_numpy(),
            ceilings=columns["ceiling"].to_numpy(),
            top_scores=columns["top_score"].to_numpy(),
            removals=wide.get("removals", np.empty((len(table), 0), np.int32)),
            teachers=wide.get("teachers"),
        )


def mined_schema(num_negatives: int, num_guards: int, ensemble: bool) -> pa.Schema:
    """Return the schema of mined rows as they are kept."""
    columns = {"ids": pa.list_(pa.int64(), num_negatives), "scores": pa.list_(pa.float32(), num_negatives)}
    columns |= {"positive_score": pa.float32(), "ceiling": pa.float64(), "top_score": pa.float32()}
    columns |= {"removals": pa.list_(pa.int32(), num_guards)} if num_guards else {}
    return pa.schema(columns | ({"teachers": pa.list_(pa.int64(), num_negatives)} if ensemble else {}))


def _fixed_lists(values: npt.NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def open_block(
    scores: Scores,
    anchors: Sequence[str],
    own: Sequence[Sequence[str]],
    known: Ragged,
    corpus: AnyCorpus,
    columns: Mapping[str, Sequence[Any]],
) -> Block:
    """Score the positives of some rows.

    Args:
        scores: of the anchors against the corpus.
        anchors: n texts.
        own: the positives of each row.
        known: ids of the positives that each anchor has in any row.
        corpus: the passages.
        columns: further columns that guards asked for.
    """
    texts, bounds = corpus.texts(known.values), known.offsets.tolist()
    positives = [list(dict.fromkeys([*row, *texts[bounds[i] : bounds[i + 1]]])) for i, row in enumerate(own)]
    positive_scores = _lowest_scores(scores, own, corpus)
    lowest = positive_scores.copy()
    np.minimum.at(lowest, known.rows, scores.pairs(known.rows, known.values))
    return Block(anchors, positives, positive_scores, lowest, scores, columns)


def mine_block(
    block: Block,
    scorer: Scorer,
    guards: Sequence[Guard],
    sources: Sources,
    index: Index | None = None,
) -> Mined:
    """Pick the negatives of every row of a block.

    Args:
        block: the rows.
        scorer: searched again for rows that guards leave short.
        guards: those of the recipe.
        sources: the recipe, the corpus, and what guards look up.
        index: searched first; exact search if None.
    """
    recipe, corpus = sources.recipe, sources.corpus
    find = find_best if index is None else index.k_best_below
    ceilings = recipe.method.ceiling(block.lowest)
    same = same_texts(block, corpus)
    rules = [guard.rule(block, sources) for guard in guards]
    sieves = [guard.sieve(block, sources) for guard in guards]
    seeds = row_seeds(recipe.seed or 0, digest_texts(block.anchors)) if recipe.draws else np.empty(0, np.uint64)
    wanted = recipe.method.skip + recipe.pool_size
    best = Search(np.full(len(ceilings), np.inf), 1, same)
    plain = Search(ceilings, wanted, same)
    strict = guarded(Search(ceilings, _num_candidates(recipe, sieves, corpus), same), rules)
    removals = np.zeros((len(ceilings), len(guards)), dtype=np.int32)
    if isinstance(recipe.method, RandomNegatives):
        (top,) = find(block.scores, [best])
        found, free = (_draw(block.scores, seeds, recipe, search) for search in (strict, plain))
    else:
        # A search with nothing but a second ceiling tells by itself what it would have found without.
        alone = not any(rule.excluded is not None or rule.blocked is not None for rule in rules)
        tells = (
            alone and strict.nearness is not None and index is None and not isinstance(block.scores, SearchedElsewhere)
        )
        found, top, *rest = find(block.scores, [strict, best, *([] if tells or None not in sieves else [plain])])
        free = found.free if found.free is not None and tells else rest[0] if rest else found
        found = _sift(block, scorer, strict, found, sieves, recipe, removals)
        found = choose(found, recipe, seeds, lambda ids: passage_keys(corpus, ids))
    for number, (rule, sieve) in enumerate(zip(rules, sieves, strict=True)):
        if sieve is None:
            removals[:, number] = rule.refuses(block.scores, free.ids[:, :wanted]).sum(axis=1)
    return Mined(found, block.positive_scores, ceilings, top_scores_of(top), removals)


def _num_candidates(recipe: Recipe, sieves: Sequence[Sieve | None], corpus: AnyCorpus) -> int:
    """Return how many passages of each row the search has to find."""
    at_once = max([1, *(sieve.num_candidates for sieve in sieves if sieve is not None)])
    return recipe.method.skip + max(min(at_once, len(corpus)), recipe.pool_size)


def _sift(
    block: Block,
    scorer: Scorer,
    search: Search,
    found: Found,
    sieves: Sequence[Sieve | None],
    recipe: Recipe,
    removals: npt.NDArray[np.int32],
) -> Found:
    """Return the ``skip + pool_size`` best passages of every row that no sieve refuses.

    Args:
        block: the rows.
        scorer: of the teacher.
        search: what was asked.
        found: its answer; the ``skip`` best stay where they are, and are no negatives.
        sieves: of each guard, None where it has none.
        recipe: says how many passages make a row full.
        removals: shape ``[n, num_guards]``, where to put how many each guard with a sieve refused.
    """
    active = [number for number, sieve in enumerate(sieves) if sieve is not None]
    if not active:
        return found
    skip = recipe.method.skip

    def behind(whole: Found) -> Found:
        return Found(whole.ids[:, skip:], whole.scores[:, skip:])

    def search_again(rows: Ids, width: int) -> Found:
        scores = scorer.scores([block.anchors[row] for row in rows.tolist()])
        return behind(find_best(scores, [search.take(rows, skip + width)])[0])

    chosen = [sieve for sieve in sieves if sieve is not None]
    kept, removals[:, active] = sift(search_again, behind(found), chosen, recipe.pool_size)
    ids = np.concatenate([found.ids[:, :skip], kept.ids], axis=1)
    return Found(ids, np.concatenate([found.scores[:, :skip], kept.scores], axis=1))


def top_scores_of(best: Found) -> Floats:
    """Return the scores of the best passages, shape ``[n]``, float32, NaN where there is none."""
    return np.where(np.isneginf(best.scores[:, 0]), np.nan, best.scores[:, 0]).astype(np.float32)


def passage_keys(corpus: AnyCorpus, ids: Ids) -> npt.NDArray[np.uint64]:
    """Return what the random numbers of passages are drawn by, uint64, in the shape of ``ids``."""
    digests = np.ascontiguousarray(corpus.digests_of(ids.ravel()))
    keys: npt.NDArray[np.uint64] = digests.view(np.uint64).reshape(*ids.shape, 2)[..., 0]
    return keys


def find_candidates(block: Block, guards: Sequence[Guard], sources: Sources, index: Index | None = None) -> Ids:
    """Return suspected positives: passages among the best that the ceiling, or their nearness to a positive, keeps out.

    Relabelling such passages trained better than throwing them away (RLHN, arXiv 2505.16967). What other guards keep
    out, held-out passages for instance, is no candidate.

    Returns:
        Shape ``[n, num_negatives]``, int64, those of the ``num_negatives`` best passages; -1 in the other places.
    """
    recipe = sources.recipe
    rules = [guard.rule(block, sources) for guard in guards]
    best = Search(np.full(len(block.anchors), np.inf), recipe.num_negatives, same_texts(block, sources.corpus))
    find = find_best if index is None else index.k_best_below
    (found,) = find(block.scores, [guarded(best, [replace(rule, nearness=None) for rule in rules])])
    suspected = found.scores >= recipe.method.ceiling(block.lowest)[:, None]
    for rule in rules:
        if rule.nearness is not None:
            suspected |= Rule(nearness=rule.nearness).refuses(block.scores, found.ids)
    return np.where(suspected & (found.ids >= 0), found.ids, -1)


def guarded(search: Search, rules: Sequence[Rule]) -> Search:
    """Return the search under all rules."""
    num_rows = len(search.ceilings)
    excluded = merge([search.excluded, *(rule.excluded for rule in rules if rule.excluded is not None)], num_rows)
    masks = [rule.blocked for rule in rules if rule.blocked is not None]
    blocked = np.logical_or.reduce(masks) if masks else None
    nearness = next((rule.nearness for rule in rules if rule.nearness is not None), None)
    return Search(search.ceilings, search.k, excluded, blocked, nearness)


def _draw(scores: Scores, seeds: npt.NDArray[np.uint64], recipe: Recipe, search: Search) -> Found:
    """Draw the negatives of every row uniformly, and score them."""
    ids = draw_uniformly(seeds, scores.num_passages, recipe.num_negatives, search.excluded, search.blocked)
    drawn = np.full(ids.shape, -np.inf, dtype=np.float32)
    drawn[ids >= 0] = scores.pairs(np.nonzero(ids >= 0)[0], ids[ids >= 0])
    return sort_by_score(ids, drawn)


def _lowest_scores(scores: Scores, positives: Sequence[Sequence[str]], corpus: AnyCorpus) -> Floats:
    """Return the lowest score among each row's own positives, shape ``[n]``."""
    rows = np.repeat(np.arange(len(positives)), [len(row) for row in positives])
    texts = [text for row in positives for text in row]
    ids = corpus.ids(texts)
    inside, outside = np.flatnonzero(ids >= 0), np.flatnonzero(ids < 0)
    each = np.empty(len(texts), dtype=np.float32)
    each[inside] = scores.pairs(rows[inside], ids[inside])
    if len(outside):
        each[outside] = scores.of_texts(rows[outside], [texts[number] for number in outside])
    lowest = np.full(len(positives), np.inf, dtype=np.float32)
    np.minimum.at(lowest, rows, each)
    return lowest
