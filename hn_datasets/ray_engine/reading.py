"""Reading source files on workers: rows into parts of one size, texts into spill files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, IterableDataset, load_dataset
from datasets.table import InMemoryTable

from hn_datasets.columns import explain_unreadable, group_names, iter_corpus, iter_pairs
from hn_datasets.errors import ColumnError, TextError
from hn_datasets.files import atomic_write
from hn_datasets.ray_engine.files import SourceFile, pattern_of
from hn_datasets.ray_engine.job import Job, Part
from hn_datasets.ray_engine.ranges import spill
from hn_datasets.texts import digest_texts, fixed_size_binary

Block = TypeVar("Block")

SPILL_TEXTS = 65_536
"""Passages of a spill file."""


def open_stream(file: SourceFile, features: Features | None) -> IterableDataset:
    """Open one file as a stream of rows."""
    with explain_unreadable(file.path):
        return load_dataset(
            file.kind, data_files=pattern_of(file.path), split="train", streaming=True, features=features
        )


def _read(file: SourceFile, blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield what is read of a file.

    Raises:
        DataSourceError: the file is damaged, or its columns are others or of other types than those of the first one.
    """
    source = iter(blocks)
    while True:
        with explain_unreadable(file.path):
            block = next(source, None)
        if block is None:
            return
        yield block


def read_rows_file(job: Job, number: int, file: SourceFile, features: Features, columns: Sequence[str]) -> list[Part]:
    """Cut the rows of one file into parts, and spill their texts; what is done already is not done again.

    Args:
        job: the run.
        number: of the file.
        file: where the rows are.
        features: types of the columns.
        columns: those whose values are groups.

    Raises:
        DataSourceError: the file cannot be read, or its columns are not those of the first one.
        TextError: a text is None, empty or white space; names file and rows.
    """
    marker = job.work / "rows" / f"{number:06d}.json"
    if marker.exists():
        found = json.loads(marker.read_text(encoding="utf-8"))
        return [Part(**{**entry, "path": Path(entry["path"])}) for entry in found]
    parts: list[Part] = []
    first = 0
    tables = open_stream(file, features).with_format("arrow").iter(batch_size=job.shard_rows)
    for table in _read(file, (one.select(list(features)).cast(features.arrow_schema) for one in tables)):
        part = Part(
            file.split, marker.with_name(f"{number:06d}-{len(parts):06d}.parquet"), len(table), file.path, first
        )
        with atomic_write(part.path) as target:
            pq.write_table(table, target, compression="zstd")
        _spill_pairs(job, part, as_dataset(table, features), columns)
        parts.append(part)
        first += len(table)
    with atomic_write(marker) as target:
        entries = [{**asdict(part), "path": str(part.path)} for part in parts]
        target.write(json.dumps(entries).encode())
    return parts


def as_dataset(table: pa.Table, features: Features) -> Dataset:
    """Return a table in memory as a dataset."""
    return Dataset(InMemoryTable(table.cast(features.arrow_schema)), info=DatasetInfo(features=features))


def _spill_pairs(job: Job, part: Part, rows: Dataset, columns: Sequence[str]) -> None:
    """Spill anchors, positives, which belong together, and the groups of positives."""
    recipe = job.recipe
    try:
        names = (recipe.anchor_column_name, recipe.positive_column_name)
        blocks = list(iter_pairs(rows, *names, recipe.on_empty, columns))
    except TextError as error:
        raise TextError(f"{part.file}, counted from row {part.first_row:,}: {error}") from error
    anchors = pa.concat_arrays([block.anchors for block in blocks])
    positives = pa.concat_arrays([block.positives for block in blocks])
    starts = np.cumsum([0, *(len(block.anchors) for block in blocks)])[:-1]
    owners = np.concatenate([block.rows + start for block, start in zip(blocks, starts.tolist(), strict=True)])
    anchor_digests, positive_digests = digest_texts(anchors.to_pylist()), digest_texts(positives.to_pylist())
    name = part.path.stem
    spill(job.work / "anchors" / f"{name}.arrow", anchor_digests, {"text": anchors}, distinct=True)
    spill(job.work / "passages" / f"rows-{name}.arrow", positive_digests, {"text": positives}, distinct=True)
    pairs = {"positive": fixed_size_binary(positive_digests)}
    spill(job.work / "pairs" / f"{name}.arrow", anchor_digests[owners], pairs)
    for column in columns:
        values = [value for block in blocks for value in block.columns[column].to_pylist()]
        _spill_groups(job, column, f"rows-{name}", [values[row] for row in owners.tolist()], positive_digests)


def _spill_groups(job: Job, column: str, name: str, values: Sequence[Any], passages: Any) -> None:
    """Spill the group that each value names, with the passage that is in it."""
    groups = group_names(values)
    kept = np.array([group is not None for group in groups], dtype=bool)
    digests = digest_texts(group for group in groups if group is not None)
    members = {"passage": fixed_size_binary(passages[kept])}
    spill(job.work / "groups" / column / f"{name}.arrow", digests, members)


def read_corpus_file(
    job: Job, number: int, file: SourceFile, features: Features, column: str | None, columns: Sequence[str]
) -> int:
    """Spill the passages of one file of the corpus; return how many rows it has.

    Raises:
        TextError: a passage is None, empty or white space; names file and rows.
    """
    marker = job.work / "passages" / f"corpus-{number:06d}.json"
    if marker.exists():
        return int(json.loads(marker.read_text(encoding="utf-8")))
    total = 0
    try:
        blocks = _passage_blocks(job, open_stream(file, features), column, columns)
        for place, (texts, groups) in enumerate(_read(file, blocks)):
            digests, name = digest_texts(texts.to_pylist()), f"corpus-{number:06d}-{place:06d}"
            spill(job.work / "passages" / f"{name}.arrow", digests, {"text": texts}, distinct=True)
            for group, values in groups.items():
                _spill_groups(job, group, name, values, digests)
            total += len(texts)
    except (ColumnError, TextError) as error:
        raise type(error)(f"{file.path}: {error}") from error
    with atomic_write(marker) as target:
        target.write(json.dumps(total).encode())
    return total


def _passage_blocks(
    job: Job, stream: IterableDataset, column: str | None, columns: Sequence[str]
) -> Iterator[tuple[pa.Array, dict[str, list[Any]]]]:
    """Yield texts and the values of their columns in blocks of about ``SPILL_TEXTS``."""
    texts: list[pa.Array] = []
    values: dict[str, list[Any]] = {}
    for block in iter_corpus(stream, column, job.recipe.on_empty, columns):
        texts.append(block.texts)
        for name, column_values in block.columns.items():
            values.setdefault(name, []).extend(column_values.to_pylist())
        if sum(map(len, texts)) >= SPILL_TEXTS:
            yield pa.concat_arrays(texts), values
            texts, values = [], {}
    if texts:
        yield pa.concat_arrays(texts), values
