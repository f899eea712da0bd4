"""Where the rows and passages of a run are: files that every worker can open, on any fsspec path."""

from __future__ import annotations

import contextlib
import glob
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
from datasets import Dataset, DatasetDict, Features, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetsError

from hn_datasets.columns import explain_unreadable, resolve_columns
from hn_datasets.errors import ArgumentError, DataSourceError, TextError
from hn_datasets.files import open_filesystem
from hn_datasets.sources import READERS, is_hub_id
from hn_datasets.texts import digest_of

HUB_FILE = re.compile(r"hf://datasets/[^@]+@([0-9a-f]{40})/")

STATES = ("ETag", "etag", "blob_id", "md5Hash", "mtime", "LastModified", "last_modified", "updated")
"""Where file systems say what changes with a file, the best first."""


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
        info = filesystem.info(path)
        # Not of all that is said: a store says more of a file than of one in the listing of a folder.
        state = next((str(info[name]) for name in STATES if info.get(name)), None)
        return digest_of(self.path, str(info["size"]), state or str(filesystem.ukey(path)))


def list_files(source: str, *, config_name: str | None, split: str | None, revision: str | None) -> list[SourceFile]:
    """Return the files of a source in their order, without reading them.

    Args:
        source: a Hub id, a folder, or a Parquet, JSON Lines or CSV file on any fsspec path; ``*`` stands for many.
        config_name: configuration of a dataset on the Hub.
        split: one split; all of them if None.
        revision: branch, tag or commit on the Hub.

    Raises:
        DataSourceError: nothing is there, or no such split.
        ArgumentError: ``split`` asks for a part of a split; or ``config_name`` or ``revision`` with files.
    """
    if split is not None and "[" in split:
        raise ArgumentError(f"Expected a whole split for the engine ray, got {split!r}; name it without brackets.")
    kind = READERS.get(Path(source).suffix)
    if "://" in source:
        if kind is None:
            raise DataSourceError(
                f"Expected files that end in {', '.join(READERS)}, got {source!r}; for those of a folder, "
                f"'{source.rstrip('/')}/*.parquet'."
            )
        open_filesystem(source)
    for name, value in (("config_name", config_name), ("revision", revision)):
        if value is not None and not is_hub_id(source):
            raise ArgumentError(f"{name} has no effect on the files {source!r}; leave it out.")
    with explain_unreadable(source), _explain_unreachable(source):
        if kind is not None:
            builder = load_dataset_builder(kind, data_files=pattern_of(source))
        else:
            builder = load_dataset_builder(source, config_name, revision=revision)
    if builder.config.data_files is None:
        raise DataSourceError(
            f"Expected Parquet, JSON Lines or CSV files in {source!r}, got none; save the dataset as Parquet."
        )
    kind = kind or type(builder).__module__.split(".")[-1]
    found = {str(name): list(map(str, paths)) for name, paths in builder.config.data_files.items()}
    if split is not None and split not in found:
        raise DataSourceError(f"Expected one of the splits {', '.join(found)}, got {split!r}.")
    if not any(found.values()):
        raise DataSourceError(f"Expected at least one file, got none: nothing is at {source!r}; check the path.")
    if kind not in READERS.values():
        raise DataSourceError(f"Expected Parquet, JSON Lines or CSV files in {source!r}, got {kind}; convert them.")
    names = [split] if split is not None else list(found)
    return [SourceFile(name, path, kind) for name in names for path in found[name]]


@contextlib.contextmanager
def _explain_unreachable(source: str) -> Iterator[None]:
    """Turn whatever a file system elsewhere says that does not answer into one line.

    Raises:
        DataSourceError: it does not answer, or wants credentials.
    """
    try:
        yield
    except (FileNotFoundError, ValueError, TypeError, DatasetsError):
        raise
    except Exception as error:
        if "://" not in source:
            raise
        raise DataSourceError(
            f"Expected an answer from {source!r}, got {type(error).__name__} ({' '.join(str(error).split())[:200]}); "
            "check its name, the credentials and the network."
        ) from error


def commit_of(files: Sequence[SourceFile]) -> str | None:
    """Return the commit on the Hub at which files are read; None for files elsewhere."""
    found = HUB_FILE.match(files[0].path) if files else None
    return None if found is None else found[1]


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


def write_ray_dataset(dataset: Any, folder: Path) -> list[SourceFile]:
    """Write a Ray Dataset to the shared storage, block by block in its order; return its files.

    Nothing tells whether another Ray Dataset is the same, so a run on one does not go on from the rows of an earlier
    run; vectors are found again all the same.
    """
    from ray.data import DataContext  # noqa: PLC0415 - an extra

    DataContext.get_current().execution_options.preserve_order = True
    target = folder / f"ray-dataset-{secrets.token_hex(8)}"
    dataset.write_parquet(str(target))
    return [SourceFile("train", str(path), "parquet") for path in sorted(target.glob("*.parquet"))]


def find_features(files: Sequence[SourceFile]) -> Features:
    """Return the types of the columns, from the first file that has rows, as ``load_dataset`` tells them.

    Raises:
        DataSourceError: the file cannot be read.
        TextError: no file has rows.
    """
    for file in files:
        features = _read_features(file)
        if features is not None:
            return features
    raise TextError(f"Expected a dataset with rows, got {len(files):,} empty files, first {files[0].path!r}.")


def _read_features(file: SourceFile) -> Features | None:
    """Return the types of the columns of a file; None where it is empty and does not tell them."""
    filesystem, path = fsspec.core.url_to_fs(file.path)
    if not filesystem.size(path):
        return None
    with explain_unreadable(file.path):
        stream: Any = load_dataset(file.kind, data_files=pattern_of(file.path), split="train", streaming=True)
        if stream.features is not None:
            return stream.features
        # A block of the file and not the first rows, in which a column may hold None alone.
        first = next(iter(stream._ex_iterable.iter_arrow()), None)
    return None if first is None else Features.from_arrow_schema(first[1].schema)


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
    first = load_dataset(
        files[0].kind, data_files=pattern_of(files[0].path), split="train", streaming=True, features=features
    )
    return resolve_columns(first, anchor, positive)


def pattern_of(source: str) -> str:
    """Return what ``load_dataset`` takes for a file, or for files where ``*`` stands for many."""
    if "://" in source:
        return source
    path = Path(source).expanduser().absolute()
    return glob.escape(str(path)) if path.exists() else str(path)


def file_keys(files: list[SourceFile]) -> Iterator[str]:
    """Yield what changes when a file does."""
    return (f"{file.split} {file.key}" for file in files)
