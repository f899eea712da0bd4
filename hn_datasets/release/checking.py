"""What must hold before a release leaves this machine: the mined data is sound, and the staged files read back."""

from __future__ import annotations

import tempfile
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset

from hn_datasets.batches import MINED_COLUMNS, check_columns
from hn_datasets.columns import splits_of
from hn_datasets.errors import ArgumentError, ReleaseError
from hn_datasets.inspection.agreement import check_card
from hn_datasets.inspection.audit import audit_dataset
from hn_datasets.inspection.opening import open_source
from hn_datasets.inspection.report import Finding
from hn_datasets.record import MiningRecord
from hn_datasets.release.card import ConfigFiles
from hn_datasets.release.staging import NORMALIZED, Staged


def check_mined(mined: Dataset | DatasetDict, record: MiningRecord) -> None:
    """Audit the mined rows against their record, before anything is staged.

    Raises:
        ArgumentError: there are no rows.
        ColumnError: the mined columns, or those of the texts, are not there.
        ReleaseError: the audit finds something broken, for instance statistics that are not those of the data.
    """
    splits = splits_of(mined)
    for split in splits.values():
        texts = (record.recipe.anchor_column_name, record.recipe.positive_column_name)
        check_columns(split.column_names, (*MINED_COLUMNS, *texts))
    if not any(len(split) for split in splits.values()):
        raise ArgumentError("Expected a mined dataset with rows, got 0 rows; mine something first.")
    report = audit_dataset(mined, record=record)
    if not report.ok:
        raise ReleaseError(
            f"Expected mined data that is sound and agrees with its record, got {_say(report.broken[0])}; mine it "
            "again, or pass the record that belongs to it."
        )


def check_staged(staged: Staged, record: MiningRecord) -> None:
    """Load every configuration of a staged release as its users will, and audit it.

    Raises:
        ReleaseError: something cannot be loaded, differs from what was written, or is broken.
    """
    for finding in check_card(open_source(staged.folder)):
        raise ReleaseError(f"Expected a card that agrees with the staged files, got {_say(finding)}.")
    for config in staged.configs:
        # A cache of its own: what is loaded here is of no use to anyone, and must not be an older release.
        with tempfile.TemporaryDirectory(dir=staged.folder.parent, prefix="check-") as cache:
            _check_config(config, _load(staged.folder, config, cache), record)


def _load(folder: Path, config: ConfigFiles, cache: str) -> DatasetDict:
    name = None if config.default else config.config_name
    try:
        loaded = load_dataset(str(folder), name, cache_dir=cache)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ReleaseError(f"Expected to load the staged configuration {config.config_name}, got {reason}.") from error
    if not isinstance(loaded, DatasetDict):
        raise ReleaseError(f"Expected the splits of {config.config_name}, got {type(loaded).__name__}.")
    return loaded


def _check_config(config: ConfigFiles, loaded: DatasetDict, record: MiningRecord) -> None:
    rows, features = dict(loaded.num_rows), next(iter(loaded.values())).features
    if rows != config.num_examples or features != config.features:
        raise ReleaseError(
            f"Expected {config.num_examples} rows with {config.features} in the staged configuration "
            f"{config.config_name}, got {rows} with {features}."
        )
    if config.layout != NORMALIZED:
        check_rows(config.config_name, loaded, record)


def check_rows(config_name: str, loaded: DatasetDict, record: MiningRecord) -> None:
    """Audit the rows of a configuration.

    Raises:
        ReleaseError: something is broken.
    """
    report = audit_dataset(loaded, record=record)
    if not report.ok:
        raise ReleaseError(
            f"Expected a sound configuration {config_name}, got {_say(report.broken[0])}; please report this."
        )


def _say(finding: Finding) -> str:
    place = finding.where if finding.row is None else f"{finding.where} row {finding.row}"
    return f"{finding.count:,} times that {finding.meaning} ({place}: {finding.text})"
