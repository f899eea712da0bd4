"""The data and pictures of a release as files in a folder."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, get_args

from datasets import Dataset, DatasetDict

from hn_datasets.batches import OutputFormat
from hn_datasets.errors import ArgumentError, ReleaseError, ShortRowsWarning, StoreError
from hn_datasets.files import describe_file
from hn_datasets.formats import format_dataset
from hn_datasets.record import MiningRecord
from hn_datasets.release.card_data import ConfigFiles
from hn_datasets.release.plots import draw_pictures
from hn_datasets.shards import split_file_names, write_shards
from hn_datasets.texts import digest_of

NORMALIZED = "normalized"

FileEntries: TypeAlias = dict[str, dict[str, str | int]]


@dataclass(frozen=True)
class Staged:
    """What was written; the card and ``mining.json`` come later, for they tell of the version.

    Attributes:
        folder: where it lies.
        configs: the configurations, the default one first.
        files: for each file, by its path in the folder, ``sha256`` (64 hexadecimal characters) and ``size`` (bytes).
        pictures: those of the files that are pictures.
    """

    folder: Path
    configs: tuple[ConfigFiles, ...]
    files: FileEntries
    pictures: tuple[str, ...]

    @property
    def patterns(self) -> list[str]:
        """Patterns of the files: of the data as the card has them, and of the pictures."""
        return [*(pattern for config in self.configs for pattern in config.data_files.values()), *self.pictures]

    @property
    def data(self) -> FileEntries:
        """The files that hold rows."""
        return {path: entry for path, entry in self.files.items() if path not in self.pictures}


def check_layouts(layouts: Sequence[str]) -> tuple[OutputFormat, ...]:
    """Return the layouts of a release as they are.

    Raises:
        ArgumentError: there is none, one is unknown, or one comes twice.
    """
    known: dict[str, OutputFormat] = {name: name for name in get_args(OutputFormat)}
    given = () if isinstance(layouts, str) else tuple(known[name] for name in layouts if name in known)
    if not given or len(set(given)) < len(layouts):
        raise ArgumentError(
            f"Expected layouts as a tuple of different names among {', '.join(known)}, the default first, "
            f"got {layouts!r}; correct it."
        )
    return given


def stage_files(
    mined: Dataset | DatasetDict,
    record: MiningRecord,
    folder: Path,
    *,
    layouts: Sequence[OutputFormat],
    shard_bytes: int | None = None,
) -> Staged:
    """Write every layout as Parquet shards, ``<config>/<split>-00000-of-00001.parquet``, and the pictures.

    Args:
        mined: rows with the mined columns.
        record: names the text columns; its statistics are drawn.
        folder: an empty folder.
        layouts: the first one is the default configuration.
        shard_bytes: at most so many bytes of Arrow data in a file.

    Raises:
        ArgumentError: ``shard_bytes`` is no number of bytes.
        ReleaseError: a layout comes out without any row, or a split of it does.
        StoreError: the folder cannot be written, for instance because the disk is full.
    """
    if shard_bytes is not None and not (isinstance(shard_bytes, int) and shard_bytes >= 1):
        raise ArgumentError(
            f"Expected shard_bytes as a whole number of at least 1, got {shard_bytes!r}; 500 MB are 500_000_000."
        )
    try:
        configs = tuple(
            _stage_config(name, layout, table, folder, default=place == 0, shard_bytes=shard_bytes)
            for place, (name, layout, table) in enumerate(_iter_configs(mined, record, layouts))
        )
        pictures = draw_pictures(record.statistics, method=record.recipe.method)
        for path, content in pictures.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
        files = {path: describe_file(folder / path) for path in _list_files(folder)}
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            error.errno, f"Could not write the release to {folder} ({reason}); free some space, and run again."
        ) from error
    return Staged(folder, configs, files, tuple(pictures))


def _iter_configs(
    mined: Dataset | DatasetDict, record: MiningRecord, layouts: Sequence[OutputFormat]
) -> Iterator[tuple[str, OutputFormat, DatasetDict]]:
    """Yield name, layout and splits of each configuration; of the three normalized tables, each is one."""
    recipe = record.recipe
    for layout in layouts:
        with _name_in_warnings(layout):
            formatted = format_dataset(
                mined,
                layout,
                anchor_column_name=recipe.anchor_column_name,
                positive_column_name=recipe.positive_column_name,
            )
        if layout == NORMALIZED:
            for name in ("scores", "queries", "documents"):  # the first one is what a user joins the others to
                yield f"{NORMALIZED}-{name}", layout, DatasetDict(train=formatted[name])
            continue
        splits = formatted if isinstance(formatted, DatasetDict) else {str(formatted.split or "train"): formatted}
        names = split_file_names(splits)
        yield layout, layout, DatasetDict({names[name]: split for name, split in splits.items()})


@contextlib.contextmanager
def _name_in_warnings(layout: str) -> Iterator[None]:
    """Let warnings of rows that a layout drops or keeps short say which layout it is."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        text = f"In the layout {layout}: {warning.message}" if warning.category is ShortRowsWarning else warning.message
        warnings.warn(text, warning.category, stacklevel=2)


def _stage_config(
    name: str, layout: str, splits: DatasetDict, folder: Path, *, default: bool, shard_bytes: int | None
) -> ConfigFiles:
    check_filled(layout, splits.num_rows)
    directory = folder / name
    directory.mkdir()
    written: list[Path] = []
    for split, rows in splits.items():
        written += write_shards(rows, directory, split, shard_bytes=shard_bytes)
    return ConfigFiles(
        config_name=name,
        layout=layout,
        default=default,
        data_files={split: pattern_of(name, split) for split in splits},
        features=next(iter(splits.values())).features,
        num_examples=dict(splits.num_rows),
        num_bytes={split: rows.data.nbytes for split, rows in splits.items()},
        description=f"layout {layout}, content {digest_of(*(str(describe_file(path)['sha256']) for path in written))}",
    )


def check_filled(layout: str, rows: Mapping[str, int]) -> None:
    """Check that every split of a layout has rows.

    Raises:
        ReleaseError: one has none.
    """
    if not any(rows.values()):
        raise ReleaseError(
            f"Expected rows in the layout {layout!r}, it has none, for every row has fewer negatives than it needs, or "
            "was skipped as empty; publish another layout, such as 'scored', which has all rows."
        )
    bare = [split for split, number in rows.items() if not number]
    if bare:
        raise ReleaseError(
            f"Expected rows in every split of the layout {layout!r}, got none in {bare[0]!r}, and load_dataset cannot "
            "read such a split; leave the split out, or publish a layout that has rows for it."
        )


def pattern_of(config: str, split: str) -> str:
    """Return what the card says of the files of a split."""
    return f"{config}/{split}-*.parquet"


def _list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
