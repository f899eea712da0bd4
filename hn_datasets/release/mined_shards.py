"""A folder of mined data that no machine has to hold: its Parquet files are read one after another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pyarrow.parquet as pq
from datasets import Dataset, Features
from datasets.utils import tqdm

from hn_datasets.errors import DataSourceError, ReleaseError
from hn_datasets.files import open_filesystem
from hn_datasets.inspection.changes import describe, find_changes
from hn_datasets.record import RECORD_FILE, MiningRecord
from hn_datasets.shards import read_scores, split_file_name
from hn_datasets.statistics import compute_statistics, count_scores, merge_statistics

SHARD_NAME = re.compile(r"(?P<split>\w+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet")


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
        try:
            with fsspec.open(self.path, "rb") as file:
                table = pq.read_table(file)
        except (OSError, ValueError) as error:  # of which pyarrow's are
            raise DataSourceError(f"Expected a Parquet file in {self.path}, got {error}; mine again.") from error
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
            DataSourceError: the folder has no record, no mined files, or not all of them.
        """
        place = str(folder).rstrip("/")
        filesystem, root = open_filesystem(place)
        try:
            record = MiningRecord.from_dict(json.loads(filesystem.cat_file(f"{root}/{RECORD_FILE}")))
        except FileNotFoundError:
            raise DataSourceError(
                f"Expected {RECORD_FILE} in {place}, got none; finish the mining first, or name its output."
            ) from None
        except Exception as error:  # whatever a file system elsewhere says where it does not answer
            raise DataSourceError(f"Expected a record in {place}/{RECORD_FILE}, got none ({error!r}).") from error
        shards = []
        for path in sorted(filesystem.glob(f"{root}/data/*.parquet")):
            found = SHARD_NAME.fullmatch(path.rsplit("/", 1)[-1])
            if found is None:
                raise DataSourceError(
                    f"Expected files as train-00000-of-00001.parquet in {place}/data, got {path.rsplit('/', 1)[-1]!r}; "
                    "load the folder and publish what load_dataset gives."
                )
            place_of = filesystem.unstrip_protocol(path)
            shards.append(Shard(found["split"], int(found["number"]), int(found["count"]), place_of))
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
                count = own[0].count if own else "some"
                raise DataSourceError(
                    f"Expected {count} files of the split {split} in {self.folder}/data, got {len(own)}; mine again."
                )
        if len(self.splits) != len(self.rows):
            raise DataSourceError(
                f"Expected files of the splits {', '.join(self.rows)} in {self.folder}/data, got "
                f"{', '.join(self.splits)}; mine again."
            )

    def check(self) -> None:
        """Compare rows and statistics with the record; only the numeric columns are read.

        Raises:
            ReleaseError: they are others.
        """
        parts, rows = [], dict.fromkeys(self.splits, 0)
        for shard in tqdm(self.shards, desc="Checking", unit="file", disable=None):
            parts.append(count_scores(read_scores(shard.path)))
            rows[shard.split] += parts[-1].rows
        said = self.record.statistics
        found = merge_statistics(parts, num_negatives=said.num_negatives)
        found = replace(found, failed_texts=said.failed_texts, diagnoses=said.diagnoses)
        differing: dict[str, tuple[Any, Any]] = find_changes(self.rows, rows)
        differing |= find_changes(said.to_dict(), found.to_dict())
        if differing:
            name, (recorded, got) = next(iter(differing.items()))
            raise ReleaseError(
                f"Expected the data that {RECORD_FILE} tells of in {self.folder}, got {name} {describe(got)} instead "
                f"of {describe(recorded)}; mine it again."
            )

    def read(self) -> Iterator[tuple[Shard, Dataset]]:
        """Yield each file with its rows."""
        for shard in tqdm(self.shards, desc="Publishing", unit="file", disable=None):
            yield shard, shard.read()

    def record_of(self, shard: Shard, rows: Dataset) -> MiningRecord:
        """Return the record as if it were that of one file."""
        statistics = compute_statistics(rows, num_negatives=self.record.statistics.num_negatives)
        return replace(self.record, rows={shard.split: len(rows)}, statistics=statistics)
