"""The mined columns as the tables that trainers read.

Names and shapes are those of ``sentence_transformers.util.mine_hard_negatives`` 6.2.0. Its trainer takes ``label``,
``labels``, ``score`` and ``scores`` as the label and every other column as an input, by order, so a trainable format
holds the anchor, the positive, the negatives and the label or scores, in that order, and nothing else.

All of it runs on Arrow arrays, batch by batch: lists are laid flat, rows are repeated by index, texts are taken.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features

from hn_datasets.batches import (
    LABEL_COLUMNS,
    MINED_COLUMNS,
    OPTIONAL_COLUMNS,
    OUTPUT_FORMATS,
    SHORTAGES,
    TRAINABLE_FORMATS,
    Ints,
    Layout,
    OutputFormat,
    Shortage,
    check_columns,
    count_items,
    find_skipped,
)
from hn_datasets.columns import resolve_columns, splits_of
from hn_datasets.errors import ArgumentError, ColumnError, ShortRowsWarning
from hn_datasets.filling import build_pool
from hn_datasets.layouts import format_batch
from hn_datasets.normalizing import normalize_tables
from hn_datasets.statistics import MiningStatistics

_ROWS = 10_000  # read at once where only numbers are computed


def format_dataset(
    mined: Dataset | DatasetDict,
    output_format: OutputFormat,
    *,
    anchor_column_name: str | None = None,
    positive_column_name: str | None = None,
    num_negatives: int | None = None,
    output_scores: bool = False,
    shortage: Shortage | None = None,
    seed: int = 0,
) -> Dataset | DatasetDict:
    """Return a mined dataset in another format.

    A row whose positive column holds a list becomes one row per positive, in ``labeled-list`` one row with all
    positives first. Rows that were skipped as empty when mined stand in ``scored`` alone.

    Args:
        mined: a dataset with the miner's columns, or several splits of them; every split is formatted.
        output_format: one of the trainable formats
            ``triplet``: anchor, positive, ``negative``; one row for each negative;
            ``n-tuple``: anchor, positive, ``negative_1`` to ``negative_n``;
            ``labeled-pair``: anchor, passage (in the positive column), ``label`` 1 or 0; positives first;
            ``labeled-list``: anchor, list of passages (in the positive column), ``labels``; rows without any
            negative are left out;
            or ``scored``: anchor, positive and all mined columns, lists kept;
            or ``normalized``: three tables, ``queries`` (``query_id``, ``query``), ``documents`` (``document_id``,
            ``document``) and ``scores`` (``query_id``, ``document_ids``, ``scores``, ``labels``; one row for each
            mined row that was not skipped, positives first, each with the row's ``positive_score``); every distinct
            text stands once, and ``sentence_transformers.util.resolve_ids`` joins them. A DatasetDict has one set of
            texts for all splits, and ``scores`` a last column ``split``. The tables are held in memory.
        anchor_column_name: a string column; default: the first one that is not a mined column.
        positive_column_name: a column of strings or lists of strings; default: the first other one.
        num_negatives: at least 1, negatives to keep of each row, the best first; default: those of the longest row.
        output_scores: add ``scores`` [positive, negatives...] to ``triplet`` and ``n-tuple``, or put ``score`` or
            ``scores`` (float32) in the place of the labels. ``scored`` and ``normalized`` always have them.
        shortage: what becomes of rows with fewer than ``num_negatives``: ``keep`` them as they are (default), ``drop``
            them (default of ``n-tuple``), or ``fill`` them with passages drawn uniformly from the distinct positives
            of all splits, never one that ``normalise`` makes equal to the anchor, to a positive of the anchor
            anywhere in ``mined`` or to another negative of the row. A drawn passage has id -1 and score NaN in
            ``scored`` (score NaN in ``normalized``); a trainable format has no place for such a mark.
        seed: decides, with the anchor's text, which passages are drawn; neither row order nor batches do.

    Returns:
        A Dataset, or a DatasetDict with the same splits; for ``normalized`` a DatasetDict of the three tables.

    Raises:
        ArgumentError: an argument is unknown or out of range, or two contradict each other: ``n-tuple`` with ``keep``,
            ``fill`` with ``output_scores``, in one call or two, ``output_scores`` with several positives in one row;
            or ``fill`` finds too few passages.
        ColumnError: a mined column is missing, or a text column is missing, of another type, or named like a
            column that the format makes; or ``scored`` or ``normalized`` gets strings as the positives of one split
            and lists as those of another.
    """
    shortage = shortage or ("drop" if output_format == "n-tuple" else "keep")
    _check_choices(output_format, shortage, output_scores, num_negatives)
    splits = _mined_splits(mined)
    anchor, positive = _text_columns(splits, anchor_column_name, positive_column_name, output_format)
    tally = _tally(splits.values(), positive if output_scores and output_format in TRAINABLE_FORMATS else None)
    num_negatives = _choose_num_negatives(num_negatives, tally, shortage)
    if message := _report(tally, num_negatives, output_format, shortage):
        warnings.warn(message, ShortRowsWarning, stacklevel=2)
    filling = shortage == "fill" and tally.num_short(num_negatives) > 0
    layout = Layout(
        output_format=output_format,
        anchor=anchor,
        positive=positive,
        num_negatives=num_negatives,
        output_scores=output_scores,
        drop=shortage == "drop",
        pool=build_pool(mined, anchor, positive) if filling else (),
        seed=seed if filling else 0,
    )
    features = _features(next(iter(_with_rows(splits).values())), layout)
    results = DatasetDict({name: _format_split(split, layout, features) for name, split in splits.items()})
    if output_format == "normalized":
        return normalize_tables(results, layout, with_splits=isinstance(mined, DatasetDict))
    return results if isinstance(mined, DatasetDict) else results[""]


def format_shard(
    shard: Dataset, output_format: OutputFormat, *, anchor: str, positive: str, num_negatives: int
) -> Dataset:
    """Return one part of a mined dataset as ``format_dataset`` does with the whole and its defaults.

    Args:
        shard: some of the rows.
        output_format: any but ``normalized``, whose tables are those of the whole.
        anchor: the anchor column.
        positive: the positive column.
        num_negatives: of the longest row of the whole.

    Raises:
        ColumnError: a column is missing, of another type, or named like one that the format makes.
    """
    check_columns(shard.column_names, MINED_COLUMNS)
    anchor, positive = _text_columns({"": shard}, anchor, positive, output_format)
    drop = output_format == "n-tuple"
    layout = Layout(output_format, anchor, positive, num_negatives, output_scores=False, drop=drop, pool=(), seed=0)
    return _format_split(shard, layout, _features(shard, layout))


def describe_shortage(statistics: MiningStatistics, output_format: OutputFormat, num_negatives: int) -> str:
    """Return what becomes of short and skipped rows in a format with its defaults; nothing where there are none."""
    tally = _Tally(statistics.skipped_rows, np.array(statistics.negatives_per_row, dtype=np.int64))
    return _report(tally, num_negatives, output_format, "drop" if output_format == "n-tuple" else "keep")


@dataclass(frozen=True)
class _Tally:
    """What is known before the work starts.

    Attributes:
        skipped: rows skipped as empty.
        lengths: entry k is the number of other rows with k negatives, int64.
    """

    skipped: int
    lengths: Ints

    @property
    def rows(self) -> int:
        return self.skipped + int(self.lengths.sum())

    @property
    def longest(self) -> int:
        return max(0, len(self.lengths) - 1)

    def num_short(self, num_negatives: int) -> int:
        return int(self.lengths[:num_negatives].sum())


def _check_choices(output_format: str, shortage: str, output_scores: bool, num_negatives: int | None) -> None:
    if output_format not in OUTPUT_FORMATS:
        raise ArgumentError(f"Unknown output_format {output_format!r}; choose one of {', '.join(OUTPUT_FORMATS)}.")
    if shortage not in SHORTAGES:
        raise ArgumentError(f"Unknown shortage {shortage!r}; choose one of {', '.join(SHORTAGES)}.")
    if output_format == "n-tuple" and shortage == "keep":
        raise ArgumentError(
            "Expected n-tuple rows of one length, got shortage='keep'; use shortage='drop' or shortage='fill'."
        )
    if shortage == "fill" and output_scores:
        raise ArgumentError(
            "Expected a score for every negative, got shortage='fill', whose random passages have none; use "
            "shortage='drop' or output_scores=False."
        )
    if num_negatives is not None and num_negatives < 1:
        raise ArgumentError(f"Expected num_negatives >= 1, got {num_negatives}; leave it out to keep all.")


def _mined_splits(mined: Dataset | DatasetDict) -> dict[str, Dataset]:
    splits = {name: split for name, split in splits_of(mined).items() if isinstance(split, Dataset)}
    if len(splits) < len(splits_of(mined)):
        raise ArgumentError(
            f"Expected a Dataset or DatasetDict, got {type(mined).__name__}; write its rows to a Dataset first."
        )
    for split in splits.values():
        check_columns(split.column_names, MINED_COLUMNS)
    return splits


def _with_rows(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    """Return the splits that have rows, or all if none has: columns without rows often have no type."""
    return {name: split for name, split in splits.items() if len(split)} or splits


def _text_columns(
    splits: dict[str, Dataset], anchor: str | None, positive: str | None, output_format: str
) -> tuple[str, str]:
    """Return the names of the anchor column and the positive column, which are not among the mined columns."""
    mined = {*MINED_COLUMNS, *OPTIONAL_COLUMNS}
    own = DatasetDict()
    for name, split in _with_rows(splits).items():
        # Without any rows, one of None stands for them: only types are looked at.
        rows = split if len(split) else Dataset.from_dict({c: [None] for c in split.features}, features=split.features)
        own[name] = rows.remove_columns([*mined.intersection(split.column_names)])
    names = resolve_columns(own, anchor, positive)
    for name in names if output_format in TRAINABLE_FORMATS else ():
        if name in LABEL_COLUMNS or name == "negative" or name.startswith("negative_"):
            raise ColumnError(
                f"Expected another name than {name!r}, which the format or the trainer uses itself; rename it by "
                "rename_column."
            )
    if output_format not in TRAINABLE_FORMATS:
        _check_even(_with_rows(splits), names[1], output_format)
    return names


def _check_even(splits: dict[str, Dataset], positive: str, output_format: str) -> None:
    """Check that the positives of all splits are strings or those of all are lists, as in one table."""
    types = {name: split.features.arrow_schema.field(positive).type for name, split in splits.items()}
    lists = [name for name, kind in types.items() if pa.types.is_nested(kind)]
    strings = [name for name in types if name not in lists]
    if strings and lists:
        raise ColumnError(
            f"Expected one type of {positive!r} in all splits for {output_format!r}, got strings in {strings[0]!r} and "
            f"lists in {lists[0]!r}; make lists of the strings: map(lambda row: {{{positive!r}: [row[{positive!r}]]}})."
        )


def _tally(splits: Iterable[Dataset], positive: str | None) -> _Tally:
    """Count rows by their number of negatives; where a ``positive`` column is named, refuse rows with several."""
    skipped, lengths = 0, np.zeros(0, dtype=np.int64)
    columns = ["negative_ids", "positive_score", *([positive] if positive else [])]
    for split in splits:
        for table in split.select_columns(columns).with_format("arrow").iter(_ROWS):
            counts = count_items(table["negative_ids"])
            empty = find_skipped(np.asarray(table["positive_score"], dtype=np.float32), counts)
            skipped += int(empty.sum())
            found = np.bincount(counts[~empty], minlength=len(lengths))
            found[: len(lengths)] += lengths
            lengths = found
            if positive and _has_several(table[positive]):
                raise ArgumentError(
                    "Expected one positive in each row with output_scores, got several, of which only the lowest score "
                    "is recorded; explode the positives into rows before mining."
                )
    return _Tally(skipped, lengths)


def _has_several(positives: pa.ChunkedArray) -> bool:
    return pa.types.is_nested(positives.type) and bool(count_items(positives).max(initial=0) > 1)


def _choose_num_negatives(num_negatives: int | None, tally: _Tally, shortage: str) -> int:
    if num_negatives is None:
        return max(1, tally.longest)
    if num_negatives > tally.longest and shortage != "fill" and tally.rows:
        raise ArgumentError(
            f"Expected num_negatives of at most {tally.longest}, which the longest row has, got {num_negatives}; "
            "lower it, mine more, or use shortage='fill'."
        )
    return num_negatives


def _report(tally: _Tally, num_negatives: int, output_format: str, shortage: str) -> str:
    """Return what becomes of short and skipped rows, in sentences; nothing where there are none."""
    done = {"keep": "kept with what they have", "drop": "dropped", "fill": "filled with random passages"}[shortage]
    short, bare = tally.num_short(num_negatives), tally.num_short(1)
    sentences = []
    if short:
        sentences.append(f"{short:,} of {tally.rows:,} rows have fewer than {num_negatives} negatives: {done}.")
    if bare and shortage == "keep" and output_format in ("triplet", "labeled-list"):
        sentences.append(f"Rows without any negative, which give no training row: {bare:,}.")
    if tally.skipped:
        gone = shortage == "drop" or output_format != "scored"
        fate = "left out" if gone else "kept without negatives"
        sentences.append(f"{tally.skipped:,} of {tally.rows:,} rows were skipped as empty when mined: {fate}.")
    return " ".join(sentences)


def _features(split: Dataset, layout: Layout) -> Features:
    """Return the features of the result, which are those that an empty batch gets."""
    return Features.from_arrow_schema(format_batch(split.features.arrow_schema.empty_table(), layout).schema)


def _format_split(split: Dataset, layout: Layout, features: Features) -> Dataset:
    if not len(split):
        return Dataset.from_dict({name: [] for name in features}, features=features)
    formatted = split.with_format("arrow").map(
        functools.partial(format_batch, layout=layout),
        batched=True,
        remove_columns=split.column_names,
        features=features,
        desc=f"Formatting as {layout.output_format}",
    )
    return formatted.with_format(None)
