"""Reading the numeric columns of mined data, and the names of an ensemble's teachers; texts are never read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, IterableDataset

from hn_datasets.batches import check_columns, count_items
from hn_datasets.errors import ColumnError

Chunk: TypeAlias = Mapping[str, Any] | pa.Table
"""Some rows: arrays or lists under the column names ``positive_score``, ``negative_scores``, maybe ``top_score`` and
``negative_teachers``, ``guard_removals``."""

MinedColumns: TypeAlias = Dataset | DatasetDict | IterableDataset | Chunk | Iterable[Chunk]

COLUMNS = ("positive_score", "negative_scores", "top_score", "negative_teachers", "guard_removals")
"""The columns that are read, of which the first two have to be there."""

READ_ROWS = 10_000


@dataclass(frozen=True)
class ScoreColumns:
    """The numeric columns of n rows with m negatives.

    Attributes:
        positive_scores: shape ``[n]``, float32.
        counts: shape ``[n]``, int64, negatives of each row.
        negative_scores: shape ``[m]``, float32, row after row.
        top_scores: shape ``[n]``, float32; None where a chunk has none.
        teachers: how many negatives each teacher of an ensemble gave.
        guard_removals: sums over the rows, one for each guard; empty where a chunk has none.
    """

    positive_scores: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    negative_scores: npt.NDArray[np.float32]
    top_scores: npt.NDArray[np.float32] | None
    teachers: Counter[str]
    guard_removals: tuple[int, ...]

    @classmethod
    def collect(cls, mined: MinedColumns) -> ScoreColumns:
        """Return the columns of all rows.

        Raises:
            ColumnError: ``positive_score`` or ``negative_scores`` is missing, maybe from a split without rows.
        """
        positives, counts, negatives, tops = [], [], [], []
        complete, teachers = True, Counter[str]()
        guarded, removals = True, np.zeros(0, dtype=np.int64)
        for chunk in _chunks(mined):
            names = chunk.column_names if isinstance(chunk, pa.Table) else list(chunk)
            check_columns(names, ("positive_score", "negative_scores"))
            lists = _as_lists(chunk["negative_scores"])
            positives.append(_as_floats(chunk["positive_score"]))
            counts.append(count_items(lists))
            negatives.append(_as_floats(lists.flatten()))
            complete = complete and "top_score" in names
            tops.append(_as_floats(chunk["top_score"] if complete else []))
            if "negative_teachers" in names:
                teachers.update(count_names(_as_lists(chunk["negative_teachers"], pa.string())))
            guarded = guarded and "guard_removals" in names
            removals = _add_lists(removals, chunk["guard_removals"]) if guarded else removals
        none = np.zeros(0, dtype=np.float32)
        return cls(
            np.concatenate([none, *positives]),
            np.concatenate([none.astype(np.int64), *counts]),
            np.concatenate([none, *negatives]),
            np.concatenate([none, *tops]) if complete else None,
            teachers,
            tuple(removals.tolist()) if guarded else (),
        )

    def differences(self) -> npt.NDArray[np.float64]:
        """Return each row's positive score minus the score of each of its negatives, shape ``[m]``, float64."""
        differences = np.repeat(self.positive_scores.astype(np.float64), self.counts)
        differences -= self.negative_scores
        return differences

    def positive_not_best(self, rows: npt.NDArray[np.bool_]) -> int | None:
        """Return in how many of ``rows`` another passage scores higher; a missing top score (NaN) is not higher."""
        if self.top_scores is None:
            return None
        return int((self.top_scores > self.positive_scores)[rows].sum())


def _chunks(mined: MinedColumns) -> Iterator[Chunk]:
    if isinstance(mined, DatasetDict):
        _check_rows(mined)
        yield from chain.from_iterable(map(_chunks, mined.values()))
    elif isinstance(mined, Dataset):
        names = [name for name in COLUMNS if name in mined.column_names]
        check_columns(names, COLUMNS[:2])
        yield from mined.select_columns(names).with_format("arrow").iter(READ_ROWS)
    elif isinstance(mined, IterableDataset):
        yield from mined.iter(READ_ROWS)
    elif isinstance(mined, (Mapping, pa.Table)):
        yield mined
    else:
        yield from mined


def _check_rows(mined: DatasetDict) -> None:
    """Check that no split is without the mined columns because ``map`` had no row to add them to."""
    for name, split in mined.items():
        if not len(split) and not {"positive_score", "negative_scores"}.issubset(split.column_names):
            raise ColumnError(
                f"Expected rows in every split, got none in {name!r}, to which map adds no columns; leave the split "
                f"out: mined.pop({name!r})."
            )


def count_names(lists: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    """Return how often each name stands in a column of lists; null, which filled negatives have, is no name."""
    counts = pc.value_counts(pc.list_flatten(lists)).to_pylist()
    return {entry["values"]: entry["counts"] for entry in counts if entry["values"] is not None}


def _as_lists(values: Any, kind: pa.DataType | None = None) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pa.array(list(values), type=pa.list_(kind or pa.float32()))


def _add_lists(sums: npt.NDArray[np.int64], values: Any) -> npt.NDArray[np.int64]:
    """Return the sums of what stands at each place of lists, added to those so far."""
    lists = _as_lists(values, pa.int64())
    counts = count_items(lists)
    places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    added = np.zeros(max(len(sums), int(counts.max(initial=0))), dtype=np.int64)
    added[: len(sums)] = sums
    np.add.at(added, places, np.asarray(lists.flatten().fill_null(0)).astype(np.int64))
    return added


def _as_floats(values: Any) -> npt.NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)
