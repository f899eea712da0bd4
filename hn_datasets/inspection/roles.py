"""Which column of a mined dataset plays which role: our own layouts, and those of other tools."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, List, Value

from hn_datasets.batches import as_array, count_items
from hn_datasets.columns import resolve_columns
from hn_datasets.errors import ColumnError
from hn_datasets.recipe import Recipe
from hn_datasets.texts import digest_of

Types: TypeAlias = Mapping[str, pa.DataType]
Check: TypeAlias = Callable[[pa.DataType], bool]

ANCHORS = ("anchor", "query", "question")
POSITIVES = ("positive", "positives", "pos", "answer", "answers", "document", "passage")
READ_ROWS = 1000
IDS = ("negative_ids",)
SCORES = ("negative_scores", "neg_scores")
TEACHERS = ("negative_teachers",)
TABLES = {"scores", "queries", "documents"}
"""The tables of the layout ``normalized``."""

_NEGATIVES = re.compile(r"(hard_?)?neg(ative)?s?(_(passage|text|doc|document)s?)?[_-]?(?P<rank>\d*)", re.IGNORECASE)


@dataclass(frozen=True)
class Roles:
    """The columns by role.

    Attributes:
        anchor: a column of strings.
        positive: a column of strings or lists of strings; with ``label``, the column of all passages.
        negatives: one column of lists of strings, or columns of strings, the first rank first; none with ``label``.
        label: a column of numbers, or of lists of numbers beside lists of passages: above 0 is a positive.
        ids: lists of int, beside lists of negatives; None if there is none, as for the following ones.
        scores: lists of float, beside lists of negatives.
        teachers: lists of names, beside lists of negatives.
        positive_score: a column of float.
        ceiling: a column of float.
        top_score: a column of float.
        guard_removals: lists of int.
    """

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()
    label: str | None = None
    ids: str | None = None
    scores: str | None = None
    positive_score: str | None = None
    ceiling: str | None = None
    top_score: str | None = None
    teachers: str | None = None
    guard_removals: str | None = None

    @property
    def columns(self) -> list[str]:
        """All columns that have a role."""
        lists = (self.label, self.ids, self.scores, self.teachers, self.guard_removals)
        optional = (*lists, self.positive_score, self.ceiling, self.top_score)
        return [self.anchor, self.positive, *self.negatives, *(name for name in optional if name is not None)]

    @property
    def mined(self) -> bool:
        """Whether the columns are the miner's own, whose statistics can be computed and whose scores fall."""
        return None not in (self.ids, self.scores, self.positive_score)

    @property
    def pairs(self) -> bool:
        """Whether a row is a single passage with its label, so that rows belong together."""
        return self.label == "label"


def find_roles(
    dataset: DatasetDict,
    *,
    anchor: str | None = None,
    positive: str | None = None,
    negatives: str | Sequence[str] | None = None,
    recipe: Recipe | None = None,
) -> Roles:
    """Return the role of each column, as given or as guessed from names and types.

    Args:
        dataset: the splits, all with the same columns.
        anchor: the column of the anchors; "anchor", "query", "question" or the first text column if None.
        positive: the column of the positives; "positive", "pos", "answer" or the next text column if None.
        negatives: the column of lists, or the columns of strings; ``negatives``, ``neg``, ``hard_negatives``,
            ``negative_1``, ... if None.
        recipe: names the columns of the anchors and the positives before anything is guessed, where they are there.

    Raises:
        ColumnError: a column is missing or of another type, or nothing looks like negatives or labels.
        TextError: there is no row.
        ArgumentError: there is no split.
    """
    types = column_types(dataset)
    chosen = _given_negatives(types, negatives) if negatives is not None else _guess_negatives(types)
    label = None if chosen else _first(types, ("label",), _is_number) or _first(types, ("labels",), _is_numbers)
    if not chosen and label is None:
        raise ColumnError(
            "Expected columns of negatives (negatives, neg, negative_1, ...) or labels (label, labels), the dataset "
            f"has {_listed(types)}; name them by negatives (--negative-column), or rename them."
        )
    left = {name: kind for name, kind in types.items() if name not in chosen}
    if recipe is not None:
        anchor = anchor or (recipe.anchor_column_name if recipe.anchor_column_name in types else None)
        positive = positive or (recipe.positive_column_name if recipe.positive_column_name in types else None)
    anchor, positive = _choose_texts(dataset, left, anchor, positive, lists=label == "labels")
    lists = len(chosen) == 1 and _is_texts(types[chosen[0]])
    return Roles(
        anchor=anchor,
        positive=positive,
        negatives=chosen,
        label=label,
        ids=_first(types, IDS, _is_list_of(pa.types.is_integer)) if lists else None,
        scores=_first(types, SCORES, _is_numbers) if lists else None,
        positive_score=_first(types, ("positive_score",), _is_number),
        ceiling=_first(types, ("ceiling",), _is_number),
        top_score=_first(types, ("top_score",), _is_number),
        teachers=_first(types, TEACHERS, _is_texts) if lists else None,
        guard_removals=_first(types, ("guard_removals",), _is_list_of(pa.types.is_integer)),
    )


