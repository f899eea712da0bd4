"""Where data comes from and goes to: a Hub id or local files, and a folder that ``load_dataset`` reads back."""

from __future__ import annotations

import contextlib
import glob
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import httpx2
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id

from hn_datasets.columns import explain_unreadable
from hn_datasets.errors import ArgumentError, DataSourceError
from hn_datasets.files import check_readable, replaced_folder
from hn_datasets.readme import render_readme
from hn_datasets.record import RECORD_FILE, MiningRecord
from hn_datasets.shards import split_file_names, write_shards
from hn_datasets.texts import digest_of

READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
RECIPE_FILE = "recipe.json"


def load_source(
    source: str, *, config_name: str | None = None, split: str | None = None, revision: str | None = None
) -> Dataset | DatasetDict:
    """Load a dataset from a Hub id, a Parquet, JSON Lines or CSV file, or a folder.

    Args:
        source: the id or path; a folder may come from ``save_to_disk`` or hold data files.
        config_name: configuration of a dataset on the Hub.
        split: one split, or a part of it such as ``train[:1000]``; all of them if None.
        revision: branch, tag or commit on the Hub.

    Raises:
        DataSourceError: a path that does not exist, a file of another kind or one that cannot be read, a split,
            configuration or revision that is not there, or the Hub has no such dataset or cannot be reached.
        ArgumentError: ``config_name`` or ``revision`` with a local source.
    """
    path = Path(source).expanduser()
    if not source or not path.exists():
        revision = find_commit(source, revision)
        with _explain_unreachable(source), explain_unreadable(source):
            return load_dataset(source, config_name, split=split, revision=revision)
    for name, value in (("config_name", config_name), ("revision", revision)):
        if value is not None:
            raise ArgumentError(f"{name} has no effect on the local source {source!r}; leave it out.")
    if path.is_file():
        if path.suffix not in READERS:
            raise DataSourceError(f"Expected a file that ends in {', '.join(READERS)}, got {source!r}; convert it.")
        with explain_unreadable(source):
            return load_dataset(READERS[path.suffix], data_files=glob.escape(str(path)), split=split or "train")
    with explain_unreadable(source):
        if not (path / "dataset_dict.json").exists() and not (path / "state.json").exists():
            return load_folder(path, split=split)
        loaded = load_from_disk(str(path))
    if split is None:
        return loaded
    if not isinstance(loaded, DatasetDict):
        raise ArgumentError(
            f"split={split!r} has no effect: {source!r} holds one dataset without splits; leave it out."
        )
    if split not in loaded:
        raise DataSourceError(f"Expected one of the splits {', '.join(loaded)}, got {split!r}.")
    return loaded[split]


def load_folder(
    folder: Path, config_name: str | None = None, *, split: str | None = None, **options: Any
) -> Dataset | DatasetDict:
    """Return what ``load_dataset`` reads from a folder, of its files as they are now.

    By itself it keeps what it has read by the folder's last name and card alone, and gives that again when files have
    changed, or for another folder. So each state of each folder has a cache of its own, and rows of two states
    different fingerprints.

    Args:
        folder: with data files, and maybe a card.
        config_name: one of the card's; the default one if None.
        split: one split, or a part of it; all of them if None.
        options: further ones of ``load_dataset``.
    """
    state = _state_of(folder)
    cache = Path(datasets.config.HF_DATASETS_CACHE, f"folder-{state}")
    loaded = load_dataset(str(folder), config_name, split=split, cache_dir=str(cache), **options)
    for rows in loaded.values() if isinstance(loaded, DatasetDict) else [loaded]:
        rows._fingerprint = digest_of(rows._fingerprint, state)
    return loaded


def _state_of(folder: Path) -> str:
    """Return a digest of where a folder is, and of names, sizes and times of all its files."""
    parts = [str(folder.resolve())]
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            now = path.stat()
            parts.append(f"{path.relative_to(folder).as_posix()} {now.st_size} {now.st_mtime_ns} {now.st_ctime_ns}")
    return digest_of(*parts)


def is_hub_id(source: str) -> bool:
    """Return whether a source is a dataset on the Hub, and no path, pattern or address of files."""
    return bool(source) and "://" not in source and not (_is_file(source) or Path(source).expanduser().exists())


def _is_file(source: str) -> bool:
    return Path(source).suffix in READERS


