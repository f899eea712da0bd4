"""Rows of a mined dataset in any layout, laid flat, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import DatasetDict

from hn_datasets.batches import count_items, find_skipped
from hn_datasets.errors import ColumnError
from hn_datasets.filling import FILLED_ID
from hn_datasets.inspection.roles import Roles
from hn_datasets.progress import progress_bar

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

READ_ROWS = 1000
"""Rows read at once: quicker by more would be little, and their texts are held in memory."""
UNKNOWN_ID = -2
"""Stands for a null among the ids: unlike -1 it is no mark of a filled negative."""


@dataclass(frozen=True)
class Numbers:
    """The columns of n rows with m negatives that are no texts.

    Attributes:
        positive_rows: shape ``[p]``, int64, never falling: the row of each positive.
        negative_rows: shape ``[m]``, int64, never falling: the row of each negative.
        uneven: shape ``[n]``: the lists of a row have different lengths. Its ids and scores then count as filled.
        ids: shape ``[m]``, int64; None where there is no such column, as for the following ones.
        scores: shape ``[m]``, float32.
        positive_scores: shape ``[n]``, float32.
        ceilings: shape ``[n]``, float64.
        top_scores: shape ``[n]``, float32.
        removal_rows: shape ``[r]``, int64, never falling: the row of each count of passages that a guard took out.
        removals: shape ``[r]``, int64; -1 for null.
    """

    positive_rows: Ints
    negative_rows: Ints
    uneven: Flags
    ids: Ints | None
    scores: Floats | None
    positive_scores: Floats | None
    ceilings: npt.NDArray[np.float64] | None
    top_scores: Floats | None
    removal_rows: Ints | None
    removals: Ints | None

    @property
    def counts(self) -> Ints:
        """Negatives of each row, shape ``[n]``, int64."""
        return np.bincount(self.negative_rows, minlength=len(self.uneven)).astype(np.int64)

    @property
    def filled(self) -> Flags:
        """Which negatives are marked as drawn at random, shape ``[m]``: id -1, and no score where there are scores."""
        if self.ids is None:
            return np.zeros(len(self.negative_rows), dtype=bool)
        marked: Flags = self.ids == FILLED_ID
        if self.scores is not None:
            marked &= np.isnan(self.scores)
        return marked

    @property
    def skipped(self) -> Flags:
        """Which rows the miner skipped as empty, shape ``[n]``."""
        if self.positive_scores is None:
            return np.zeros(len(self.uneven), dtype=bool)
        return find_skipped(self.positive_scores, self.counts)


@dataclass(frozen=True)
class Block:
    """Some rows: the anchors (n strings), positives (p strings) and negatives (m strings) laid flat, and the rest.

    Attributes:
        teachers: n lists of names, those of the teachers of the negatives; None where there is no such column.
    """

    anchors: pa.Array
    positives: pa.Array
    negatives: pa.Array
    numbers: Numbers
    teachers: pa.Array | None = None


def iter_blocks(splits: DatasetDict, roles: Roles) -> Iterator[Block]:
    """Read all splits a block of rows at a time."""
    with progress_bar(total=sum(map(len, splits.values())), desc="Reading", unit="row") as progress:
        for split in splits.values():
            if len(split):
                for table in split.select_columns(roles.columns).with_format("arrow").iter(READ_ROWS):
                    yield read_block(table, roles)
                    progress.update(len(table))


def read_block(table: pa.Table, roles: Roles) -> Block:
    """Lay the texts of some rows flat; a null text counts as empty, but a null among columns of strings as no negative.

    Raises:
        ColumnError: a row's lists of passages and of labels have different lengths.
    """
    anchors = _array(table[roles.anchor])
    if roles.label is not None:
        positive_rows, positives, negative_rows, negatives = _read_labeled(table, roles)
    else:
        positive_rows, positives = _lay_flat(_array(table[roles.positive]))
        negative_rows, negatives = _read_negatives([_array(table[name]) for name in roles.negatives])
    counts = np.bincount(negative_rows, minlength=len(table))
    uneven = np.zeros(len(table), dtype=bool)
    ids = _align(table, roles.ids, counts, uneven, pa.scalar(UNKNOWN_ID, pa.int64()), FILLED_ID)
    scores = _align(table, roles.scores, counts, uneven, pa.scalar(np.nan, pa.float32()), np.nan)
    teachers = _array(table[roles.teachers]) if roles.teachers is not None else None
    if teachers is not None:
        uneven |= count_items(teachers) != counts
    removal_rows, removals = _read_removals(table, roles.guard_removals)
    numbers = Numbers(
        positive_rows=positive_rows,
        negative_rows=negative_rows,
        uneven=uneven,
        ids=ids,
        scores=scores,
        positive_scores=_read_floats(table, roles.positive_score, pa.float32()),
        ceilings=_read_floats(table, roles.ceiling, pa.float64()),
        top_scores=_read_floats(table, roles.top_score, pa.float32()),
        removal_rows=removal_rows,
        removals=removals,
    )
    return Block(anchors, positives, negatives, numbers, teachers)


def as_strings(texts: pa.Array) -> list[str]:
    """Return texts as Python strings, "" for null."""
    return [text if text is not None else "" for text in texts.to_pylist()]


def _read_labeled(table: pa.Table, roles: Roles) -> tuple[Ints, pa.Array, Ints, pa.Array]:
    """Return rows and texts of the passages labeled above 0, and of the others."""
    rows, passages = _lay_flat(_array(table[roles.positive]))
    label_rows, labels = _lay_flat(_array(table[roles.label]))
    if not np.array_equal(rows, label_rows):
        raise ColumnError(
            f"Expected one label for each passage in columns {roles.positive!r} and {roles.label!r}, got lists of "
            "different lengths."
        )
    positive = np.asarray(labels.cast(pa.float64()).fill_null(0.0)) > 0
    return rows[positive], passages.filter(pa.array(positive)), rows[~positive], passages.filter(pa.array(~positive))


def _read_negatives(columns: list[pa.Array]) -> tuple[Ints, pa.Array]:
    """Return row and text of each negative: of one column of lists, or of columns of strings, row after row."""
    if len(columns) == 1 and pa.types.is_nested(columns[0].type):
        return _lay_flat(columns[0])
    width, height = len(columns), len(columns[0])
    texts = pa.concat_arrays([column.cast(pa.large_string()) for column in columns])
    order = np.arange(width * height).reshape(width, height).T.ravel()
    rows = np.repeat(np.arange(height), width)
    texts = texts.take(pa.array(order))
    there = np.asarray(texts.is_valid())
    return rows[there], texts.filter(pa.array(there))


def _lay_flat(column: pa.Array) -> tuple[Ints, pa.Array]:
    """Return row and value of each item of a column of lists, or of each value."""
    if not pa.types.is_nested(column.type):
        return np.arange(len(column)), column
    counts = count_items(column)
    return np.repeat(np.arange(len(column)), counts), column.flatten()


def _align(
    table: pa.Table, name: str | None, counts: Ints, uneven: Flags, null: pa.Scalar, filler: float
) -> npt.NDArray[Any] | None:
    """Return a column of lists laid flat beside the negatives, ``filler`` in rows of another length, marked uneven."""
    if name is None:
        return None
    rows, values = _lay_flat(_array(table[name]))
    own = np.bincount(rows, minlength=len(counts))
    even = own == counts
    uneven |= ~even
    flat = np.asarray(values.cast(null.type).fill_null(null))
    aligned = np.full(counts.sum(), filler, dtype=flat.dtype)
    aligned[np.repeat(even, counts)] = flat[np.repeat(even, own)]
    return aligned


def _read_floats(table: pa.Table, name: str | None, kind: pa.DataType) -> npt.NDArray[Any] | None:
    """Return a column of numbers, NaN for null; None where there is no such column."""
    return None if name is None else np.asarray(_array(table[name]).cast(kind).fill_null(np.nan))


def _read_removals(table: pa.Table, name: str | None) -> tuple[Ints, Ints] | tuple[None, None]:
    """Return row and value of each item of a column of lists of int; None where there is no such column."""
    if name is None:
        return None, None
    rows, values = _lay_flat(_array(table[name]))
    return rows, np.asarray(values.cast(pa.int64()).fill_null(-1))


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
