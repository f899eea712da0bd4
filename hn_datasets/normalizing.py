"""The format of three tables: queries, documents and scores by id."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict

from hn_datasets.batches import (
    Batch,
    Layout,
    as_array,
    as_lists,
    merge_passages,
)
from hn_datasets.layouts import read_batch
from hn_datasets.texts import digest_of

_ROWS = 10_000  # texts converted at once


def normalize_tables(scored: DatasetDict, layout: Layout, with_splits: bool) -> DatasetDict:
    """Return the tables ``queries``, ``documents`` and ``scores``; ids count distinct texts as they first appear."""
    read_only = replace(layout, pool=())  # what was short is filled already

    def batches() -> Iterator[tuple[str, Batch]]:
        for name, split in scored.items():
            table = split.with_format("arrow")[:]
            for batch in table.to_batches() or [table]:  # as they lie in the file, so without a copy
                yield name, read_batch(pa.table(batch), read_only)

    queries, query_ids = _number([batch.anchors(layout.anchor) for _, batch in batches()])
    texts = [as_array(passages["text"]) for _, batch in batches() for passages in (batch.positives, batch.negatives)]
    documents, document_ids = _number(texts)
    tables = []
    for place, (name, batch) in enumerate(batches()):
        ids = document_ids[2 * place : 2 * place + 2]
        flat = [
            passages.select(["row", "score", "label"]).append_column("document_id", numbers)
            for passages, numbers in zip((batch.positives, batch.negatives), ids, strict=True)
        ]
        lists = {
            f"{column}s": as_lists(batch, merge_passages(*flat), column) for column in ("document_id", "score", "label")
        }
        origin = {"split": pa.array([name] * len(batch.table), pa.string())} if with_splits else {}
        tables.append(pa.table({"query_id": query_ids[place], **lists, **origin}))
    result: dict[str, pa.Table] = {
        "queries": _numbered("query", queries),
        "documents": _numbered("document", documents),
        "scores": pa.concat_tables(tables),
    }
    source = [split._fingerprint for split in scored.values()]  # without it, datasets hashes a copy of every table
    return DatasetDict({name: Dataset(table, fingerprint=digest_of(*source, name)) for name, table in result.items()})


def _number(chunks: list[pa.Array]) -> tuple[pa.ChunkedArray, list[pa.Array]]:
    """Return the distinct texts of all chunks as they first appear, and the place of each text, chunk by chunk.

    Places are int64, null for a null text. Texts together may be larger than the 2 GiB that one string array holds.
    """
    encoded = pa.chunked_array([chunk.cast(pa.large_string()) for chunk in chunks]).dictionary_encode()
    places = as_array(pa.chunked_array([chunk.indices for chunk in encoded.chunks], pa.int32())).cast(pa.int64())
    ends = np.cumsum([len(chunk) for chunk in chunks])
    distinct = encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], pa.large_string())
    steps = [np.arange(start, min(start + _ROWS, len(distinct))) for start in range(0, len(distinct), _ROWS)]
    texts = pa.chunked_array([distinct.take(pa.array(step)).cast(pa.string()) for step in steps], pa.string())
    return texts, [places[end - len(chunk) : end] for chunk, end in zip(chunks, ends, strict=True)]


def _numbered(name: str, texts: pa.ChunkedArray) -> pa.Table:
    return pa.table({f"{name}_id": pa.array(np.arange(len(texts))), name: texts})
