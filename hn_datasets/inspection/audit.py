"""The audit of a mined dataset, our own or another's: is it sound, and do card, ``mining.json`` and data agree?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from hn_datasets.errors import HNDatasetsError
from hn_datasets.inspection.agreement import check_card, check_files, check_record, check_secrets, missing_configs
from hn_datasets.inspection.blocks import as_strings, read_block
from hn_datasets.inspection.checks import MEANINGS, Breach, find_breaches
from hn_datasets.inspection.inventory import Inventory, take_inventory
from hn_datasets.inspection.opening import Opened, open_source
from hn_datasets.inspection.report import AuditReport, Finding, cut
from hn_datasets.inspection.roles import Roles, as_splits, find_roles
from hn_datasets.record import RECORD_FILE, MiningRecord

TEXT_CHARACTERS = 200


def audit_dataset(
    dataset: Dataset | DatasetDict,
    *,
    anchor: str | None = None,
    positive: str | None = None,
    negatives: str | Sequence[str] | None = None,
    record: MiningRecord | None = None,
) -> AuditReport:
    """Audit rows that are at hand.

    It knows the mined columns and all trainable layouts, and what other tools write: columns ``negative`` or
    ``negative_1``, ..., lists under names such as ``neg`` or ``hard_negatives``, passages with ``label`` or ``labels``.
    Texts are read in blocks and kept as digests: memory is some 300 bytes for each row and negative.

    Args:
        dataset: rows, or splits that are checked as one: an anchor's positives in any split count for all.
        anchor: the column of the anchors; guessed if None, from the record's recipe if there is one.
        positive: the column of the positives, strings or lists of strings; likewise.
        negatives: the column or columns of the negatives; guessed if None.
        record: what ``mining.json`` says; ids, the ceiling, rows and statistics are checked against it.

    Raises:
        ColumnError: a column is missing or of another type, or nothing looks like negatives.
        TextError: there is no row.
    """
    return _audit_splits(as_splits(dataset), "", record, anchor, positive, negatives)


def audit(
    source: str | Path,
    *,
    revision: str | None = None,
    config_name: str | None = None,
    anchor: str | None = None,
    positive: str | None = None,
    negatives: str | Sequence[str] | None = None,
    token: str | None = None,
) -> AuditReport:
    """Audit a file, a folder or a dataset on the Hub, with the card and the ``mining.json`` that stand beside the data.

    Args:
        source: a path, or ``REPO`` or ``REPO@REVISION`` on the Hub.
        revision: branch, tag or commit on the Hub.
        config_name: a configuration; if None, all that are named after a layout, or else the default one.
        anchor: see ``audit_dataset``, as are ``positive`` and ``negatives``.
        positive: the column of the positives.
        negatives: the column or columns of the negatives.
        token: for the Hub; the one of the environment if None.

    Raises:
        DataSourceError: nothing is there, or it cannot be read.
        ArgumentError: a revision or configuration has no effect on a local file.
        ColumnError: a column is missing or of another type, or nothing looks like negatives.
        TextError: there is no row.
    """
    opened = open_source(source, revision=revision, token=token)
    record, unreadable = _read_record(opened)
    files = check_files(opened, record) if record is not None else ()
    reports = [AuditReport({}, 0, (*check_secrets(opened), *unreadable, *files, *check_card(opened)))]
    missing = missing_configs(opened)
    names: list[str | None] = [config_name] if config_name is not None else [*opened.layouts] or [None]
    for name in names:
        if not missing.intersection(opened.parts(name)):
            prefix = f"{name}/" if name else ""
            reports.append(_audit_splits(opened.load(name), prefix, record, anchor, positive, negatives))
    return _merge(reports)


def _read_record(opened: Opened) -> tuple[MiningRecord | None, list[Finding]]:
    """Return the record, or what is wrong with it: the data can be audited without."""
    try:
        return opened.record, []
    except HNDatasetsError as error:
        meaning = f"{RECORD_FILE} cannot be read, and nothing is compared with it"
        return None, [Finding("record-unreadable", "broken", 1, meaning, RECORD_FILE, None, str(error))]


def _audit_splits(
    splits: DatasetDict,
    prefix: str,
    record: MiningRecord | None,
    anchor: str | None,
    positive: str | None,
    negatives: str | Sequence[str] | None,
) -> AuditReport:
    """Audit the splits of one configuration, whose name stands in ``prefix``."""
    recipe = record.recipe if record is not None else None
    roles = find_roles(splits, anchor=anchor, positive=positive, negatives=negatives, recipe=recipe)
    inventory = take_inventory(splits, roles)
    breaches = find_breaches(inventory, splits, record)
    findings = [_describe(breach, inventory, splits, prefix) for breach in breaches]
    if record is not None and roles.mined:
        findings += check_record(record, inventory)
    rows = {f"{prefix}{name}": number for name, number in inventory.num_rows.items()}
    return _merge([AuditReport(rows, len(inventory.negatives), tuple(findings))])


def _describe(breach: Breach, inventory: Inventory, splits: DatasetDict, prefix: str) -> Finding:
    """Return what breaks a rule, with the first of it as the example."""
    place = int(np.flatnonzero(breach.flags)[0])
    of_rows = inventory.numbers.negative_rows
    row = int(of_rows[place]) if breach.of == "negative" else place
    rank = int(place - np.searchsorted(of_rows, row)) if breach.of == "negative" else None
    ends = np.cumsum(list(inventory.num_rows.values()))
    number = int(np.searchsorted(ends, row, side="right"))
    name = list(inventory.num_rows)[number]
    row -= int(ends[number - 1]) if number else 0
    anchor, negatives = _read_row(splits[name], inventory.roles, row)
    return Finding(
        name=breach.name,
        severity=breach.severity,
        count=int(breach.flags.sum()),
        meaning=MEANINGS[breach.name],
        where=f"{prefix}{name}",
        row=row,
        text=_quote(anchor if rank is None else negatives[rank]),
        anchor=None if rank is None else _quote(anchor),
    )


def _read_row(split: Dataset, roles: Roles, row: int) -> tuple[str, list[str]]:
    """Return the anchor and the negatives of a row."""
    block = read_block(split.with_format("arrow")[row : row + 1], roles)
    return as_strings(block.anchors)[0], as_strings(block.negatives)


def _quote(text: str) -> str:
    """Return a text on one line, in quotation marks and shortened."""
    return cut(repr(" ".join(text.split())), TEXT_CHARACTERS)


def _merge(reports: Sequence[AuditReport]) -> AuditReport:
    """Return one report of several, what is broken first."""
    rows = {name: number for report in reports for name, number in report.rows.items()}
    findings = [finding for report in reports for finding in report.findings]
    findings.sort(key=lambda finding: finding.severity != "broken")
    return AuditReport(rows, sum(report.negatives for report in reports), tuple(findings))
