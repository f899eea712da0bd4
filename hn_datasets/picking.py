"""One block of rows, from texts to the ids and scores of their negatives: a function of the block and the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hn_datasets.approximate import ApproximateIndex
from hn_datasets.guards import Block, Guard, Rule, merge, same_texts
from hn_datasets.methods import RandomNegatives
from hn_datasets.recipe import Recipe
from hn_datasets.sampling import choose, draw_uniformly, row_seeds, sort_by_score
from hn_datasets.search import Found, Search, k_best_below
from hn_datasets.teachers.base import Floats, Ids, Scores
from hn_datasets.texts import Corpus, Ragged, digest_texts


@dataclass(frozen=True)
class Mined:
    """The added columns of a block of n rows, as arrays.

    Attributes:
        found: ids and scores, ``[n, num_negatives]``.
        positive_scores: shape ``[n]``, float32.
        ceilings: shape ``[n]``, float64.
        top_scores: shape ``[n]``, float32: the best passage that is no positive; NaN if there is none.
        removals: shape ``[n, num_guards]``, int32: how many of the passages that the row would have without guards each
            guard takes out.
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
    corpus: Corpus,
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
    block: Block, recipe: Recipe, guards: Sequence[Guard], corpus: Corpus, index: ApproximateIndex | None = None
) -> Mined:
    """Pick the negatives of every row of a block; by exact search if there is no index."""
    find = k_best_below if index is None else index.k_best_below
    ceilings = recipe.method.ceiling(block.lowest)
    same = same_texts(block, corpus)
    rules = [guard.rule(block, corpus) for guard in guards]
    seeds = row_seeds(recipe.seed or 0, digest_texts(block.anchors)) if recipe.draws else np.empty(0, np.uint64)
    wanted = recipe.method.skip + recipe.pool_size
    best = Search(np.full(len(ceilings), np.inf), 1, same)
    plain = Search(ceilings, wanted, same)
    strict = guarded(plain, rules)
    if isinstance(recipe.method, RandomNegatives):
        (top,) = find(block.scores, [best])
        found, free = (_draw(block.scores, seeds, recipe, search) for search in (strict, plain))
    else:
        searches = [strict, best, *([plain] if rules else [])]
        found, top, *rest = find(block.scores, searches)
        free = rest[0] if rules else found
        found = choose(found, recipe, seeds, passage_keys(corpus))
    removals = [rule.refuses(block.scores, free.ids).sum(axis=1) for rule in rules]
    counts = np.array(removals, np.int32).reshape(len(rules), len(ceilings)).T
    return Mined(found, block.positive_scores, ceilings, top_scores_of(top), counts)


def top_scores_of(best: Found) -> Floats:
    """Return the scores of the best passages, shape ``[n]``, float32, NaN where there is none."""
    return np.where(np.isneginf(best.scores[:, 0]), np.nan, best.scores[:, 0]).astype(np.float32)


def passage_keys(corpus: Corpus) -> npt.NDArray[np.uint64]:
    """Return what the random number of each passage is drawn by, shape ``[num_passages]``, uint64."""
    keys: npt.NDArray[np.uint64] = corpus.digests.view(np.uint64).reshape(-1, 2)[:, 0]
    return keys


def find_candidates(block: Block, recipe: Recipe, guards: Sequence[Guard], corpus: Corpus) -> Ids:
    """Return suspected positives: passages among the best that the ceiling, or their nearness to a positive, keeps out.

    Relabelling such passages trained better than throwing them away (RLHN, arXiv 2505.16967). What other guards keep
    out, held-out passages for instance, is no candidate.

    Returns:
        Shape ``[n, num_negatives]``, int64, those of the ``num_negatives`` best passages; -1 in the other places.
    """
    rules = [guard.rule(block, corpus) for guard in guards]
    best = Search(np.full(len(block.anchors), np.inf), recipe.num_negatives, same_texts(block, corpus))
    (found,) = k_best_below(block.scores, [guarded(best, [replace(rule, nearness=None) for rule in rules])])
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


def _lowest_scores(scores: Scores, positives: Sequence[Sequence[str]], corpus: Corpus) -> Floats:
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
