"""Random passages for rows that are short: ``format_dataset(..., shortage="fill")``, and rows without them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from hn_datasets.batches import (
    Batch,
    Layout,
    as_array,
    check_columns,
    count_items,
    lay_flat,
    merge_passages,
)
from hn_datasets.columns import iter_pairs
from hn_datasets.errors import ArgumentError
from hn_datasets.files import cache_directory
from hn_datasets.score_columns import COLUMNS, READ_ROWS
from hn_datasets.texts import AnchorPositives, Corpus, digest_of, digest_texts, normalise

FILLED_ID = -1
"""The ``negative_ids`` value of a random passage that ``shortage="fill"`` added."""


def build_pool(mined: Dataset | DatasetDict, anchor: str, positive: str) -> tuple[str, str]:
    """Write all distinct positives, and which of them each anchor has; return the two files.

    Anchors that ``normalise`` makes equal share their positives.
    """
    directory = cache_directory() / "formats"
    corpus = Corpus.build(
        (pc.unique(pairs.positives) for pairs in iter_pairs(mined, anchor, positive, "skip")), directory
    )
    keys, ids = [], []
    for pairs in iter_pairs(mined, anchor, positive, "skip"):
        keys.append(digest_texts(pairs.anchors.to_pylist(), normalise)[pairs.rows])
        ids.append(corpus.ids(pairs.positives.to_pylist()))
    own = AnchorPositives.build(np.concatenate(keys), np.concatenate(ids), directory)
    return str(corpus.path), str(own.path)


@functools.lru_cache(maxsize=1)
def _open_pool(corpus: str, own: str) -> tuple[Corpus, AnchorPositives]:
    return Corpus(Path(corpus)), AnchorPositives(Path(own))


def fill(batch: Batch, skipped: npt.NDArray[np.bool_], layout: Layout) -> pa.Table:
    """Return the negatives with random passages after them in every row that is short and was not skipped."""
    corpus, own = _open_pool(*layout.pool)
    places = batch.places(batch.negatives)
    missing = np.where(skipped, 0, layout.num_negatives - places.counts)
    short = np.flatnonzero(missing)
    anchors = batch.anchors(layout.anchor).take(pa.array(short)).to_pylist()
    positives = own.of([normalise(anchor) for anchor in anchors])
    drawn: list[str] = []
    for place, (row, anchor) in enumerate(zip(short.tolist(), anchors, strict=True)):
        negatives = batch.negatives["text"].take(pa.array(places[row])).to_pylist()
        taken = [anchor, *corpus.texts(positives[place]), *negatives]
        drawn += _draw(corpus, anchor, taken, missing[row], layout.seed)
    unknown = np.full(len(drawn), np.nan, dtype=np.float32)
    filled = lay_flat(np.repeat(short, missing[short]), pa.array(drawn, pa.string()), unknown, 0)
    return merge_passages(batch.negatives, filled.append_column("id", pa.array(np.full(len(drawn), FILLED_ID))))


def iter_unfilled(mined: Dataset | DatasetDict) -> Iterator[pa.Table]:
    """Yield the columns of the statistics, without the negatives that were filled in.

    Raises:
        ColumnError: ``positive_score`` or ``negative_scores`` is missing.
    """
    for split in mined.values() if isinstance(mined, DatasetDict) else [mined]:
        check_columns(split.column_names, COLUMNS[:2])
        names = [name for name in (*COLUMNS, "negative_ids") if name in split.column_names]
        yield from map(_leave_out_filled, split.select_columns(names).with_format("arrow").iter(READ_ROWS))


def _leave_out_filled(table: pa.Table) -> pa.Table:
    counts = count_items(table["negative_scores"])
    if "negative_ids" not in table.column_names or not np.array_equal(count_items(table["negative_ids"]), counts):
        return table  # lists of different lengths are for the audit
    ids, scores = (as_array(table[name]).flatten() for name in ("negative_ids", "negative_scores"))
    filled = np.asarray(ids.cast(pa.int64()).fill_null(0)) == FILLED_ID
    filled &= np.isnan(np.asarray(scores, dtype=np.float32))
    if not filled.any():
        return table
    kept = np.bincount(np.repeat(np.arange(len(table)), counts)[~filled], minlength=len(table))
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept)]).astype(np.int64))
    lists = pa.LargeListArray.from_arrays(offsets, scores.filter(pa.array(~filled)))
    return table.set_column(table.column_names.index("negative_scores"), "negative_scores", lists)


def _draw(corpus: Corpus, anchor: str, taken: Iterable[str], count: int, seed: int) -> list[str]:
    """Draw ``count`` passages of which none is equal, after ``normalise``, to another or to one of ``taken``.

    Raises:
        ArgumentError: there are too few.
    """
    forms, drawn = set(map(normalise, taken)), []
    for passage_id in _shuffle(len(corpus), digest_of(str(seed), anchor)):
        text = corpus[passage_id]
        form = normalise(text)
        if form not in forms:
            forms.add(form)
            drawn.append(text)
            if len(drawn) == count:
                return drawn
    raise ArgumentError(
        f"Expected {count} more passages for shortage='fill', found only {len(drawn)} that are no positive of the "
        "anchor and not among its negatives; lower num_negatives, or use shortage='drop'."
    )


def _shuffle(size: int, key: str) -> Iterator[int]:
    """Yield 0 to ``size - 1`` in an order that ``key`` decides, uniform over all orders.

    It is the Fisher-Yates shuffle with only the moved entries stored, so a few draws from many cost a few steps. A
    digest is the random number: numpy does not promise the same stream in its next version.
    """
    moved: dict[int, int] = {}
    for step in range(size):
        other = step + int(digest_of(key, str(step)), 16) % (size - step)
        yield moved.get(other, other)
        moved[other] = moved.get(step, step)
