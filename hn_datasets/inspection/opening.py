"""Opening a mined dataset from anywhere: a file, a folder or a release on the Hub, with what stands beside it."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetDict, VerificationMode, load_dataset
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from huggingface_hub import DatasetCard, HfApi, HfFileSystem
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import HfHubHTTPError, HFValidationError, validate_repo_id
from yaml import YAMLError  # type: ignore[import-untyped]

from hn_datasets.batches import OUTPUT_FORMATS
from hn_datasets.columns import explain_unreadable
from hn_datasets.errors import ArgumentError, DataSourceError, HNDatasetsError
from hn_datasets.files import describe_file
from hn_datasets.inspection.roles import TABLES, as_splits
from hn_datasets.record import RECORD_FILE, MiningRecord
from hn_datasets.sources import READERS, load_folder, load_source

CARD_FILE = "README.md"
LOSSLESS = "scored"
"""The layout that holds all that was mined."""
NORMALIZED = "normalized"
"""The layout of three tables, each of which is a configuration."""
ASKED_PATHS = 500
"""How many files one request to the Hub asks for."""


@dataclass(frozen=True)
class Opened:
    """A dataset whose parts are read when they are asked for.

    Attributes:
        source: a path, or an id on the Hub.
        revision: the commit on the Hub; None for a path.
        token: for the Hub; the one of the environment if None.
        files: the file system of the files beside the data; None where ``source`` is a file.
        root: where the files begin.
    """

    source: str
    revision: str | None
    token: str | None
    files: Any
    root: str

    @cached_property
    def record(self) -> MiningRecord | None:
        """What ``mining.json`` holds; None where there is none.

        Raises:
            DataSourceError: the file is no record, or one of a later schema.
            ArgumentError: its recipe is none.
        """
        text = self.read(RECORD_FILE)
        if text is None:
            return None
        try:
            return MiningRecord.from_dict(json.loads(text))
        except HNDatasetsError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataSourceError(
                f"Expected a record in {RECORD_FILE} of {self.source!r}, got a file that is not ({error!r})."
            ) from error

    @cached_property
    def card(self) -> dict[str, Any]:
        """The YAML of the card; empty where there is none.

        Raises:
            DataSourceError: it is no YAML.
        """
        text = self.read(CARD_FILE)
        if text is None or not text.startswith("---"):
            return {}
        try:
            data: dict[str, Any] = DatasetCard(text).data.to_dict()  # type: ignore[no-untyped-call]
        except (YAMLError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataSourceError(
                f"Expected YAML at the top of {CARD_FILE} of {self.source!r}, got text that is not ({reason})."
            ) from error
        return data

    @cached_property
    def config_names(self) -> list[str]:
        """The configurations that the card names, the default one first."""
        configs = named_entries(self.card.get("configs"))
        return [
            name for name, config in sorted(configs, key=lambda one: one[0] != "default" and not one[1].get("default"))
        ]

    @property
    def layouts(self) -> list[str]:
        """The layouts that there are as configurations, in the order of the card."""
        names = [name for name in self.config_names if name in OUTPUT_FORMATS and name != NORMALIZED]
        return [*names, NORMALIZED] if set(self.config_names).issuperset(self.parts(NORMALIZED)) else names

    def parts(self, config_name: str | None) -> list[str]:
        """Return the configurations that have to be read for one: the three tables of the layout ``normalized``."""
        if config_name == NORMALIZED and NORMALIZED not in self.config_names:
            return [f"{NORMALIZED}-{table}" for table in sorted(TABLES)]
        return self.config_names[:1] if config_name is None else [config_name]

    def choose_config(self) -> str | None:
        """Return the configuration that has all that was mined; None where there is none."""
        return LOSSLESS if LOSSLESS in self.config_names else None

    def load(self, config_name: str | None = None) -> DatasetDict:
        """Return the splits of a configuration, without a check of what the card says about them.

        Raises:
            DataSourceError: there is no such configuration, or the data cannot be read.
            ArgumentError: ``config_name`` with a single file or a folder of ``save_to_disk``.
        """
        parts = self.parts(config_name)
        if len(parts) > 1:
            return as_splits(DatasetDict({name.split("-")[1]: self.load(name)["train"] for name in parts}))
        local = self.revision is None
        saved = (Path(self.root) / "dataset_dict.json", Path(self.root) / "state.json")
        if local and (self.files is None or any(path.exists() for path in saved)):
            return as_splits(load_source(self.source, config_name=config_name))
        with explain_unreadable(self.source):
            try:
                unchecked = VerificationMode.NO_CHECKS
                if local:
                    loaded = load_folder(Path(self.root), config_name, verification_mode=unchecked)
                else:
                    hub = {"revision": self.revision, "token": self.token}
                    loaded = load_dataset(self.source, config_name, verification_mode=unchecked, **hub)
            except (TypeError, AttributeError, KeyError) as error:  # YAML of the card that is of another shape
                raise ValueError(repr(error)) from error
        return as_splits(loaded)

    def find(self, pattern: str) -> list[str]:
        """Return the files that match a pattern of the card's ``data_files``."""
        if self.files is None:
            return []
        return sorted(self.files.glob(f"{glob.escape(self.root)}/{pattern.removeprefix('./')}"))

    def describe(self, paths: Sequence[str]) -> dict[str, dict[str, str | int]]:
        """Return ``size`` and ``sha256`` of those files that are there; on the Hub only what it knows of them."""
        if self.files is None:
            return {}
        if self.revision is None:
            local = {path: Path(self.root, path) for path in paths}
            return {path: describe_file(file) for path, file in local.items() if file.is_file()}
        ask = partial(HfApi(token=self.token).get_paths_info, self.source, repo_type="dataset", revision=self.revision)
        starts = range(0, len(paths), ASKED_PATHS)
        found = [item for start in starts for item in ask(list(paths[start : start + ASKED_PATHS]))]
        return {
            item.path: {"size": item.size, **({"sha256": item.lfs.sha256} if item.lfs is not None else {})}
            for item in found
            if isinstance(item, RepoFile)
        }

    def count_rows(self, path: str) -> int:
        """Return the number of rows of a Parquet file, of which only the end is read.

        Raises:
            DataSourceError: it is no Parquet file, or a damaged one.
        """
        try:
            with self.files.open(path, "rb") as file:
                return int(pq.read_metadata(file).num_rows)
        except HfHubHTTPError:
            raise
        except (pa.ArrowInvalid, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataSourceError(
                f"Expected a Parquet file, {path} cannot be read ({reason}); write or download it again."
            ) from error

    def read(self, name: str) -> str | None:
        """Return the text of a file beside the data; None where there is none."""
        path = f"{self.root}/{name}"
        if self.files is None or not self.files.exists(path):
            return None
        with self.files.open(path, "rb") as file:
            return str(file.read().decode("utf-8", "replace"))


def named_entries(entries: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return name and content of each entry of a card's ``configs`` or ``dataset_info``, which may also be only one."""
    listed = entries if isinstance(entries, list) else [entries]
    return [(str(entry.get("config_name", "default")), entry) for entry in listed if isinstance(entry, dict)]


def parse_release(name: str) -> tuple[str, str | None]:
    """Return repository and revision of ``"me/repo@v1.0.0"``; the revision of ``"me/repo"`` is None.

    Raises:
        ArgumentError: nothing stands before or after the @.
    """
    repo_id, at, revision = name.partition("@")
    if not repo_id or (at and not revision):
        raise ArgumentError(f"Expected a release as REPO@REVISION, for instance me/repo@v1.0.0, got {name!r}.")
    return repo_id, revision or None


def open_source(source: str | Path, *, revision: str | None = None, token: str | None = None) -> Opened:
    """Open a file, a folder, or a dataset on the Hub at one commit.

    Args:
        source: a path, or ``REPO`` or ``REPO@REVISION`` on the Hub.
        revision: branch, tag or commit on the Hub.
        token: for the Hub; the one of the environment if None.

    Raises:
        ArgumentError: a revision is given twice, or for a path.
        DataSourceError: it is neither a path nor an id of the Hub, or the Hub cannot be reached.
    """
    path = Path(source).expanduser()
    if str(source) and path.exists():
        if revision is not None:
            raise ArgumentError(f"revision={revision!r} has no effect on the local source {source}; leave it out.")
        return Opened(str(path), None, token, LocalFileSystem() if path.is_dir() else None, str(path.absolute()))
    repo_id, named = parse_release(str(source))
    if named is not None and revision is not None:
        raise ArgumentError(f"Expected one revision, got {named!r} in {source} and {revision!r}; leave one out.")
    missing = f"Expected a Hub id or an existing path, got {str(source)!r}: no such file or folder"
    try:
        validate_repo_id(repo_id)
        if path.suffix in READERS:
            raise HFValidationError
        commit = str(HfApi(token=token).dataset_info(repo_id, revision=named or revision).sha)
    except HFValidationError:
        raise DataSourceError(f"{missing}.") from None
    except HfHubHTTPError:
        raise
    except Exception as error:  # whatever the HTTP library says where there is no connection
        raise DataSourceError(f"{missing}, and the Hub cannot be reached ({error}).") from error
    return Opened(repo_id, commit, token, HfFileSystem(token=token), f"datasets/{repo_id}@{commit}")
