"""What two mined datasets or releases have in common, and what changed between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from hn_datasets.inspection.agreement import compute_again
from hn_datasets.inspection.blocks import Ints
from hn_datasets.inspection.changes import find_changes, list_changes
from hn_datasets.inspection.inventory import Inventory, number_texts, take_inventory
from hn_datasets.inspection.opening import open_source
from hn_datasets.inspection.roles import as_splits, column_types, find_roles
from hn_datasets.recipe import Recipe
from hn_datasets.record import MiningRecord
from hn_datasets.statistics import MiningStatistics
from hn_datasets.texts import Ragged

_SCORES = ("positive_score", "negative_score", "difference")
_NUMBERS = ("rows", "skipped_rows", "short_rows", "negatives", "positive_not_best")
_MEASURES = ("mean", "median", "standard_deviation", "minimum", "maximum")


@dataclass(frozen=True)
class Comparison:
    """What two mined datasets have in common, and what changed from the old one to the new one.

    Texts count as the same where they are equal to the last character. A pair is an anchor with one of its positives,
    and counts once, with all the negatives that it has anywhere.

    Attributes:
        old_pairs: distinct (anchor, positive) pairs of the old dataset.
        new_pairs: those of the new one.
        pairs_in_common: pairs that both have.
        old_negatives: distinct (anchor, positive, negative) triples of the old dataset.
        new_negatives: those of the new one.
        negatives_in_common: triples that both have.
        mean_jaccard: the Jaccard index of both sets of negatives, averaged over the pairs in common, 0 to 1; 1 for a
            pair without negatives; None where no pair is in common.
        changed_statistics: old and new value of each number that differs; None where one dataset has no scores.
        changed_recipe: likewise for the fields of the recipe; None where one has no ``mining.json``.
    """

    old_pairs: int
    new_pairs: int
    pairs_in_common: int
    old_negatives: int
    new_negatives: int
    negatives_in_common: int
    mean_jaccard: float | None
    changed_statistics: dict[str, tuple[Any, Any]] | None
    changed_recipe: dict[str, tuple[Any, Any]] | None

    @property
    def share_in_common(self) -> float:
        """Share, 0 to 1, of the negatives of either dataset that both have; 1 where neither has any."""
        either = self.old_negatives + self.new_negatives - self.negatives_in_common
        return self.negatives_in_common / either if either else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "share_in_common": self.share_in_common}

    def __str__(self) -> str:
        return self.to_table()

    def to_table(self) -> str:
        """Return the numbers in a table, then one line for each change."""
        jaccard = "" if self.mean_jaccard is None else f", mean Jaccard index of a common pair {self.mean_jaccard:.3f}"
        lines = [
            f"{'':<10} {'old':>12} {'new':>12} {'in common':>12}",
            f"{'pairs':<10} {self.old_pairs:>12,} {self.new_pairs:>12,} {self.pairs_in_common:>12,}",
            f"{'negatives':<10} {self.old_negatives:>12,} {self.new_negatives:>12,} {self.negatives_in_common:>12,}",
            f"{self.share_in_common:.2%} of all negatives are in common{jaccard}.",
        ]
        lines += _list_changes("Statistics", self.changed_statistics, "one of them has no scores")
        lines += _list_changes("Recipe", self.changed_recipe, "one of them has no mining.json")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Side:
    """One of the two datasets."""

    inventory: Inventory
    statistics: MiningStatistics | None
    recipe: Recipe | None


def compare(
    old: str | Path | Dataset | DatasetDict,
    new: str | Path | Dataset | DatasetDict,
    *,
    recipe: Recipe | None = None,
    token: str | None = None,
) -> Comparison:
    """Compare two mined datasets or releases.

    Args:
        old: a path, ``REPO`` or ``REPO@REVISION`` on the Hub, or a dataset. Of a release, the lossless layout is read
            where there is one.
        new: likewise.
        recipe: names the text columns of what has no ``mining.json``; None takes the recipe of the other one. Columns
            that are not there are guessed.
        token: for the Hub; the one of the environment if None.

    Raises:
        DataSourceError: nothing is there, or it cannot be read.
        ArgumentError: a release is not written as ``REPO@REVISION``.
        ColumnError: nothing looks like negatives.
        TextError: there is no row.
    """
    sources = [_load(source, token) for source in (old, new)]
    recipe = recipe or next((record.recipe for _, record in sources if record is not None), None)
    before, after = (_take(splits, record, recipe) for splits, record in sources)
    one, other = _combine(before.inventory, after.inventory)
    pairs = np.intersect1d(one.pairs, other.pairs)
    common = np.intersect1d(one.triples, other.triples)
    return Comparison(
        old_pairs=len(one.pairs),
        new_pairs=len(other.pairs),
        pairs_in_common=len(pairs),
        old_negatives=len(one.triples),
        new_negatives=len(other.triples),
        negatives_in_common=len(common),
        mean_jaccard=_mean_jaccard(*(one.count(pairs, triples) for triples in (one.triples, other.triples, common))),
        changed_statistics=_find_changes(_summarise(before.statistics), _summarise(after.statistics)),
        changed_recipe=_find_changes(*(side.recipe.to_dict() if side.recipe else None for side in (before, after))),
    )


def _load(source: str | Path | Dataset | DatasetDict, token: str | None) -> tuple[DatasetDict, MiningRecord | None]:
    """Return the splits, and the record where there is one."""
    if not isinstance(source, (str, Path)):
        return as_splits(source), None
    opened = open_source(source, token=token)
    name = opened.choose_config() or next(iter(opened.layouts), None)
    return opened.load(name), opened.record


def _take(splits: DatasetDict, record: MiningRecord | None, other: Recipe | None) -> _Side:
    """Return one side, whose text columns its own recipe names, or another one that fits."""
    if record is not None:
        inventory = take_inventory(splits, find_roles(splits, recipe=record.recipe))
        return _Side(inventory, record.statistics, record.recipe)
    fits = other is not None and {other.anchor_column_name, other.positive_column_name} <= {*column_types(splits)}
    inventory = take_inventory(splits, find_roles(splits, recipe=other if fits else None))
    return _Side(inventory, compute_again(inventory) if inventory.roles.mined else None, None)


@dataclass(frozen=True)
class _Combinations:
    """What one dataset has, in numbers that are the same for both datasets.

    Attributes:
        pairs: the distinct (anchor, positive) pairs, int64, rising.
        triples: the distinct (pair, negative) combinations, each as ``pair * num_texts + negative``, int64, rising.
        num_texts: distinct texts of both datasets.
    """

    pairs: Ints
    triples: Ints
    num_texts: int

    def count(self, pairs: Ints, triples: Ints) -> Ints:
        """Return how many of ``triples`` each of ``pairs`` has (shape ``[len(pairs)]``)."""
        bounds = np.searchsorted(triples, [pairs * self.num_texts, (pairs + 1) * self.num_texts])
        counts: Ints = bounds[1] - bounds[0]
        return counts


def _combine(*inventories: Inventory) -> list[_Combinations]:
    """Number the pairs and the triples of several datasets alike."""
    numbers, digests = number_texts(
        [part for one in inventories for part in (one.anchors, one.positives, one.negatives)]
    )
    size = max(1, len(digests))
    anchors, positives, negatives = numbers[0::3], numbers[1::3], numbers[2::3]
    keys = [
        own[one.numbers.positive_rows] * size + texts
        for one, own, texts in zip(inventories, anchors, positives, strict=True)
    ]
    pairs = np.unique(np.concatenate(keys), return_inverse=True)[1].astype(np.int64)
    combined = []
    for place, own in enumerate(np.split(pairs, np.cumsum([len(key) for key in keys])[:-1])):
        triples = _combine_negatives(inventories[place], anchors[place], negatives[place], own, size)
        combined.append(_Combinations(np.unique(own), triples, size))
    return combined


def _combine_negatives(inventory: Inventory, anchors: Ints, negatives: Ints, pairs: Ints, size: int) -> Ints:
    """Return the distinct (pair, negative) combinations.

    The pairs of a row have its negatives; where rows are single passages, all negatives of their anchor.
    """
    numbers = inventory.numbers
    rows = np.arange(len(anchors))
    if inventory.roles.pairs:
        rows = np.unique(anchors, return_inverse=True)[1].astype(np.int64)
    lists = Ragged.from_pairs(rows[numbers.negative_rows], negatives, len(rows))
    of_pairs = lists.take(rows[numbers.positive_rows])
    return np.unique(pairs[of_pairs.rows] * size + of_pairs.values)


def _mean_jaccard(old: Ints, new: Ints, both: Ints) -> float | None:
    """Return the mean over pairs with ``old`` and ``new`` negatives, ``both`` of them shared (shape ``[n]`` each)."""
    if not len(both):
        return None
    either = old + new - both
    return float(np.mean(np.where(either > 0, both / np.maximum(either, 1), 1.0)))


def _summarise(statistics: MiningStatistics | None) -> dict[str, Any] | None:
    """Return the numbers that a reader compares: no histograms."""
    if statistics is None:
        return None
    numbers: dict[str, Any] = {name: getattr(statistics, name) for name in _NUMBERS}
    for name in _SCORES:
        numbers[name] = {measure: getattr(getattr(statistics, name), measure) for measure in _MEASURES}
    return numbers


def _find_changes(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, tuple[Any, Any]] | None:
    return None if old is None or new is None else find_changes(old, new)


def _list_changes(title: str, changes: dict[str, tuple[Any, Any]] | None, unknown: str) -> Iterator[str]:
    if changes is None:
        yield f"{title}: not compared, {unknown}."
    elif not changes:
        yield f"{title}: no change."
    else:
        yield f"{title}:"
        yield from list_changes(changes)
