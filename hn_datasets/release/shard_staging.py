"""The files of a release, one after another from the files of a mined folder: each leaves before the next is made."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features

from hn_datasets.batches import OutputFormat
from hn_datasets.errors import ReleaseError, ShortRowsWarning, StoreError
from hn_datasets.files import describe_file
from hn_datasets.formats import describe_shortage, format_shard
from hn_datasets.record import MiningRecord
from hn_datasets.release.card import ConfigFiles
from hn_datasets.release.checking import check_mined, check_rows
from hn_datasets.release.mined_shards import MinedShards, Shard
from hn_datasets.release.plots import draw_pictures
from hn_datasets.release.staging import FileEntries, Staged, check_filled, pattern_of
from hn_datasets.shards import write_rows
from hn_datasets.statistics import compute_statistics
from hn_datasets.texts import digest_of

Send = Callable[[str, Path], None]
"""Takes a file away: its path in the release, and where it lies now."""


@dataclass
class _Layout:
    """What is known of a configuration so far."""

    name: OutputFormat
    features: Features | None = None
    rows: dict[str, int] = field(default_factory=dict)
    num_bytes: dict[str, int] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)

    def add(self, split: str, rows: Dataset, path: str) -> None:
        """Count the rows of one more file, whose columns have to be those of the others."""
        if self.features is None:
            self.features = rows.features
        if rows.features != self.features:  # load_dataset would fail, or make columns up
            raise ReleaseError(
                f"Expected {path} with the columns of {self.paths[0]}, {self.features}, got {rows.features}; mine "
                "again."
            )
        self.rows[split] = self.rows.get(split, 0) + len(rows)
        self.num_bytes[split] = self.num_bytes.get(split, 0) + rows.data.nbytes
        self.paths.append(path)


def check_shard(mined: MinedShards, shard: Shard, rows: Dataset) -> MiningRecord:
    """Audit the rows of one file, and return the record as if it were that of the file.

    Raises:
        ColumnError: the mined columns are not there.
        ReleaseError: they are not sound.
    """
    statistics = compute_statistics(rows, num_negatives=mined.record.statistics.num_negatives)
    record = replace(mined.record, rows={shard.split: len(rows)}, statistics=statistics)
    if len(rows):
        check_mined(DatasetDict({shard.split: rows}), record)
    return record


def stage_shards(mined: MinedShards, folder: Path, *, layouts: Sequence[OutputFormat], send: Send) -> Staged:
    """Write, check and send every file of a release, so that no more than one mined file is here at a time.

    Args:
        mined: what is released.
        folder: an empty folder.
        layouts: the first one is the default configuration.
        send: takes each file away.

    Returns:
        What was written, of which the folder has nothing any more.

    Raises:
        ReleaseError: rows are not sound, files have different columns, or a layout or a split of it comes out without
            any row.
        StoreError: the folder cannot be written, for instance because the disk is full.
    """
    statistics = mined.record.statistics
    longest = max((length for length, rows in enumerate(statistics.negatives_per_row) if rows), default=0) or 1
    made = [_Layout(name) for name in layouts]
    for name in layouts:
        if message := describe_shortage(statistics, name, longest):
            warnings.warn(f"In the layout {name}: {message}", ShortRowsWarning, stacklevel=2)
    entries: FileEntries = {}
    for shard, rows in mined.read():
        record = check_shard(mined, shard, rows)
        for layout in made:
            path, formatted = _write(shard, rows, layout.name, record, longest, folder)
            layout.add(shard.split, formatted, path)
            entries[path] = describe_file(folder / path)
            send(path, folder / path)
    configs = tuple(_config(layout, entries, default=place == 0) for place, layout in enumerate(made))
    pictures = draw_pictures(statistics, method=mined.record.recipe.method)
    for path, content in pictures.items():
        _save(folder / path, content)
        entries[path] = describe_file(folder / path)
        send(path, folder / path)
    return Staged(folder, configs, dict(sorted(entries.items())), tuple(pictures))


def _write(
    shard: Shard, rows: Dataset, layout: OutputFormat, record: MiningRecord, longest: int, folder: Path
) -> tuple[str, Dataset]:
    """Write the rows of one file in a layout, and read them back; return the path in the release, and the rows."""
    recipe, path = record.recipe, f"{layout}/{shard.split}-{shard.number:05d}-of-{shard.count:05d}.parquet"
    formatted = format_shard(
        rows,
        layout,
        anchor=recipe.anchor_column_name,
        positive=recipe.positive_column_name,
        num_negatives=longest,
    )
    target = folder / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            write_rows(formatted, file)
    except OSError as error:
        raise _full(target, error) from error
    again = Dataset(pq.read_table(target))
    if again.features != formatted.features or len(again) != len(formatted):
        raise ReleaseError(
            f"Expected {len(formatted)} rows with {formatted.features} in the staged {path}, got {len(again)} with "
            f"{again.features}."
        )
    if len(again):
        check_rows(layout, DatasetDict({shard.split: again}), record)
    return path, formatted


def _config(layout: _Layout, entries: FileEntries, *, default: bool) -> ConfigFiles:
    check_filled(layout.name, layout.rows)
    content = digest_of(*(str(entries[path]["sha256"]) for path in layout.paths))
    return ConfigFiles(
        config_name=layout.name,
        layout=layout.name,
        default=default,
        data_files={split: pattern_of(layout.name, split) for split in layout.rows},
        features=layout.features or Features(),
        num_examples=layout.rows,
        num_bytes=layout.num_bytes,
        description=f"layout {layout.name}, content {content}",
    )


def _save(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise _full(path, error) from error


def _full(path: Path, error: OSError) -> StoreError:
    reason = error.strerror or str(error)
    return StoreError(error.errno, f"Could not write {path} ({reason}); free some space, and run again.")
