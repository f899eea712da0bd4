"""The columns that mining adds: their types, and their values from what was mined."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Features, List, Value

from hn_datasets.modes import members_of
from hn_datasets.picking import Mined
from hn_datasets.recipe import Recipe
from hn_datasets.teachers.base import Ids
from hn_datasets.texts import AnyCorpus

MINED_FEATURES = Features(
    {
        "negatives": List(Value("string")),
        "negative_ids": List(Value("int64")),
        "negative_scores": List(Value("float32")),
        "positive_score": Value("float32"),
        "ceiling": Value("float64"),
        "top_score": Value("float32"),
    }
)
"""The columns that mining adds."""

GUARD_FEATURES = Features({"guard_removals": List(Value("int32"))})
"""Added with guards: for each, how many passages it takes out; see ``picking.Mined``."""

ENSEMBLE_FEATURES = Features({"negative_teachers": List(Value("string"))})
"""Added by an ensemble: the teacher of each negative."""

RELABEL_FEATURES = Features({"relabel_candidates": List(Value("string"))})
"""Added on request: suspected positives, the best first."""


def mined_features(features: Features, recipe: Recipe) -> Features:
    """Return the features of a mined dataset: those given, and the added columns."""
    of_guards = GUARD_FEATURES if recipe.guards else {}
    of_teachers = ENSEMBLE_FEATURES if members_of(recipe.teacher) else {}
    on_request = RELABEL_FEATURES if recipe.relabel_candidates else {}
    return Features({**features, **MINED_FEATURES, **of_guards, **of_teachers, **on_request})


def mined_columns(
    parts: Iterable[tuple[Ids, Mined]], num_rows: int, recipe: Recipe, corpus: AnyCorpus
) -> dict[str, Any]:
    """Return the columns; arrays carry their type into the dataset, also where all lists are empty.

    Args:
        parts: of each block the numbers of its rows within the batch, and what was mined for them.
        num_rows: of the batch; rows in no part are skipped ones.
        recipe: of the mining.
        corpus: has the texts of the negatives.
    """
    k, names = recipe.num_negatives, tuple(members_of(recipe.teacher))
    ids = np.full((num_rows, k), -1, dtype=np.int64)
    scores = np.full((num_rows, k), np.nan, dtype=np.float32)
    positive_scores, top_scores = (np.full(num_rows, np.nan, dtype=np.float32) for _ in range(2))
    ceilings = np.full(num_rows, np.nan)
    teachers = np.zeros((num_rows, k), dtype=np.int64)
    removals = np.zeros((num_rows, len(recipe.guards)), dtype=np.int32)
    for rows, part in parts:
        ids[rows, : part.found.ids.shape[1]] = part.found.ids
        scores[rows, : part.found.ids.shape[1]] = part.found.scores
        positive_scores[rows], top_scores[rows] = part.positive_scores, part.top_scores
        ceilings[rows], removals[rows] = part.ceilings, part.removals
        if part.teachers is not None:
            teachers[rows, : part.teachers.shape[1]] = part.teachers
    return {
        "negatives": text_lists(ids, corpus),
        "negative_ids": _lists(ids, ids),
        "negative_scores": _lists(scores, ids),
        "positive_score": list(positive_scores),
        "ceiling": list(ceilings),
        "top_score": list(top_scores),
        **({"guard_removals": list(removals)} if recipe.guards else {}),
        **({"negative_teachers": _names_of(teachers, ids, names)} if names else {}),
    }


def text_lists(ids: Ids, corpus: AnyCorpus) -> list[Any]:
    """Return the texts of passages (``[n, k]``) as n lists; -1 stands for none."""
    counts = (ids >= 0).sum(axis=1).tolist()
    texts = iter(corpus.texts(ids[ids >= 0]))
    if not any(counts):  # lists that are all empty have no type of their own
        return [np.empty(0, dtype=np.str_) for _ in counts]
    return [[next(texts) for _ in range(count)] for count in counts]


def _lists(values: npt.NDArray[Any], ids: Ids) -> Any:
    """Return values (``[n, k]``) as one array, which becomes a column at once, or as arrays where rows are short."""
    counts = (ids >= 0).sum(axis=1)
    if len(ids) and (counts == ids.shape[1]).all():
        return values
    return [row[:count] for row, count in zip(values, counts.tolist(), strict=True)]


def _names_of(teachers: Ids, ids: Ids, names: tuple[str, ...]) -> list[Any]:
    """Return the name of each negative's teacher, row by row; lists that are all empty have no type of their own."""
    counts = (ids >= 0).sum(axis=1).tolist()
    if not any(counts):
        return [np.empty(0, dtype=np.str_) for _ in counts]
    return [[names[teacher] for teacher in row[:count]] for row, count in zip(teachers, counts, strict=True)]
