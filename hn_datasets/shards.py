"""Datasets as Parquet shards whose names ``load_dataset`` understands."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.utils import tqdm

from hn_datasets.errors import ArgumentError
from hn_datasets.progress import progress_bar

SHARD_BYTES = 500_000_000
"""Size of a shard as Arrow data, in bytes; Parquet makes it smaller."""

GROUP_BYTES = 100_000_000
"""The same of a row group, at most: what a reader of a single row has to read."""

SCORE_COLUMNS = ("positive_score", "negative_scores", "top_score", "negative_teachers", "guard_removals")


def split_file_name(split: str) -> str:
    """Return a split's name as ``load_dataset`` reads it back: ``train_test`` for ``train+test``."""
    return re.sub(r"\W+", "_", split).strip("_") or "train"


def split_file_names(splits: Iterable[str]) -> dict[str, str]:
    """Return the name that each split has as a file.

    Raises:
        ArgumentError: two splits would be the same file.
    """
    names: dict[str, str] = {}
    for split in splits:
        name = split_file_name(split)
        other = next((one for one, taken in names.items() if taken == name), None)
        if other is not None:
            raise ArgumentError(
                f"Expected splits whose files have different names, got {other!r} and {split!r}, which are both "
                f"{name!r}; rename one of them."
            )
        names[split] = name
    return names


def read_scores(path: str) -> pa.Table:
    """Return what the statistics of a Parquet file of mined rows need, and none of its texts.

    Args:
        path: on any fsspec file system.
    """
    with fsspec.open(path, "rb") as file:
        shard = pq.ParquetFile(file)
        return shard.read(columns=[name for name in SCORE_COLUMNS if name in shard.schema_arrow.names])


def write_shards(dataset: Dataset, directory: Path, stem: str, *, shard_bytes: int | None = None) -> list[Path]:
    """Write the rows in their order, as ``<stem>-00000-of-00002.parquet`` and so on; at least one file.

    Pages are cut where the content says so, not at fixed sizes, so that a store which keeps each piece once (Xet) takes
    only the changed pieces of the next version. zstd makes mined rows a third smaller than the snappy of ``datasets``.

    Args:
        dataset: the rows; memory does not grow with their number.
        directory: an existing folder.
        stem: beginning of the names.
        shard_bytes: at most so many bytes of Arrow data in a file, but at least one row; ``SHARD_BYTES`` if None.

    Returns:
        The files.
    """
    num_bytes = dataset.data.nbytes or 0
    shards = min(max(1, -(-num_bytes // (shard_bytes or SHARD_BYTES))), max(1, len(dataset)))
    paths = [directory / f"{stem}-{index:05d}-of-{shards:05d}.parquet" for index in range(shards)]
    with progress_bar(total=len(dataset), desc=f"Writing {stem}", unit="row") as progress:
        for index, path in enumerate(paths):
            rows = dataset.shard(shards, index, contiguous=True)
            _write(rows, path, _rows_per_group(num_bytes, len(dataset)), progress)
    return paths


def write_rows(rows: Dataset, file: BinaryIO) -> None:
    """Write rows as one Parquet file, in the way of ``write_shards``."""
    with tqdm(disable=True) as progress:
        _write(rows, file, _rows_per_group(rows.data.nbytes or 0, len(rows)), progress)


def _write(rows: Dataset, path: Path | BinaryIO, group_rows: int, progress: tqdm) -> None:
    schema = rows.features.arrow_schema  # with the features of datasets among its metadata
    options = {"compression": "zstd", "use_content_defined_chunking": True, "write_page_index": True}
    with pq.ParquetWriter(path, schema, **options) as writer:
        for table in rows.with_format("arrow").iter(group_rows) if len(rows) else ():
            writer.write_table(table.cast(schema), row_group_size=group_rows)
            progress.update(len(table))


def _rows_per_group(num_bytes: int, num_rows: int) -> int:
    """Return how many rows a row group has: a power of two, so that it stays the same where rows change a little.

    With another number every group would begin at another row, and all of the next version would be new to a store
    that keeps each piece once.
    """
    return 1 << max(0, (GROUP_BYTES * max(1, num_rows) // max(1, num_bytes)).bit_length() - 1)