def find_commit(source: str, revision: str | None) -> str | None:
    """Return the commit that a branch or tag of a dataset on the Hub stands for now; of a local source, ``revision``.

    What is loaded at the commit is what the record names, also when somebody pushes meanwhile. Where the client is
    told to stay offline, ``revision`` comes back as it is.

    Raises:
        DataSourceError: neither a path nor on the Hub, a revision that is not there, or the Hub cannot be reached.
    """
    if source and Path(source).expanduser().exists():
        return revision
    _check_repo_id(source)
    if constants.HF_HUB_OFFLINE:
        return revision
    try:
        with _explain_unreachable(source):
            return HfApi().dataset_info(source, revision=revision).sha
    except RevisionNotFoundError as error:
        raise DataSourceError(
            f"Expected a branch, tag or commit of {source!r} on the Hub, got {revision!r}, which is none; check the "
            "revision."
        ) from error
    except RepositoryNotFoundError as error:
        raise DataSourceError(
            f"{_missing(source)} or folder here, and no dataset on the Hub that you may read; check the name, or log "
            "in by `hf auth login`."
        ) from error


@contextlib.contextmanager
def _explain_unreachable(source: str) -> Iterator[None]:
    """Turn what the clients say where there is no connection into one line.

    Raises:
        DataSourceError: the Hub cannot be reached, or may not be.
    """
    try:
        yield
    except (httpx2.TransportError, ConnectionError) as error:
        do = (
            "none of this name in the cache, which HF_HUB_OFFLINE=1 keeps to; check the path, or unset it"
            if constants.HF_HUB_OFFLINE
            else f"the Hub cannot be reached ({error}); check the path or the connection, or set HF_HUB_OFFLINE=1 to "
            "load what is in the cache"
        )
        raise DataSourceError(f"{_missing(source)} or folder here, and {do}.") from error


def describe_source(source: str, config_name: str | None, split: str | None, revision: str | None) -> dict[str, str]:
    """Return what the record says of a source: a Hub id with configuration and revision, or the name of files."""
    parts = Path(source).expanduser().parts
    name = "/".join(parts[-2:] if parts and "*" in parts[-1] else parts[-1:])  # "*.parquet" alone says nothing
    where = {"repo_id": source} if is_hub_id(source) else {"path": name}
    given = {"config_name": config_name, "split": split, "revision": revision}
    return {**where, **{name: value for name, value in given.items() if value is not None}}


def write_mined(
    mined: Dataset | DatasetDict, record: MiningRecord, directory: Path, *, overwrite: bool = False
) -> MiningRecord:
    """Write a mined dataset as Parquet shards that ``load_dataset(directory)`` reads, with recipe, record and card.

    The folder appears whole or not at all.

    Returns:
        The record as it was written: with the seconds that the shards took.

    Raises:
        ArgumentError: the folder is there already and ``overwrite`` is off, or it holds something else; two splits
            would be the same file.
        StoreError: the folder cannot be written.
    """
    check_output(directory, overwrite=overwrite)
    splits = mined if isinstance(mined, DatasetDict) else {str(mined.split or "train"): mined}
    names = split_file_names(splits)
    with replaced_folder(directory, partial(check_output, overwrite=overwrite)) as folder:
        (folder / "data").mkdir()
        start = time.perf_counter()
        for name, split in splits.items():
            write_shards(split, folder / "data", names[name])
        record = replace(record, timings={**record.timings, "write": time.perf_counter() - start})
        (folder / RECIPE_FILE).write_text(record.recipe.to_json() + "\n", encoding="utf-8")
        (folder / RECORD_FILE).write_text(record.to_json(), encoding="utf-8")
        estimate = None if record.estimate is None else record.estimate.describe()
        card = render_readme(record.recipe, record.statistics, record.rows, record.corpus, record.source, estimate)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return record


def check_output(directory: Path, *, overwrite: bool) -> None:
    """Check that ``write_mined`` can and may write here, before anything expensive starts.

    Raises:
        ArgumentError: the folder is there already and ``overwrite`` is off, it holds something else, no folder can be
            made there, or nobody could load it there.
    """
    check_readable(directory)
    try:
        _check_folder(directory, overwrite=overwrite)
        parent = directory.absolute().parent
        while not parent.exists():
            parent = parent.parent
        tempfile.TemporaryDirectory(dir=parent, prefix=f".{directory.name}-").cleanup()
    except OSError as error:
        raise ArgumentError(
            f"Expected an output folder that can be written, got {str(directory)!r} ({error.strerror or error}); name "
            "another."
        ) from error


def _check_folder(directory: Path, *, overwrite: bool) -> None:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not (directory / RECIPE_FILE).exists():
        raise ArgumentError(
            f"Expected a new or mined folder as output, {directory} holds something else; name another."
        )
    if not overwrite:
        raise ArgumentError(f"{directory} holds a mined dataset already; name another folder, or pass --overwrite.")


def _check_repo_id(source: str) -> None:
    try:
        validate_repo_id(source)
    except HFValidationError:
        raise DataSourceError(f"{_missing(source)} or folder; check the path.") from None
    if _is_file(source):
        raise DataSourceError(f"{_missing(source)}; check the path.")


def _missing(source: str) -> str:
    return f"Expected a Hub id or an existing path, got {source!r}: no such file"
