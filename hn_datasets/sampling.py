"""Drawing negatives: random numbers that depend on the seed and on texts alone, not on batches, order or libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hn_datasets.recipe import Recipe
from hn_datasets.search import Found
from hn_datasets.teachers.base import Floats, Ids
from hn_datasets.texts import Digests, Ragged, digest_of

Uint64s = npt.NDArray[np.uint64]


def row_seeds(seed: int, anchors: Digests) -> Uint64s:
    """Return one seed per row from the run's seed and the anchor's digest, shape ``[n]``, uint64."""
    words = np.ascontiguousarray(anchors).view(np.uint64).reshape(-1, 2)
    run = np.uint64(int(digest_of(str(seed))[:16], 16))
    seeds: Uint64s = _mix(words[:, 0] ^ run) ^ words[:, 1]
    return seeds


def uniforms(seeds: Uint64s | np.uint64, keys: Uint64s) -> npt.NDArray[np.float64]:
    """Return numbers in (0, 1) for (row seed, key) pairs of any one shape, float64."""
    bits = _mix(_mix(seeds ^ _mix(keys)))
    numbers: npt.NDArray[np.float64] = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return numbers


def choose(found: Found, recipe: Recipe, seeds: Uint64s, keys: Callable[[Ids], Uint64s]) -> Found:
    """Pick ``num_negatives`` from the pool of every row, best first.

    Args:
        found: the ``skip + pool_size`` best passages of every row.
        recipe: sampling, temperature and number.
        seeds: shape ``[n]``, from ``row_seeds``.
        keys: gives passages their numbers, uint64 and made from their texts, in the shape of their ids.
    """
    ids, scores = found.ids[:, recipe.method.skip :], found.scores[:, recipe.method.skip :]
    if recipe.sampling == "top":
        return Found(ids[:, : recipe.num_negatives], scores[:, : recipe.num_negatives])
    draws = uniforms(seeds[:, None], keys(np.maximum(ids, 0)))
    if recipe.sampling != "random":
        # The k largest of score / temperature + Gumbel noise are a draw of k from the softmax without replacement.
        temperature = recipe.temperature if recipe.temperature is not None else 1.0
        draws = scores.astype(np.float64) / temperature - np.log(-np.log(draws))
    draws[ids < 0] = -np.inf
    if recipe.sampling == "top1+softmax" and draws.shape[1]:
        draws[ids[:, 0] >= 0, 0] = np.inf
    drawn = np.argsort(-draws, axis=1, kind="stable")[:, : recipe.num_negatives]
    drawn.sort(axis=1)  # the pool is sorted by score, so this is best first again
    return Found(np.take_along_axis(ids, drawn, axis=1), np.take_along_axis(scores, drawn, axis=1))


def draw_uniformly(
    seeds: Uint64s,
    num_passages: int,
    num_negatives: int,
    excluded: Ragged,
    blocked: npt.NDArray[np.bool_] | None = None,
) -> Ids:
    """Draw distinct passages for every row, uniformly over the corpus without ``excluded`` and ``blocked``.

    Args:
        seeds: shape ``[n]``, from ``row_seeds``.
        num_passages: size of the corpus.
        num_negatives: how many for each row.
        excluded: for each row the ids of passages that it does not get.
        blocked: shape ``[num_passages]``: passages that no row gets.

    Returns:
        Shape ``[n, num_negatives]``, int64; -1 where a row has no more passages to draw.
    """
    if blocked is not None:
        free, here = np.flatnonzero(~blocked), ~blocked[excluded.values]
        places = np.searchsorted(free, excluded.values[here])
        lists = Ragged.from_pairs(excluded.rows[here], places, len(seeds))
        places = draw_uniformly(seeds, len(free), num_negatives, lists)
        return np.where(places < 0, -1, np.append(free, -1)[places])
    drawn = np.full((len(seeds), num_negatives), -1, dtype=np.int64)
    for row, seed in enumerate(seeds):
        out = excluded[row]
        wanted = min(num_negatives, num_passages - len(out))
        if num_passages <= 4 * (num_negatives + len(out)):
            free = np.setdiff1d(np.arange(num_passages), out)
            order = np.argsort(uniforms(seed, free.astype(np.uint64)), kind="stable")
            drawn[row, :wanted] = free[order[:wanted]]
        else:
            drawn[row] = _draw_with_retries(seed, num_passages, num_negatives, out)
    return drawn


def _draw_with_retries(seed: np.uint64, num_passages: int, wanted: int, out: Ids) -> Ids:
    """Draw until ``wanted`` are distinct and allowed; at least 3 of 4 draws are."""
    kept: dict[int, None] = {}
    start = 0
    while len(kept) < wanted:
        keys = np.arange(start, start + 2 * wanted, dtype=np.uint64)
        ids = (uniforms(seed, keys) * num_passages).astype(np.int64)
        kept.update(dict.fromkeys(ids[~np.isin(ids, out)].tolist()))
        start += 2 * wanted
    return np.fromiter(kept, dtype=np.int64)[:wanted]


def sort_by_score(ids: Ids, scores: Floats) -> Found:
    """Sort every row best first, ties to the lower id, padding last."""
    scores = np.where(ids < 0, -np.inf, scores).astype(np.float32)
    order = np.lexsort((ids, -scores), axis=1)
    return Found(np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1))


def _mix(values: Any) -> Any:
    """Scramble 64-bit words: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))
