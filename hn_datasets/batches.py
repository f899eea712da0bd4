"""Batches of mined rows with their passages laid flat, and the choices that shape them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hn_datasets.errors import ColumnError
from hn_datasets.texts import Ragged, is_empty

OutputFormat = Literal["triplet", "n-tuple", "labeled-pair", "labeled-list", "scored", "normalized"]
Shortage = Literal["keep", "drop", "fill"]
Ints = npt.NDArray[np.int64]

FORMATS_VERSION = 2
"""Raise it with every change of results: the ``map`` cache knows the arguments, but not the code."""
OUTPUT_FORMATS: tuple[str, ...] = get_args(OutputFormat)
TRAINABLE_FORMATS = OUTPUT_FORMATS[:4]
SHORTAGES: tuple[str, ...] = get_args(Shortage)
MINED_COLUMNS = ("negatives", "negative_ids", "negative_scores", "positive_score")
OPTIONAL_COLUMNS = ("ceiling", "top_score", "guard_removals", "negative_teachers", "relabel_candidates")

LABEL_COLUMNS = ("label", "labels", "score", "scores")
"""The columns that the sentence-transformers trainer reads as the label."""


@dataclass(frozen=True)
class Layout:
    """All that decides the result of one batch, in plain values that every process hashes to the same fingerprint.

    Attributes:
        drop: leave out rows with fewer than ``num_negatives``.
        pool: the two files that ``build_pool`` made; empty where nothing is filled.
    """

    output_format: str
    anchor: str
    positive: str
    num_negatives: int
    output_scores: bool
    drop: bool
    pool: tuple[str, ...]
    seed: int
    version: int = FORMATS_VERSION


def check_columns(columns: Iterable[str], needed: Iterable[str]) -> None:
    """Check that a dataset has the mined columns ``needed``.

    Raises:
        ColumnError: columns are missing; the message names them.
    """
    missing = [name for name in needed if name not in set(columns)]
    if missing:
        raise ColumnError(f"Expected a mined dataset, but it has no column {', '.join(missing)}; mine it first.")


def count_items(lists: pa.ChunkedArray) -> Ints:
    """Return the length of every list of a column, shape ``[n]``, int64; 0 where the list is null."""
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)


def find_skipped(positive_scores: npt.NDArray[np.float32], counts: Ints) -> npt.NDArray[np.bool_]:
    """Return where the miner skipped a row as empty: no positive score (NaN) and no negatives (shape ``[n]``)."""
    skipped: npt.NDArray[np.bool_] = np.isnan(positive_scores) & (counts == 0)
    return skipped


@dataclass(frozen=True)
class Batch:
    """The chosen rows of a batch, and their passages laid flat.

    Attributes:
        table: n rows of the mined dataset.
        positives: columns ``row`` (int64, below n, rising), ``text``, ``score`` (float32) and ``label`` 1.
        negatives: the same with ``label`` 0, and ``id``, and ``teacher`` of an ensemble; at most ``num_negatives`` for
            a row, the best first.
    """

    table: pa.Table
    positives: pa.Table
    negatives: pa.Table

    def anchors(self, name: str) -> pa.Array:
        """Return the anchors of the chosen rows, ``name`` being their column."""
        return as_array(self.table[name]).cast(pa.string())

    def places(self, passages: pa.Table) -> Ragged:
        """Return, for each row of the batch, where its passages stand in ``passages``."""
        counts = np.bincount(np.asarray(passages["row"]), minlength=len(self.table))
        return Ragged(np.concatenate([[0], np.cumsum(counts)]), np.arange(len(passages)))


def lay_flat(rows: Ints, texts: pa.Array, scores: npt.NDArray[np.float32] | pa.Array, label: int) -> pa.Table:
    """Return passages as a table with the columns ``row``, ``text``, ``score`` and ``label``."""
    labels = np.full(len(rows), label)
    return pa.table({"row": rows, "text": texts, "score": pa.array(scores, pa.float32()), "label": labels})


def positives_of(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """Return the row and the text of every positive that is not empty."""
    texts, rows = as_array(column), np.arange(len(column))
    if pa.types.is_nested(texts.type):
        texts, rows = texts.flatten(), np.repeat(rows, count_items(column))
    texts, full = texts.cast(pa.string()), ~is_empty(texts)
    return (rows, texts) if full.all() else (rows[full], texts.filter(pa.array(full)))


def negatives_of(table: pa.Table, num_negatives: int) -> pa.Table:
    """Return the first ``num_negatives`` negatives of every row, laid flat."""
    counts = count_items(table["negatives"])
    texts, ids, scores = (as_array(table[name]).flatten() for name in ("negatives", "negative_ids", "negative_scores"))
    flat = lay_flat(np.repeat(np.arange(len(table)), counts), texts.cast(pa.string()), scores, 0).append_column(
        "id", ids
    )
    if "negative_teachers" in table.column_names:
        flat = flat.append_column("teacher", as_array(table["negative_teachers"]).flatten().cast(pa.string()))
    ranks = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    return flat if counts.max(initial=0) <= num_negatives else flat.filter(pa.array(ranks < num_negatives))


def merge_passages(first: pa.Table, second: pa.Table) -> pa.Table:
    """Return the passages of two tables row by row, those of ``first`` before those of ``second``."""
    both = pa.concat_tables([first, second], promote_options="default").combine_chunks()
    return both.take(pa.array(np.argsort(np.asarray(both["row"]), kind="stable")))


def as_lists(batch: Batch, passages: pa.Table, name: str) -> pa.Array:
    """Return one column of ``passages`` as one list for each row of the batch."""
    offsets = batch.places(passages).offsets
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), as_array(passages[name]))


def rows_as_lists(values: npt.NDArray[np.float32]) -> pa.Array:
    """Return the rows of a matrix as lists."""
    rows, width = values.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * width, pa.int32()), pa.array(values.ravel()))


def as_array(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, without a copy where it is in one piece."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
