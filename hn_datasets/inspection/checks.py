"""The rules that the rows of a mined dataset must keep: each gives the rows or the negatives that break it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from datasets import DatasetDict

from hn_datasets.inspection.blocks import Flags, Ints
from hn_datasets.inspection.inventory import Inventory, number_forms, number_texts
from hn_datasets.record import MiningRecord

Severity = Literal["broken", "information"]
Of = Literal["row", "negative"]

MEANINGS: dict[str, str] = {
    "anchor-among-negatives": "a negative is the anchor itself",
    "anchor-among-negatives-normalised": "a negative is the anchor but for case, spacing or Unicode form",
    "positive-among-negatives": "a negative is a positive of its row",
    "positive-among-negatives-normalised": "a negative is a positive of its row but for case, spacing or Unicode form",
    "positive-elsewhere": "a negative is a positive of the same anchor in another row",
    "positive-of-similar-anchor": "a negative is a positive of an anchor that differs in case, spacing or Unicode form",
    "duplicate-negative": "a negative comes twice in its row",
    "similar-negative": "two negatives of a row differ in case, spacing or Unicode form alone",
    "repeated-pair": "a pair of anchor and negative comes twice",
    "empty-anchor": "an anchor is missing, empty or white space",
    "empty-positive": "a positive is missing, empty or white space",
    "empty-negative": "a negative is missing, empty or white space",
    "uneven-lists": "the lists of negatives, ids and scores of a row have different lengths",
    "score-not-finite": "the score of a negative is NaN or infinite, and it is not marked as filled in",
    "row-score-not-finite": "the positive score, ceiling or top score of a row is NaN or infinite",
    "scores-not-falling": "the scores of a row's negatives do not fall",
    "at-or-above-ceiling": "a negative scores at or above the ceiling of its row",
    "ceiling-of-another-method": "the ceiling of a row is not what the method in mining.json makes of its positive",
    "id-below-0": "the id of a negative is below 0, and it is not marked as filled in",
    "id-beyond-corpus": "the id of a negative is not below the number of passages in mining.json",
    "id-of-two-texts": "one id stands for two texts",
    "removals-unsound": "a row does not have one count of removed passages, 0 or more, for each guard",
    "short-row": "a row has fewer negatives than it should",
    "long-row": "a row has more negatives than the recipe in mining.json gives",
    "skipped-row": "a row was skipped as empty when mined",
    "filled-negative": "a negative is marked as drawn at random to fill its row",
}
"""Every rule for rows, in one phrase that says what it means to break it."""

INFORMATION = frozenset(
    {
        "similar-negative",
        "repeated-pair",
        "positive-of-similar-anchor",
        "short-row",
        "skipped-row",
        "filled-negative",
    }
)
"""Rules that a sound dataset may break."""

ENOUGH_ROWS = 10
"""Of fewer, each may have a positive in other data that scores lower, so that none has the ceiling of its own."""


@dataclass(frozen=True)
class Breach:
    """One rule, and what breaks it.

    Attributes:
        name: a key of ``MEANINGS``.
        flags: shape ``[n]`` or ``[m]``: the rows or the negatives that break the rule.
        of: whether ``flags`` are of rows or of negatives.
        severity: whether a sound dataset may break it.
    """

    name: str
    flags: Flags
    of: Of
    severity: Severity


def find_breaches(inventory: Inventory, splits: DatasetDict, record: MiningRecord | None) -> Iterator[Breach]:
    """Yield the rules that are broken at least once.

    Args:
        inventory: of ``splits``.
        splits: read once more, for the forms in which texts count as the same.
        record: what ``mining.json`` says, if there is one.
    """
    numbers, digests = number_texts((inventory.anchors, inventory.positives, inventory.negatives))
    anchors, positives, negatives = numbers
    forms = number_forms(splits, inventory.roles, numbers, len(digests))
    allowed = INFORMATION if inventory.roles.mined else INFORMATION | {"scores-not-falling"}  # others promise no order
    for name, of, flags in (
        *_check_sameness(inventory, anchors, positives, negatives, forms),
        *_check_emptiness(inventory, anchors, positives, negatives, forms),
        *_check_scores(inventory, record),
        *_check_ids(inventory, negatives, record),
        *_check_lengths(inventory, record),
        *_check_removals(inventory, record),
    ):
        if flags.any():
            yield Breach(name, flags, of, "information" if name in allowed else "broken")


Checked = Iterator[tuple[str, Of, Flags]]


def _check_sameness(inventory: Inventory, anchors: Ints, positives: Ints, negatives: Ints, forms: Ints) -> Checked:
    """Compare each negative with the anchor, the positives and the other negatives."""
    positive_rows, rows = inventory.numbers.positive_rows, inventory.numbers.negative_rows
    size = len(forms)
    positive_forms, negative_forms = forms[positives], forms[negatives]
    anchor = negatives == anchors[rows]
    anchor_form = negative_forms == forms[anchors[rows]]
    positive = np.isin(rows * size + negatives, positive_rows * size + positives)
    positive_form, elsewhere, similar = (
        np.isin(keys[rows] * size + negative_forms, keys[positive_rows] * size + positive_forms)
        for keys in (np.arange(len(anchors)), anchors, forms[anchors])
    )
    yield "anchor-among-negatives", "negative", anchor
    yield "anchor-among-negatives-normalised", "negative", anchor_form & ~anchor
    yield "positive-among-negatives", "negative", positive
    yield "positive-among-negatives-normalised", "negative", positive_form & ~positive
    yield "positive-elsewhere", "negative", elsewhere & ~positive_form
    yield "positive-of-similar-anchor", "negative", similar & ~elsewhere & ~positive_form
    if inventory.roles.pairs:  # two mined rows with the same anchor may rightly have the same negative
        yield "repeated-pair", "negative", _repeated(anchors[rows] * size + negatives)
        return
    twice = _repeated(rows * size + negatives)
    yield "duplicate-negative", "negative", twice
    yield "similar-negative", "negative", _repeated(rows * size + negative_forms) & ~twice


def _check_emptiness(inventory: Inventory, anchors: Ints, positives: Ints, negatives: Ints, forms: Ints) -> Checked:
    numbers, empty = inventory.numbers, forms[:-1] == forms[-1]
    without = np.zeros(len(anchors), dtype=bool)
    if not inventory.roles.pairs:
        without = np.bincount(numbers.positive_rows, minlength=len(anchors)) == 0
    without[numbers.positive_rows[empty[positives]]] = True
    yield "empty-anchor", "row", empty[anchors] & ~numbers.skipped
    yield "empty-positive", "row", without & ~numbers.skipped
    yield "empty-negative", "negative", empty[negatives]


def _check_scores(inventory: Inventory, record: MiningRecord | None) -> Checked:
    numbers = inventory.numbers
    scores, rows, positive_scores = numbers.scores, numbers.negative_rows, numbers.positive_scores
    yield "uneven-lists", "row", numbers.uneven
    infinite = np.zeros(len(numbers.uneven), dtype=bool)
    if positive_scores is not None:
        infinite |= ~np.isfinite(positive_scores) & ~numbers.skipped
    if numbers.ceilings is not None:
        infinite |= np.isnan(numbers.ceilings) & ~numbers.skipped
    if numbers.top_scores is not None:
        infinite |= np.isinf(numbers.top_scores)
    yield "row-score-not-finite", "row", infinite
    if record is not None and positive_scores is not None and numbers.ceilings is not None:
        yield (
            "ceiling-of-another-method",
            "row",
            _find_other_ceilings(numbers.ceilings, record.recipe.method.ceiling(positive_scores)),
        )
    if scores is None:
        return
    known = ~numbers.filled & ~numbers.uneven[rows]
    yield "score-not-finite", "negative", known & ~np.isfinite(scores)
    rising = np.zeros(len(scores), dtype=bool)
    places = np.flatnonzero(known)
    same_row = rows[places[1:]] == rows[places[:-1]]
    rising[places[1:]] = same_row & (scores[places[1:]] > scores[places[:-1]])
    yield "scores-not-falling", "negative", rising
    ceilings = np.full(len(numbers.uneven), np.inf) if numbers.ceilings is None else numbers.ceilings
    if record is not None and positive_scores is not None:
        # The lowest score over all rows of an anchor gives its ceiling, so this bound is never too low.
        ceilings = np.fmin(ceilings, record.recipe.method.ceiling(positive_scores))
    yield "at-or-above-ceiling", "negative", known & (scores >= ceilings[rows])


def _find_other_ceilings(ceilings: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> Flags:
    """Return which rows have a ceiling above what the method makes of their positives; all if none has just that one.

    It may be below, for it is of the lowest score over all rows of an anchor, and some row has that lowest score.
    """
    known = ~np.isnan(ceilings) & ~np.isnan(expected)
    same = np.isclose(ceilings, expected, rtol=1e-6, atol=0)
    if known.sum() >= ENOUGH_ROWS and not same.any():
        return known
    return known & ~same & (ceilings > expected)


def _check_ids(inventory: Inventory, negatives: Ints, record: MiningRecord | None) -> Checked:
    numbers = inventory.numbers
    if numbers.ids is None:
        return
    known = ~numbers.filled & ~numbers.uneven[numbers.negative_rows]
    yield "id-below-0", "negative", known & (numbers.ids < 0)
    if record is not None and "passages" in record.corpus:
        yield "id-beyond-corpus", "negative", known & (numbers.ids >= int(record.corpus["passages"]))
    known &= numbers.ids >= 0
    other = np.zeros(len(known), dtype=bool)
    _, first, inverse = np.unique(numbers.ids[known], return_index=True, return_inverse=True)
    texts = negatives[known]
    other[known] = texts != texts[first][inverse]
    yield "id-of-two-texts", "negative", other


def _check_lengths(inventory: Inventory, record: MiningRecord | None) -> Checked:
    numbers = inventory.numbers
    yield "skipped-row", "row", numbers.skipped
    filled = numbers.filled & ~numbers.uneven[numbers.negative_rows]
    yield "filled-negative", "negative", filled
    if not inventory.roles.pairs:
        counts = numbers.counts
        of_recipe = record.recipe.num_negatives if record is not None and inventory.roles.mined else 0
        yield "short-row", "row", (counts < (of_recipe or counts.max(initial=0))) & ~numbers.skipped
        if of_recipe:
            mined = np.bincount(numbers.negative_rows[~filled], minlength=len(counts))
            yield "long-row", "row", mined > of_recipe


def _check_removals(inventory: Inventory, record: MiningRecord | None) -> Checked:
    numbers = inventory.numbers
    if numbers.removals is None or numbers.removal_rows is None:
        return
    counts = np.bincount(numbers.removal_rows, minlength=len(numbers.uneven))
    unsound = counts != (len(record.recipe.guards) if record is not None else counts.max(initial=0))
    unsound[numbers.removal_rows[numbers.removals < 0]] = True
    yield "removals-unsound", "row", unsound


def _repeated(values: Ints) -> Flags:
    """Return which values have come before, shape ``[n]``."""
    repeated = np.ones(len(values), dtype=bool)
    repeated[np.unique(values, return_index=True)[1]] = False
    return repeated
