"""The rows of a batch that ``map`` hands to the miner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features

from hn_datasets.columns import empty_message, read_pairs
from hn_datasets.errors import ColumnError, TextError
from hn_datasets.recipe import Recipe
from hn_datasets.teachers.base import Ids


@dataclass(frozen=True)
class Rows:
    """The rows of a batch that have an anchor and a positive.

    Attributes:
        anchors: n texts.
        own: the positives of each row.
        columns: the values of further columns that guards asked for.
        kept: shape ``[n]``, int64, their numbers within the batch.
        num_rows: of the batch.
    """

    anchors: list[str]
    own: list[list[str]]
    columns: dict[str, list[Any]]
    kept: Ids
    num_rows: int

    def blocks(self, size: int) -> Iterator[Rows]:
        """Yield runs of at most ``size`` rows."""
        for start in range(0, len(self.anchors), size):
            part = slice(start, start + size)
            columns = {name: values[part] for name, values in self.columns.items()}
            yield Rows(self.anchors[part], self.own[part], columns, self.kept[part], self.num_rows)

    def take(self, rows: Ids) -> Rows:
        """Return some of the rows."""
        numbers = rows.tolist()
        columns = {name: [values[row] for row in numbers] for name, values in self.columns.items()}
        anchors, own = [self.anchors[row] for row in numbers], [self.own[row] for row in numbers]
        return Rows(anchors, own, columns, self.kept[rows], self.num_rows)


def columns_of(batch: Any) -> Mapping[str, Any]:
    """Return the columns of a batch by name, also of an Arrow table or a data frame, as ``map`` gives by format."""
    return batch if isinstance(batch, Mapping) else pa.table(batch).to_pydict()


def answer_of(batch: Any, mined: dict[str, list[Any]], features: Features) -> Any:
    """Return what ``map`` is to get for a batch: it keeps the columns of rows by itself, but none of a table.

    Args:
        batch: columns as lists, an Arrow table or a data frame.
        mined: the added columns.
        features: their types.
    """
    if isinstance(batch, Mapping):
        return mined
    table, added = pa.table(batch), Dataset.from_dict(mined, features=features).with_format("arrow")[:]
    kept = table.drop_columns([name for name in table.column_names if name in features])
    return pa.table({**dict(zip(kept.column_names, kept.columns, strict=True)), **{n: added[n] for n in features}})


def check_batched(columns: Iterable[Any]) -> None:
    """Refuse the one row that ``map`` hands out without ``batched=True``.

    Raises:
        ColumnError: a column is one text.
    """
    if any(isinstance(column, str) for column in columns):
        raise ColumnError("Expected a batch of rows, got one row; call map(..., batched=True).")


def read_rows(batch: Any, recipe: Recipe, further: Sequence[str]) -> Rows:
    """Return the rows that have an anchor and a positive.

    Args:
        batch: columns as lists, an Arrow table or a data frame.
        recipe: names the columns of anchors and positives.
        further: other columns to take along.

    Raises:
        ColumnError: a column is missing or holds no text, or the batch is one row.
        TextError: a text is None, empty or white space, and ``on_empty`` is "error".
    """
    batch = columns_of(batch)
    names = (recipe.anchor_column_name, recipe.positive_column_name)
    arguments = dict(zip(names, ("anchor_column_name", "positive_column_name"), strict=True))
    for name in (*names, *further):
        if name not in batch:
            do = f"name it by {arguments[name]}=..." if name in arguments else "a guard needs it"
            raise ColumnError(f"Expected a column {name!r}, the batch has {', '.join(batch) or 'none'}; {do}.")
    check_batched(batch[name] for name in names)
    try:
        anchors, positives = (pa.chunked_array([pa.array(list(batch[name]))]) for name in names)
        pairs, empty = read_pairs(_as_text(anchors), _as_text(positives))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ColumnError(
            f"Expected strings in column {names[0]!r} and strings or lists of strings in {names[1]!r}, got others "
            f"({error})."
        ) from error
    if len(empty) and recipe.on_empty == "error":
        raise TextError(empty_message(f"columns {names[0]!r} and {names[1]!r} of every row", empty.tolist()))
    own: list[list[str]] = [[] for _ in range(len(pairs.anchors))]
    for row, text in zip(pairs.rows.tolist(), pairs.positives.to_pylist(), strict=True):
        own[row].append(text)
    kept = np.setdiff1d(np.arange(len(anchors)), empty)
    values = {name: list(batch[name]) for name in further}
    columns = {name: [column[row] for row in kept.tolist()] for name, column in values.items()}
    return Rows(pairs.anchors.to_pylist(), own, columns, kept, len(anchors))


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give a column of nothing but None, or of empty lists, its type."""
    if pa.types.is_null(column.type):
        return column.cast(pa.large_string())
    if pa.types.is_list(column.type) and pa.types.is_null(column.type.value_type):
        return column.cast(pa.list_(pa.large_string()))
    return column
