"""The mined dataset on any fsspec path: shards that appear whole or not at all, then recipe, record and card."""

from __future__ import annotations

import contextlib
import errno
import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

import fsspec  # type: ignore[import-untyped]
from datasets import Dataset, Features

from hn_datasets.errors import ArgumentError, StoreError
from hn_datasets.files import UNFINISHED, open_filesystem
from hn_datasets.ray_engine.cluster import load_ray
from hn_datasets.ray_engine.job import Job, Part
from hn_datasets.ray_engine.reading import as_dataset
from hn_datasets.readme import render_readme
from hn_datasets.record import RECORD_FILE, MiningRecord
from hn_datasets.shards import read_scores, split_file_name, write_rows
from hn_datasets.sources import RECIPE_FILE
from hn_datasets.statistics import MiningStatistics, PartialStatistics, count_scores, merge_statistics

UNFINISHED_FILE = "unfinished.json"
"""Says which run has begun to write here; it goes when the last file is there."""

BUCKETS = frozenset({"s3", "gs", "abfs"})
"""File systems that make a bucket where a folder below it is made."""


def shard_path(output: str, part: Part, num_shards: int) -> str:
    """Return where a part goes."""
    return f"{output}/data/{split_file_name(part.split)}-{part.shard:05d}-of-{num_shards:05d}.parquet"


def exists(path: str) -> bool:
    """Return whether a file is there."""
    filesystem, name = fsspec.core.url_to_fs(path)
    return bool(filesystem.exists(name))


@contextlib.contextmanager
def open_whole(path: str) -> Iterator[BinaryIO]:
    """Open a file for writing that appears whole or not at all, on any fsspec path.

    Raises:
        StoreError: it cannot be written.
    """
    filesystem, name = fsspec.core.url_to_fs(path)
    local = "file" in _protocols(filesystem)
    folder, base = str(PurePosixPath(name).parent), PurePosixPath(name).name
    # Elsewhere an object is there when it is closed, and a rename would be a copy.
    temporary = f"{folder}/{UNFINISHED}{secrets.token_hex(8)}-{base}" if local else name
    try:
        filesystem.makedirs(folder, exist_ok=True)
        with filesystem.open(temporary, "wb") as file:
            yield cast(BinaryIO, file)
        if local:
            filesystem.mv(temporary, name)
    except BaseException as error:
        with contextlib.suppress(Exception):  # an object is there also when its writer has failed
            filesystem.rm(temporary)
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or str(error)
        raise StoreError(
            error.errno, f"Could not write {path} ({reason}); free some space, or name another folder."
        ) from error


def write_shard_to(path: str, rows: Dataset, columns: dict[str, Any], features: Features) -> None:
    """Write rows with their mined columns as one Parquet file.

    Args:
        path: of the file.
        rows: n rows of the source.
        columns: n values of each mined column.
        features: of the mined dataset.
    """
    added = Dataset.from_dict(columns, features=Features({name: features[name] for name in columns}))
    table = rows.data.table.drop_columns([name for name in columns if name in rows.column_names])
    for name in columns:
        table = table.append_column(added.data.table.schema.field(name), added.data.table[name])
    with open_whole(path) as file:
        write_rows(as_dataset(table.select(list(features)), features), file)


def claim_output(output: str, key: str, *, overwrite: bool) -> None:
    """Check that this run may write here, and leave a note that it does.

    Raises:
        ArgumentError: another dataset, or another run that is not finished, is there.
        StoreError: the folder cannot be written.
    """
    note = f"{output}/{UNFINISHED_FILE}"
    filesystem, name = open_filesystem(note)
    _check_bucket(filesystem, output, name)
    if filesystem.exists(name):
        if json.loads(filesystem.cat_file(name))["run"] == key:
            return
        if not overwrite:
            raise ArgumentError(
                f"{output} holds an unfinished run with other settings; name another folder, or pass overwrite=True."
            )
    folder = str(PurePosixPath(name).parent)
    if filesystem.exists(folder) and filesystem.ls(folder):
        if not filesystem.exists(f"{folder}/{RECIPE_FILE}") and not filesystem.exists(name):
            raise ArgumentError(f"Expected a new or mined folder as output, {output} holds something else.")
        if not overwrite:
            raise ArgumentError(f"{output} holds a mined dataset already; name another folder, or pass overwrite=True.")
        filesystem.rm(folder, recursive=True)
    write_text(note, json.dumps({"run": key}))


def _check_bucket(filesystem: Any, output: str, name: str) -> None:
    """Refuse a bucket that is not there: to write below it would make one, in the name of a typing error."""
    bucket = name.split("/", 1)[0]
    if bucket and BUCKETS.intersection(_protocols(filesystem)) and not filesystem.exists(bucket):
        raise StoreError(
            errno.ENOENT,
            f"Expected a bucket that is there and answers, got {output}; make it, or check its name, the credentials "
            "and the network.",
        )


def _protocols(filesystem: Any) -> set[str]:
    return {filesystem.protocol} if isinstance(filesystem.protocol, str) else set(filesystem.protocol)


def write_text(path: str, text: str) -> None:
    """Write a text file."""
    with open_whole(path) as file:
        file.write(text.encode())


def finish_output(output: str, record: MiningRecord) -> None:
    """Write recipe, card and record, the record last, and take the note away."""
    write_text(f"{output}/{RECIPE_FILE}", record.recipe.to_json() + "\n")
    card = render_readme(record.recipe, record.statistics, record.rows, record.corpus, record.source, None)
    write_text(f"{output}/README.md", card)
    write_text(f"{output}/{RECORD_FILE}", record.to_json())
    filesystem, name = fsspec.core.url_to_fs(f"{output}/{UNFINISHED_FILE}")
    filesystem.rm(name)


def count_shards(_: Job, paths: Sequence[str]) -> PartialStatistics | None:
    """Return what some shards add to the statistics, of which only the numeric columns are read; None for no shard."""
    return PartialStatistics.collect(count_scores(read_scores(path)) for path in paths)


def merge_shards(job: Job, parts: Sequence[Any]) -> MiningStatistics:
    """Return the statistics of all shards.

    Args:
        job: the run.
        parts: references of what ``count_shards`` has given.
    """
    counted = [part for part in load_ray().get(list(parts)) if part is not None]
    return merge_statistics(counted, num_negatives=job.recipe.num_negatives)
