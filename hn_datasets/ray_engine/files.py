"""Where the rows and passages of a run are: files that every worker can open, on any fsspec path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
from datasets import Dataset, DatasetDict, Features, load_dataset, load_dataset_builder

from hn_datasets.columns import explain_unreadable, resolve_columns
from hn_datasets.errors import ArgumentError, DataSourceError, TextError
from hn_datasets.sources import READERS
from hn_datasets.texts import digest_of


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes:
        split: where its rows belong.
        path: as fsspec names it.
        kind: "parquet", "json" or "csv".
    """

    split: str
    path: str
    kind: str

    @property
    def key(self) -> str:
        """What changes when the file does: a digest of its name, size and time, or of what its store says instead."""
        filesystem, path = fsspec.core.url_to_fs(self.path)
        return digest_of(self.path, str(filesystem.ukey(path)))


def list_files(source: str, *, config_name: str | None, split: str | None, revision: str | None) -> list[SourceFile]:
    """Return the files of a source in their order, without reading them.

    Args:
        source: a Hub id, a folder, or a Parquet, JSON Lines or CSV file on any fsspec path; ``*`` stands for many.
        config_name: configuration of a dataset on the Hub.
        split: one split; all of them if None.
        revision: branch, tag or commit on the Hub.

    Raises:
        DataSourceError: nothing is there, or no such split.
        ArgumentError: ``split`` asks for a part of a split.
    """
    if split is not None and "[" in split:
        raise ArgumentError(f"Expected a whole split for the engine ray, got {split!r}; name it without brackets.")
    kind = READERS.get(Path(source).suffix)
    with explain_unreadable(source):
        if kind is not None:
            builder = load_dataset_builder(kind, data_files=_absolute(source))
        else:
            builder = load_dataset_builder(source, config_name, revision=revision)
    if builder.config.data_files is None:
        raise DataSourceError(
            f"Expected Parquet, JSON Lines or CSV files in {source!r}, got none; save the dataset as Parquet."
        )
    kind = kind or type(builder).__module__.split(".")[-1]
    names = [split] if split is not None else list(builder.config.data_files)
    if split is not None and split not in builder.config.data_files:
        raise DataSourceError(f"Expected one of the splits {', '.join(builder.config.data_files)}, got {split!r}.")
    if kind not in READERS.values():
        raise DataSourceError(f"Expected Parquet, JSON Lines or CSV files in {source!r}, got {kind}; convert them.")
    return [SourceFile(name, str(path), kind) for name in names for path in builder.config.data_files[name]]


def write_given(dataset: Dataset | DatasetDict, folder: Path) -> list[SourceFile]:
    """Write a dataset that the driver holds to the shared storage, once; return its files."""
    splits = dataset if isinstance(dataset, DatasetDict) else {str(dataset.split or "train"): dataset}
    files = []
    for name, split in splits.items():
        path = folder / f"{name}-{split._fingerprint}.parquet"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".writing")
            split.to_parquet(temporary)
            temporary.replace(path)
        files.append(SourceFile(name, str(path), "parquet"))
    return files


def find_features(files: list[SourceFile]) -> Features:
    """Return the types of the columns, from the first file.

    Raises:
        DataSourceError: the file cannot be read.
        TextError: it has no rows.
    """
    if not files:
        raise DataSourceError("Expected at least one source file, got none; check the path.")
    first: Any = None
    with explain_unreadable(files[0].path):
        first = load_dataset(files[0].kind, data_files=files[0].path, split="train", streaming=True)
        features = first.features or first._resolve_features().features
    if features is None:
        raise TextError(f"Expected rows in {files[0].path!r}, got none.")
    return features


def resolve_names(
    source: str,
    anchor: str | None,
    positive: str | None,
    *,
    config_name: str | None,
    split: str | None,
    revision: str | None,
) -> tuple[str, str]:
    """Return the columns of anchors and positives: as given, or the first two text columns; see ``list_files``."""
    files = list_files(source, config_name=config_name, split=split, revision=revision)
    features = find_features(files)
    first = load_dataset(files[0].kind, data_files=files[0].path, split="train", streaming=True, features=features)
    return resolve_columns(first, anchor, positive)


def _absolute(source: str) -> str:
    return source if "://" in source else str(Path(source).expanduser().absolute())


def file_keys(files: list[SourceFile]) -> Iterator[str]:
    """Yield what changes when a file does."""
    return (f"{file.split} {file.key}" for file in files)
