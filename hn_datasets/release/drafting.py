"""The card and ``mining.json`` of a release, once its place among the versions is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasets import Features

from hn_datasets.batches import OutputFormat
from hn_datasets.errors import ReleaseError, StoreError
from hn_datasets.record import RECORD_FILE, MiningRecord
from hn_datasets.release.card import CARD_FILE, CardMetadata, ConfigFiles, VersionRow, render_card
from hn_datasets.release.staging import Staged, pattern_of
from hn_datasets.release.versions import Version


@dataclass(frozen=True)
class Draft:
    """All of a release but its data and its version.

    Attributes:
        record: of the mining.
        metadata: what a human says.
        repo_id: the repository; None for a release in a folder that names none.
        layouts: of the configurations, the default first.
        examples: rows of the mined dataset to show.
        notes: what has changed, on one line.
        parent: the release that this one follows; None takes the one before it in the same repository.
        template: of the card; ours if None.
    """

    record: MiningRecord
    metadata: CardMetadata
    repo_id: str | None
    layouts: tuple[OutputFormat, ...]
    examples: Sequence[Mapping[str, Any]]
    notes: str
    parent: str | None
    template: Path | None


@dataclass(frozen=True)
class Place:
    """Where a release stands among the others.

    Attributes:
        version: its own.
        parent: the release that it follows, as a tag or as ``me/other@v1.0.0``; None for the first one.
        common_share: share, 0 to 1, of its negatives that the version before has too; None if unknown.
        earlier: the table of versions so far, the last one first.
        card: the text that ``README.md`` has so far.
    """

    version: Version
    parent: str | None = None
    common_share: float | None = None
    earlier: tuple[dict[str, Any], ...] = ()
    card: str | None = None


def check_draft(draft: Draft, place: Place, splits: Sequence[str]) -> str:
    """Render the card before there is any data, so that what is wrong with it is known at once.

    Returns:
        The text; its numbers of rows are not those of the release.

    Raises:
        ArgumentError: the metadata, the template or the card that is there is wrong.
    """
    configs = [
        ConfigFiles(
            config_name=layout,
            layout=layout,
            default=number == 0,
            data_files={split: pattern_of(layout, split) for split in splits},
            features=Features(),
            num_examples=dict.fromkeys(splits, 0),
            num_bytes=dict.fromkeys(splits, 0),
        )
        for number, layout in enumerate(draft.layouts)
    ]
    record, rows = _complete(draft, place, {})
    return _render(draft, place, record, configs, rows, ())


def write_papers(draft: Draft, place: Place, staged: Staged, *, token: str | None = None) -> MiningRecord:
    """Write card and ``mining.json`` beside the data, in the place of what was there, and return the record.

    Raises:
        ArgumentError: the card that is there cannot be kept.
        ReleaseError: the token of the user would be published.
        StoreError: the disk is full.
    """
    record, rows = _complete(draft, place, staged.files)
    card = _render(draft, place, record, staged.configs, rows, staged.pictures)
    for name, text in ((CARD_FILE, card), (RECORD_FILE, record.to_json())):
        if token and token in text:
            raise ReleaseError(
                f"Expected no secret in {name}, but it would hold your token of the Hub; take it out of the texts that "
                "you gave for the card, and out of the data."
            )
        try:
            (staged.folder / name).write_text(text, encoding="utf-8", newline="")
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreError(error.errno, f"Could not write {name} ({reason}); free some space, run again.") from error
    return record


def _complete(draft: Draft, place: Place, files: Mapping[str, Any]) -> tuple[MiningRecord, list[VersionRow]]:
    """Return the record of the release, and the table of versions with it."""
    today = datetime.now(UTC).date().isoformat()
    row = VersionRow(
        version=str(place.version),
        date=today,
        rows=sum(draft.record.rows.values()),
        mean_margin=draft.record.statistics.difference.mean,
        common_share=place.common_share,
        notes=draft.notes,
    )
    rows = [row, *(VersionRow(**earlier) for earlier in place.earlier)]
    record = draft.record.with_release(
        repo_id=draft.repo_id,
        version=str(place.version),
        date=today,
        parent=place.parent,
        notes=draft.notes or None,
        layouts=list(draft.layouts),
        files=dict(files),
        versions=[asdict(one) for one in rows],
    )
    return record, rows


def _render(
    draft: Draft,
    place: Place,
    record: MiningRecord,
    configs: Sequence[ConfigFiles],
    rows: Sequence[VersionRow],
    pictures: Sequence[str],
) -> str:
    return render_card(
        record,
        draft.metadata,
        configs,
        repo_id=draft.repo_id,
        examples=draft.examples,
        versions=rows,
        existing=place.card,
        template=draft.template,
        pictures=pictures,
    )
