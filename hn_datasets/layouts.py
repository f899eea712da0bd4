"""One function for each format: from a batch of mined rows to its columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from hn_datasets.batches import (
    MINED_COLUMNS,
    OPTIONAL_COLUMNS,
    TRAINABLE_FORMATS,
    Batch,
    Layout,
    as_array,
    as_lists,
    count_items,
    find_skipped,
    lay_flat,
    merge_passages,
    negatives_of,
    positives_of,
    rows_as_lists,
)
from hn_datasets.errors import ArgumentError
from hn_datasets.filling import fill


def read_batch(table: pa.Table, layout: Layout) -> Batch:
    """Choose the rows, lay their passages flat, and fill up what is short.

    Raises:
        ArgumentError: scores are wanted, and a negative that was filled in earlier has none; or ``fill`` finds too few
            passages.
    """
    counts = count_items(table["negatives"])
    scores = np.asarray(table["positive_score"], dtype=np.float32)
    skipped = find_skipped(scores, counts)
    chosen = np.ones(len(table), dtype=bool)
    if layout.drop:
        chosen = counts >= layout.num_negatives
    elif layout.output_format != "scored":
        chosen = ~skipped
    if layout.output_format == "labeled-list" and not layout.pool:
        chosen &= counts > 0
    if not chosen.all():
        table, scores, skipped = table.filter(pa.array(chosen)), scores[chosen], skipped[chosen]
    rows, texts = positives_of(table[layout.positive])
    batch = Batch(table, lay_flat(rows, texts, scores[rows], 1), negatives_of(table, layout.num_negatives))
    trains_on_scores = layout.output_scores and layout.output_format in TRAINABLE_FORMATS
    if trains_on_scores and np.isnan(batch.negatives["score"]).any():
        raise ArgumentError(
            "Expected a score for every negative, got NaN, which random passages have that filled short rows; use "
            "output_scores=False, or format the dataset as it was mined."
        )
    return replace(batch, negatives=fill(batch, skipped, layout)) if layout.pool else batch


def _triplets(batch: Batch, layout: Layout) -> dict[str, pa.Array]:
    places = batch.places(batch.negatives).take(np.asarray(batch.positives["row"]))
    positives, negatives = batch.positives.take(places.rows), batch.negatives.take(places.values)
    anchors = batch.anchors(layout.anchor).take(as_array(positives["row"]))
    columns = {layout.anchor: anchors, layout.positive: positives["text"], "negative": negatives["text"]}
    if layout.output_scores:
        columns["scores"] = rows_as_lists(np.column_stack([positives["score"], negatives["score"]]))
    return columns


def _tuples(batch: Batch, layout: Layout) -> dict[str, pa.Array]:
    positives = batch.positives
    places = batch.places(batch.negatives).take(np.asarray(positives["row"])).values.reshape(-1, layout.num_negatives)
    anchors = batch.anchors(layout.anchor).take(as_array(positives["row"]))
    columns = {layout.anchor: anchors, layout.positive: positives["text"]}
    texts = as_array(batch.negatives["text"])
    columns |= {f"negative_{rank}": texts.take(pa.array(column)) for rank, column in enumerate(places.T, start=1)}
    if layout.output_scores:
        scores = np.asarray(batch.negatives["score"])[places]
        columns["scores"] = rows_as_lists(np.column_stack([positives["score"], scores]))
    return columns


def _labeled_pairs(batch: Batch, layout: Layout) -> dict[str, pa.Array]:
    passages = merge_passages(batch.positives, batch.negatives)
    label = "score" if layout.output_scores else "label"
    anchors = batch.anchors(layout.anchor).take(as_array(passages["row"]))
    return {layout.anchor: anchors, layout.positive: passages["text"], label: passages[label]}


def _labeled_lists(batch: Batch, layout: Layout) -> dict[str, pa.Array]:
    passages = merge_passages(batch.positives, batch.negatives)
    label = "score" if layout.output_scores else "label"
    texts, labels = (as_lists(batch, passages, name) for name in ("text", label))
    return {layout.anchor: batch.anchors(layout.anchor), layout.positive: texts, f"{label}s": labels}


def _scored(batch: Batch, layout: Layout) -> dict[str, pa.Array]:
    lists = {
        "negatives": "text",
        "negative_ids": "id",
        "negative_scores": "score",
        "negative_teachers": "teacher",
    }
    optional = [name for name in OPTIONAL_COLUMNS if name in batch.table.column_names]
    return {
        name: as_lists(batch, batch.negatives, lists[name]) if name in lists else batch.table[name]
        for name in (layout.anchor, layout.positive, *MINED_COLUMNS, *optional)
    }


_SHAPES: dict[str, Callable[[Batch, Layout], dict[str, pa.Array]]] = {
    "triplet": _triplets,
    "n-tuple": _tuples,
    "labeled-pair": _labeled_pairs,
    "labeled-list": _labeled_lists,
    "scored": _scored,
    "normalized": _scored,
}


def format_batch(table: pa.Table, layout: Layout) -> pa.Table:
    """Return one batch of mined rows in the shape of the layout."""
    return pa.table(_SHAPES[layout.output_format](read_batch(table, layout), layout))
