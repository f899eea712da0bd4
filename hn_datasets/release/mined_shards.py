"""A folder of mined data that no machine has to hold: its Parquet files are read one after another."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pyarrow.parquet as pq
from datasets import Dataset, Features

from hn_datasets.errors import DataSourceError, HNDatasetsError, ReleaseError
from hn_datasets.files import open_filesystem
from hn_datasets.inspection.changes import describe, find_changes
from hn_datasets.progress import progress_bar
from hn_datasets.record import RECORD_FILE, MiningRecord
from hn_datasets.shards import read_scores, split_file_name
from hn_datasets.statistics import PartialStatistics, count_scores, merge_statistics

SHARD_NAME = re.compile(r"(?P<split>\w+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})\.parquet")


@dataclass(frozen=True)
class Shard:
    """One file of mined rows.

    Attributes:
        split: of its rows, as files name it.
        number: of the file within the split, from 0.
        count: files of the split.
        path: as fsspec names it.
    """

    split: str
    number: int
    count: int
    path: str

    def read(self) -> Dataset:
        """Return its rows, which are held in memory.

        Raises:
            DataSourceError: it cannot be read.
        """
        with _explain_unreadable(self.path), fsspec.open(self.path, "rb") as file:
            table = pq.read_table(file)
        return Dataset(table.cast(Features.from_arrow_schema(table.schema).arrow_schema))


@dataclass(frozen=True)
class MinedShards:
    """What ``hn-datasets mine`` or ``mine_on_ray`` wrote, in its place.

    Attributes:
        folder: as fsspec names it.
        record: what ``mining.json`` says.
        shards: the files, split by split in their order.
    """

    folder: str
    record: MiningRecord
    shards: tuple[Shard, ...]

    @classmethod
    def open(cls, folder: str | Path) -> MinedShards:
        """Find the files and read the record.

        Raises:
            DataSourceError: the folder cannot be read, holds a release, or lacks the record or some of the files.
        """
        place = str(folder).rstrip("/")
        with _explain_unreadable(place):
            filesystem, root = open_filesystem(place)
            record = _read_record(filesystem, root, place)
            shards = sorted(_find_shards(filesystem, root, place), key=lambda shard: (shard.split, shard.number))
        mined = cls(place, record, tuple(shards))
        mined._check_complete()
        return mined

    @property
    def splits(self) -> list[str]:
        """The splits, as files name them."""
        return list(dict.fromkeys(shard.split for shard in self.shards))

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each split, by the record."""
        return {split_file_name(name): number for name, number in self.record.rows.items()}

    def _check_complete(self) -> None:
        for split in self.rows:
            own = [shard for shard in self.shards if shard.split == split]
            if not own or [shard.number for shard in own] != list(range(own[0].count)):
                wanted = f"{own[0].count} files" if own else "files"
                raise DataSourceError(
                    f"Expected {wanted} of the split {split} in {self.folder}/data, got {len(own) or 'none'}; mine "
                    "again."
                )
        if len(self.splits) != len(self.rows):
            raise DataSourceError(
                f"Expected files of the splits {', '.join(self.rows)} in {self.folder}/data, got "
                f"{', '.join(self.splits)}; mine again."
            )

    def check(self) -> None:
        """Compare rows and statistics with the record; only the numeric columns are read.

        Raises:
            DataSourceError: a file cannot be read.
            ReleaseError: they are others.
        """
        rows = dict.fromkeys(self.splits, 0)
        counted = PartialStatistics.collect(self._count(rows))
        said = self.record.statistics
        found = merge_statistics([counted] if counted else [], num_negatives=said.num_negatives)
        found = replace(found, failed_texts=said.failed_texts, diagnoses=said.diagnoses)
        differing: dict[str, tuple[Any, Any]] = find_changes(self.rows, rows)
        differing |= find_changes(said.to_dict(), found.to_dict())
        if differing:
            name, (recorded, got) = next(iter(differing.items()))
            raise ReleaseError(
                f"Expected the data that {RECORD_FILE} tells of in {self.folder}, got {name} {describe(got)} instead "
                f"of {describe(recorded)}; mine it again."
            )

    def _count(self, rows: dict[str, int]) -> Iterator[PartialStatistics]:
        """Yield what each file adds to the statistics, and add its rows to those of its split."""
        for shard in progress_bar(self.shards, desc="Checking", unit="file"):
            with _explain_unreadable(shard.path):
                part = count_scores(read_scores(shard.path))
            rows[shard.split] += part.rows
            yield part

    def read(self) -> Iterator[tuple[Shard, Dataset]]:
        """Yield each file with its rows."""
        for shard in progress_bar(self.shards, desc="Publishing", unit="file"):
            yield shard, shard.read()

    def read_first(self) -> tuple[Shard, Dataset]:
        """Return the first file that has rows, and them.

        Raises:
            DataSourceError: no file has any.
        """
        for shard in self.shards:
            rows = shard.read()
            if len(rows):
                return shard, rows
        raise DataSourceError(f"Expected mined rows in {self.folder}/data, got none; mine something first.")


@contextlib.contextmanager
def _explain_unreadable(place: str) -> Iterator[None]:
    try:
        yield
    except HNDatasetsError:
        raise
    except Exception as error:  # every file system has errors of its own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataSourceError(f"Could not read {place} ({reason}); check that it is what you mean.") from error


def _read_record(filesystem: Any, root: str, place: str) -> MiningRecord:
    try:
        record = MiningRecord.from_dict(json.loads(filesystem.cat_file(f"{root}/{RECORD_FILE}")))
    except FileNotFoundError:
        raise DataSourceError(
            f"Expected {RECORD_FILE} in {place}, got none; finish the mining first, or name its output."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataSourceError(f"Expected a record in {place}/{RECORD_FILE}, got none ({error!r}).") from error
    if record.release:
        raise DataSourceError(
            f"Expected a folder that mine wrote, {place} holds a release; load it and publish what load_dataset gives, "
            "on the command line without --file-by-file."
        )
    return record


def _find_shards(filesystem: Any, root: str, place: str) -> Iterator[Shard]:
    """Yield the files; hidden ones are what killed workers have left."""
    try:
        paths = filesystem.ls(f"{root}/data", detail=False)
    except FileNotFoundError:
        return
    for path in paths:
        name = path.rsplit("/", 1)[-1]
        if not name.endswith(".parquet") or name.startswith("."):
            continue
        found = SHARD_NAME.fullmatch(name)
        if found is None:
            raise DataSourceError(
                f"Expected files as train-00000-of-00001.parquet in {place}/data, got {name!r}; load the folder and "
                "publish what load_dataset gives."
            )
        yield Shard(found["split"], int(found["number"]), int(found["count"]), filesystem.unstrip_protocol(path))
