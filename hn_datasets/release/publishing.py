"""Publishing: a mined dataset becomes an immutable version on the Hub, or the same in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from hn_datasets.display import pick_rows
from hn_datasets.errors import ArgumentError
from hn_datasets.estimation.results import Calibration, FalseNegativeEstimate, setting_of
from hn_datasets.files import replaced_folder
from hn_datasets.miner import HardNegativeMiner
from hn_datasets.record import MiningRecord
from hn_datasets.release.card import CARD_FILE, CardMetadata, validate_metadata
from hn_datasets.release.card_choices import hide_paths
from hn_datasets.release.checking import check_mined, check_staged
from hn_datasets.release.drafting import Draft, Place, check_draft, write_papers
from hn_datasets.release.folders import check_folder, staging_folder
from hn_datasets.release.history import Comparing, decide, find_place
from hn_datasets.release.ownership import check_room
from hn_datasets.release.repository import Repository, check_repo_id, open_repository, read_head
from hn_datasets.release.retrying import explain_refusals
from hn_datasets.release.staging import Staged, check_layouts, stage_files
from hn_datasets.release.uploading import Upload, check_card_on_hub, upload_release
from hn_datasets.release.versions import Bump, Version, parse_version
from hn_datasets.shards import split_file_names

RETRY_SECONDS = 300.0


@dataclass(frozen=True)
class Release:
    """A release that was made, or would be.

    Attributes:
        repo_id: the repository; None for a release in a folder that names none.
        version: without the ``v`` of its tag.
        commit: that the tag points to; None where nothing was uploaded.
        pull_request: address of the request that proposes it; it gets its tag when it is merged and the same call is
            made again.
        folder: where the files lie on this machine; None once they are on the Hub.
        files: size of each file in bytes, by path; those of a release that was there already are not listed.
    """

    repo_id: str | None
    version: str
    commit: str | None
    pull_request: str | None
    folder: Path | None
    files: dict[str, int]

    @property
    def tag(self) -> str:
        """The tag on the Hub."""
        return f"v{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "tag": self.tag, "folder": None if self.folder is None else str(self.folder)}


def publish(  # noqa: PLR0913 - everything that can be said of a release
    mined: Dataset | DatasetDict,
    repo_id: str | None = None,
    *,
    version: str,
    metadata: CardMetadata,
    miner: HardNegativeMiner | None = None,
    record: MiningRecord | None = None,
    estimate: FalseNegativeEstimate | Calibration | None = None,
    layouts: Sequence[str] = ("n-tuple",),
    notes: str = "",
    parent: str | None = None,
    to_folder: str | Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    template: str | Path | None = None,
    shard_bytes: int | None = None,
    retry_seconds: float = RETRY_SECONDS,
) -> Release:
    """Publish a mined dataset as a version that never changes: data, card and ``mining.json`` in one commit, and a tag.

    Everything is staged in a folder, loaded back and audited before anything is uploaded. Afterwards
    ``load_dataset(repo_id, revision="v1.0.0", split="train")`` gives the first layout. A call that was killed, or that
    the Hub let down, is simply made again: it ends with the same release. Files, configurations, sections of the card
    and YAML keys that no release wrote stay as they are.

    Args:
        mined: what ``map`` returned, or splits of it.
        repo_id: repository of datasets on the Hub, made if there is none; may be None with ``to_folder``.
        version: such as ``"1.0.0"``, above all that are there; or ``"major"``, ``"minor"`` or ``"patch"``, which count
            up from the last one, unless that one has the same data already.
        metadata: what only a human can say, first of all the licence.
        miner: what ``map`` was called with.
        record: of the mining, in the place of ``miner``.
        estimate: of the false negatives, by ``estimate_false_negatives`` or ``calibrate``, for the card.
        layouts: configurations, as of ``format_dataset``; the first one is loaded where none is named.
        notes: what has changed, on one line.
        parent: the release that this one follows, such as ``"me/other@v1.0.0"``; None takes the one before it.
        to_folder: write the release into this folder, and upload nothing.
        overwrite: replace what an earlier release has left in ``to_folder``.
        dry_run: stop before the upload, and keep the staged folder.
        private: whether a repository that is made is private; None leaves it to the Hub.
        token: of the Hub; the one of the environment if None.
        revision: branch that the release is committed to; ``main`` if None.
        create_pr: propose the release by a pull request.
        commit_message: title of the commit; "Release 1.0.0" if None.
        template: Jinja template of the card's body, in the place of ours.
        shard_bytes: at most so many bytes of Arrow data in a file; 500 MB if None.
        retry_seconds: how long a request that fails is tried again.

    Returns:
        What was made.

    Raises:
        ArgumentError: an argument is wrong, or has no effect together with another one.
        ColumnError: the mined columns are not there.
        ReleaseError: the data is not sound, or is not that of the record; the version is taken; there is no token, or
            it may not write there; the Hub refuses the card, or does not answer for too long.
        StoreError: the disk is full.
    """
    wanted = parse_version(version)
    if not isinstance(metadata, CardMetadata):
        raise ArgumentError(f"Expected metadata as CardMetadata(license=...), got {type(metadata).__name__}; make one.")
    validate_metadata(metadata)
    chosen = check_layouts(layouts)
    _check_notes(notes)
    if repo_id is not None:
        check_repo_id(repo_id)
    online = {
        "dry_run": dry_run or None,
        "private": private,
        "token": token,
        "revision": revision,
        "create_pr": create_pr or None,
        "commit_message": commit_message,
    }
    _check_destination(repo_id, to_folder, overwrite, online)
    record = _add_estimate(_choose_record(mined, miner, record), estimate)
    check_mined(mined, record)
    draft = Draft(
        record=replace(record, recipe=hide_paths(record.recipe)),
        metadata=metadata,
        repo_id=repo_id,
        layouts=chosen,
        examples=_pick_examples(mined),
        notes=" ".join(notes.split()),
        parent=parent,
        template=None if template is None else Path(template),
    )
    if to_folder is not None or repo_id is None:  # one of them is given
        if repo_id is not None and "/" not in repo_id:  # whose it will be is not known, so nothing can link to it
            metadata = replace(metadata, pretty_name=metadata.pretty_name or repo_id)
            draft = replace(draft, metadata=metadata, repo_id=None)
        return _publish_to_folder(mined, draft, wanted, Path(to_folder or ""), shard_bytes, overwrite=overwrite)
    with explain_refusals():
        repository = open_repository(
            repo_id, token=token, branch=revision, private=private, create_pr=create_pr, retry_seconds=retry_seconds
        )
        upload = Upload(wanted, Comparing(mined, repository), private, create_pr, commit_message)
        draft = replace(draft, repo_id=repository.repo_id)  # with its namespace
        return _publish_to_hub(mined, draft, repository, upload, shard_bytes, dry_run=dry_run)


def _publish_to_hub(
    mined: Dataset | DatasetDict,
    draft: Draft,
    repository: Repository,
    upload: Upload,
    shard_bytes: int | None,
    *,
    dry_run: bool,
) -> Release:
    head = read_head(repository)
    verdict = decide(repository, head, upload.wanted, draft)
    first_look = find_place(head, verdict.version, draft, lambda commit: None)
    check_card_on_hub(repository, check_draft(draft, first_look, _split_names(mined)))
    with staging_folder(repository.repo_id, keep=dry_run) as folder:
        staged = stage_files(mined, draft.record, folder, layouts=draft.layouts, shard_bytes=shard_bytes)
        version, commit = decide(repository, head, upload.wanted, draft, staged.data)
        if commit is None:
            check_room(repository, head, staged.patterns)
        if commit is None or dry_run:
            _check_papers(draft, find_place(head, version, draft, upload.compare_with), staged, repository)
        sizes = _sizes(folder)
        if dry_run:
            return Release(draft.repo_id, str(version), None, None, folder, sizes)
        if commit is not None and version in head.tags:
            return Release(draft.repo_id, str(version), commit, None, None, {})
        done = upload_release(repository, staged, draft, upload)
    return Release(draft.repo_id, str(done.version), done.commit, done.pull_request, None, sizes)


def _check_papers(draft: Draft, place: Place, staged: Staged, repository: Repository) -> None:
    """Check what was staged by a card of its own, for that of the repository may tell of files that are only there."""
    check_staged(staged, write_papers(draft, replace(place, card=None), staged))
    write_papers(draft, place, staged, token=repository.token)
    check_card_on_hub(repository, (staged.folder / CARD_FILE).read_text(encoding="utf-8"))


def _publish_to_folder(
    mined: Dataset | DatasetDict,
    draft: Draft,
    wanted: Version | Bump,
    to_folder: Path,
    shard_bytes: int | None,
    *,
    overwrite: bool,
) -> Release:
    """Stage beside the folder, and put the result in its place."""
    version = wanted if isinstance(wanted, Version) else Version().bump(wanted)
    place = Place(version=version, parent=draft.parent)
    check_draft(draft, place, _split_names(mined))
    with replaced_folder(to_folder, partial(check_folder, overwrite=overwrite)) as folder:
        staged = stage_files(mined, draft.record, folder, layouts=draft.layouts, shard_bytes=shard_bytes)
        check_staged(staged, write_papers(draft, place, staged))
        sizes = _sizes(folder)
    return Release(draft.repo_id, str(version), None, None, to_folder, sizes)


def _check_destination(
    repo_id: str | None, to_folder: str | Path | None, overwrite: bool, online: Mapping[str, Any]
) -> None:
    """Check that the release has one place to go to, and that every argument has an effect there."""
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


def _check_notes(notes: str) -> None:
    if not isinstance(notes, str) or len(notes.strip().splitlines()) > 1:
        raise ArgumentError(f"Expected notes on one line, got {notes!r:.80}; write the rest into the card.")


def _choose_record(
    mined: Dataset | DatasetDict, miner: HardNegativeMiner | None, record: MiningRecord | None
) -> MiningRecord:
    if (miner is None) == (record is None):
        got = "both" if miner is not None else "neither"
        raise ArgumentError(f"Expected either the miner or the record of the mining, got {got}; pass one.")
    if record is not None:
        return record
    if not isinstance(miner, HardNegativeMiner):
        raise ArgumentError(
            f"Expected a HardNegativeMiner as miner, got {type(miner).__name__}; pass the one that map was called with."
        )
    return MiningRecord.of(mined, miner)


def _add_estimate(record: MiningRecord, estimate: FalseNegativeEstimate | Calibration | None) -> MiningRecord:
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


def _pick_examples(mined: Dataset | DatasetDict) -> list[Mapping[str, Any]]:
    """Return three rows, of the first split that has rows."""
    splits = mined.values() if isinstance(mined, DatasetDict) else [mined]
    rows = next(split for split in splits if len(split))
    return [rows[number] for number in pick_rows(rows)]


def _split_names(mined: Dataset | DatasetDict) -> list[str]:
    names = list(mined) if isinstance(mined, DatasetDict) else [str(mined.split or "train")]
    return [*split_file_names(names).values()]


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
