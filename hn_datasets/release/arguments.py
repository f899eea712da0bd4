"""What ``publish`` is given: every argument is right and has an effect, and the record is that of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hn_datasets.errors import ArgumentError, ReleaseError
from hn_datasets.estimation.results import Calibration, FalseNegativeEstimate, setting_of
from hn_datasets.filling import FILLED_ID
from hn_datasets.inspection.roles import as_splits
from hn_datasets.miner import HardNegativeMiner
from hn_datasets.record import MiningRecord, sample_batches
from hn_datasets.release.folders import check_folder
from hn_datasets.release.staging import NORMALIZED
from hn_datasets.release.versions import Version

CHECKED_ROWS = 16
"""Rows that are mined again: another method, teacher or corpus shows in nearly every row."""


def check_destination(
    repo_id: str | None, to_folder: str | Path | None, overwrite: bool, online: Mapping[str, Any]
) -> None:
    """Check that the release has one place to go to, and that every argument has an effect there.

    Raises:
        ArgumentError: that is not so.
    """
    if to_folder is None:
        if repo_id is None:
            raise ArgumentError("Expected repo_id, such as 'me/qa-hard-negatives', or to_folder, got neither.")
        if overwrite:
            raise ArgumentError("overwrite has no effect without to_folder: a version on the Hub is never overwritten.")
        return
    useless = [name for name, value in online.items() if value is not None]
    if useless:
        raise ArgumentError(f"{', '.join(useless)} has no effect with to_folder, which uploads nothing; leave it out.")
    check_folder(Path(to_folder), overwrite=overwrite)


def check_for_shards(layouts: Sequence[str], useless: Mapping[str, Any]) -> None:
    """Check that every argument has an effect where files of a folder are published one after another.

    Raises:
        ArgumentError: one has none.
    """
    names = [name for name, value in useless.items() if value is not None]
    if names:
        raise ArgumentError(
            f"{', '.join(names)} has no effect with a folder, whose files are sent one after another; leave it out, or "
            "pass what load_dataset gives and MiningRecord.read(folder), on the command line a local folder without "
            "--file-by-file."
        )
    if NORMALIZED in layouts:
        raise ArgumentError(
            f"Expected layouts that can be made file by file, got {NORMALIZED!r}, whose tables are of all rows; choose "
            "another, or pass what load_dataset gives."
        )


def check_notes(notes: str) -> None:
    """Check that what has changed is told on one line.

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(notes, str) or len(notes.strip().splitlines()) > 1:
        raise ArgumentError(f"Expected notes on one line, got {notes!r:.80}; write the rest into the card.")


def check_parent(parent: str | None) -> None:
    """Check that a release which is followed is named by its version, that of another repository with its name before.

    Raises:
        ArgumentError: it is not.
    """
    if parent is None:
        return
    repo_id, at, version = parent.rpartition("@") if isinstance(parent, str) else ("", "", "")
    try:
        validate_repo_id(repo_id if at else "other")
    except HFValidationError:
        version = ""
    if Version.find(version) is None:
        raise ArgumentError(
            f"Expected parent as a version such as 'v1.0.0', or one of another repository such as 'me/other@v1.0.0', "
            f"got {parent!r}; correct it."
        )


def choose_record(
    mined: Dataset | DatasetDict, miner: HardNegativeMiner | None, record: MiningRecord | None
) -> MiningRecord:
    """Return the record of what is published.

    Raises:
        ArgumentError: both or none are given, something else than a miner, or data that is no dataset in memory or on
            disk.
        ReleaseError: another miner mined the data.
    """
    if not isinstance(mined, (Dataset, DatasetDict)):
        raise ArgumentError(
            f"Expected a Dataset or DatasetDict, got {type(mined).__name__}; write its rows to a Dataset first."
        )
    if (miner is None) == (record is None):
        got = "both" if miner is not None else "neither"
        raise ArgumentError(f"Expected either the miner or the record of the mining, got {got}; pass one.")
    if record is not None:
        return record
    if not isinstance(miner, HardNegativeMiner):
        raise ArgumentError(
            f"Expected a HardNegativeMiner as miner, got {type(miner).__name__}; pass the one that map was called with."
        )
    _check_miner(mined, miner)
    return MiningRecord.of(mined, miner)


def _check_miner(mined: Dataset | DatasetDict, miner: HardNegativeMiner) -> None:
    """Mine some rows again, which come out as they are from the miner that has mined them and from no other.

    Raises:
        ReleaseError: they do not.
    """
    rows, different = 0, 0
    for batch in sample_batches([*as_splits(mined).values()], miner, CHECKED_ROWS):
        again = miner.mine_anew(batch)
        same = np.ones(len(again["negative_ids"]), dtype=bool)
        if "negative_ids" in batch:
            lists = zip(batch["negative_ids"], again["negative_ids"], strict=True)
            same &= [[one for one in ids or () if one != FILLED_ID] == found.tolist() for ids, found in lists]
        for name in ("positive_score", "ceiling", "top_score"):
            if name in batch:
                old, new = (np.asarray(column[name], dtype=np.float64) for column in (batch, again))
                same &= (old == new) | (np.isnan(old) & np.isnan(new))
        rows, different = rows + len(same), different + int((~same).sum())
    if different:
        raise ReleaseError(
            f"Expected data of the miner that is passed, got {different:,} of {rows:,} rows that it mines otherwise; "
            "pass the miner that map was called with."
        )


def add_estimate(record: MiningRecord, estimate: FalseNegativeEstimate | Calibration | None) -> MiningRecord:
    """Return the record with an estimate of its false negatives.

    Raises:
        ArgumentError: it is of another setting, or no estimate.
    """
    if estimate is None:
        return record
    made = estimate.estimate if isinstance(estimate, Calibration) else estimate
    if not isinstance(made, FalseNegativeEstimate):
        raise ArgumentError(
            f"Expected an estimate as estimate_false_negatives returns it, got {type(estimate).__name__}; make one."
        )
    mined = setting_of(record.recipe)
    other = [name for name, value in made.setting.items() if value != mined.get(name)]
    if other:
        raise ArgumentError(
            f"Expected an estimate of what was mined, got one with another {' and '.join(other)}; mine with the "
            "calibrated method, or estimate anew."
        )
    return replace(record, estimate=made)