def _choose_texts(
    dataset: DatasetDict, left: Types, anchor: str | None, positive: str | None, *, lists: bool
) -> tuple[str, str]:
    """Return the columns of the anchors and the positives among those that are left, which are checked.

    Args:
        dataset: all splits.
        left: the columns without the negatives.
        anchor: guessed if None.
        positive: guessed if None.
        lists: whether the positives are lists for certain.

    Raises:
        ColumnError: a column is missing or of another type, or cannot be guessed.
    """
    if anchor is None:
        anchor = _first(left, [name for name in ANCHORS if name != positive], _is_text)
    if positive is None and lists:
        positive = _first(left, list(left), _is_texts)
    elif positive is None:
        positive = _first(left, [name for name in POSITIVES if name != anchor], lambda k: _is_text(k) or _is_texts(k))
    splits = {
        name: split.select_columns([column for column in split.column_names if column in left])
        for name, split in dataset.items()
    }
    try:
        return resolve_columns(DatasetDict(splits), anchor, positive)
    except ColumnError as error:
        taken = [name for name in column_types(dataset) if name not in left]
        others = f"Negatives are taken from {', '.join(taken)}; name" if taken else "Name"
        raise ColumnError(
            f"{error} {others} columns by anchor, positive and negatives (--anchor-column, ...)."
        ) from None


def as_splits(dataset: Dataset | DatasetDict) -> DatasetDict:
    """Return the splits by name; a single dataset has the name of its own split, or "train".

    The three tables of the layout ``normalized`` become one split of labeled lists.
    """
    if not isinstance(dataset, DatasetDict):
        return DatasetDict({str(dataset.split or "train"): dataset})
    return DatasetDict({"scores": join_tables(dataset)}) if set(dataset) == TABLES else dataset


def join_tables(tables: DatasetDict) -> Dataset:
    """Return the labeled lists that the three tables of the layout ``normalized`` stand for.

    The distinct texts are held in memory. An id that no text has gives a missing text.
    """
    texts, ids = {}, {}
    for name, kind in (("queries", "query"), ("documents", "document")):
        table = tables[name].with_format("arrow")[:]
        texts[kind] = as_array(table[kind].cast(pa.large_string()))
        ids[kind] = as_array(table[f"{kind}_id"])

    def join(batch: pa.Table) -> pa.Table:
        lists = as_array(batch["document_ids"])
        offsets = pa.array([0, *count_items(lists).cumsum()], pa.int32())
        anchors = texts["query"].take(pc.index_in(batch["query_id"], ids["query"]))
        passages = texts["document"].take(pc.index_in(lists.flatten(), ids["document"])).cast(pa.string())
        labels = batch["labels"]
        columns = {"query": anchors.cast(pa.string()), "documents": pa.ListArray.from_arrays(offsets, passages)}
        return pa.table({**columns, "labels": labels})

    scores = tables["scores"]
    features = {"query": Value("string"), "documents": List(Value("string")), "labels": scores.features["labels"]}
    joined = scores.with_format("arrow").map(
        join,
        batched=True,
        batch_size=READ_ROWS,
        load_from_cache_file=False,  # map does not see a change of this code
        remove_columns=scores.column_names,
        features=Features(features),
        new_fingerprint=digest_of(*(tables[name]._fingerprint for name in sorted(TABLES))),
        desc="Joining",
    )
    return joined.with_format(None)


def column_types(dataset: DatasetDict) -> dict[str, pa.DataType]:
    """Return the type of each column, from the first split that has rows.

    Raises:
        ColumnError: another split with rows lacks one of the columns.
    """
    splits = [split for split in dataset.values() if len(split)] or list(dataset.values())
    if not splits:
        return {}
    schema = splits[0].features.arrow_schema
    for split in splits:
        if missing := [name for name in schema.names if name not in split.column_names]:
            raise ColumnError(f"Expected the same columns in all splits, one has no {', '.join(missing)}.")
    return {name: schema.field(name).type for name in schema.names}


def _given_negatives(types: Types, negatives: str | Sequence[str]) -> tuple[str, ...]:
    names = (negatives,) if isinstance(negatives, str) else tuple(negatives)
    wrong = [name for name in names if name not in types or not (_is_text(types[name]) or _is_texts(types[name]))]
    if wrong or not names or (len(names) > 1 and not all(_is_text(types[name]) for name in names)):
        raise ColumnError(
            f"Expected negatives in one column of lists of strings or in columns of strings, got "
            f"{', '.join(wrong or names) or 'none'}; the dataset has {_listed(types)}."
        )
    return names


def _guess_negatives(types: Types) -> tuple[str, ...]:
    """Return the first column of lists with a name like ``negatives``; else all such columns of strings, by number."""
    named = [(match, name) for name in types if (match := _NEGATIVES.fullmatch(name))]
    lists = [name for _, name in named if _is_texts(types[name])]
    if lists:
        return ("negatives",) if "negatives" in lists else (lists[0],)
    texts = [(int(match["rank"] or 0), name) for match, name in named if _is_text(types[name])]
    return tuple(name for _, name in sorted(texts, key=lambda entry: entry[0]))


def _first(types: Types, names: Sequence[str], fits: Check) -> str | None:
    return next((name for name in names if name in types and fits(types[name])), None)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _is_list_of(fits: Check) -> Check:
    """Return what tells lists of a kind; lists that are all empty have no kind of their own."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return lambda kind: any(of(kind) for of in lists) and (pa.types.is_null(kind.value_type) or fits(kind.value_type))


_is_texts = _is_list_of(_is_text)
_is_numbers = _is_list_of(_is_number)


def _listed(types: Types) -> str:
    columns = ", ".join(f"{name} ({str(kind)[:30]})" for name, kind in types.items())
    return f"the columns {columns}" if types else "no columns"
