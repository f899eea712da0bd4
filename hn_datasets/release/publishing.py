"""Publishing: a mined dataset becomes an immutable version on the Hub, or the same in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from huggingface_hub import CommitOperationAdd

from hn_datasets.display import pick_rows
from hn_datasets.errors import ArgumentError
from hn_datasets.estimation.results import Calibration, FalseNegativeEstimate
from hn_datasets.files import replaced_folder
from hn_datasets.miner import HardNegativeMiner
from hn_datasets.record import MiningRecord
from hn_datasets.release.arguments import (
    add_estimate,
    check_destination,
    check_for_shards,
    check_notes,
    check_parent,
    choose_record,
)
from hn_datasets.release.card import CARD_FILE, CardMetadata, validate_metadata
from hn_datasets.release.card_choices import hide_paths
from hn_datasets.release.checking import check_mined, check_staged
from hn_datasets.release.drafting import Draft, Place, check_draft, write_papers
from hn_datasets.release.folders import check_folder, staging_folder
from hn_datasets.release.history import Comparing, decide, find_place
from hn_datasets.release.mined_shards import MinedShards
from hn_datasets.release.ownership import check_room
from hn_datasets.release.repository import Head, Repository, check_repo_id, open_repository, read_head
from hn_datasets.release.retrying import explain_refusals
from hn_datasets.release.shard_staging import check_shard, stage_shards
from hn_datasets.release.staging import Staged, check_layouts, pattern_of, stage_files
from hn_datasets.release.uploading import (
    Upload,
    check_card_on_hub,
    commit_release,
    explain_refused_release,
    make_repository,
    send_file,
)
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
    mined: Dataset | DatasetDict | str | Path,
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

    Everything is staged in a folder, loaded back and audited before anything is uploaded (of a mined folder, see below,
    each file before it is). Afterwards
    ``load_dataset(repo_id, revision="v1.0.0", split="train")`` gives the first layout. A call that was killed, or that
    the Hub let down, is simply made again: it ends with the same release. Files, configurations, sections of the card
    and YAML keys that no release wrote stay as they are.

    Args:
        mined: what ``map`` returned, or splits of it; or a folder that ``hn-datasets mine`` or ``mine_on_ray`` wrote,
            on any fsspec path, such as ``"s3://bucket/mined"``. From a folder one file after another is read, checked
            and sent, so that no machine ever holds all of it. What needs all rows at once is then left out: rules of
            the audit that look beyond a file, the share of negatives in common with the version before, and the layout
            ``normalized``.
        repo_id: repository of datasets on the Hub, made if there is none; may be None with ``to_folder``.
        version: such as ``"1.0.0"``, above all that are there; or ``"major"``, ``"minor"`` or ``"patch"``, which count
            up from the last one, unless that one has the same data already.
        metadata: what only a human can say, first of all the licence.
        miner: what ``map`` was called with; it mines some rows again, which have to come out as they are.
        record: of the mining, in the place of ``miner``; neither of them for a folder, which has its own.
        estimate: of the false negatives, by ``estimate_false_negatives`` or ``calibrate``, for the card.
        layouts: configurations, as of ``format_dataset``; the first one is loaded where none is named.
        notes: what has changed, on one line.
        parent: the release that this one follows, such as ``"v1.0.0"``, or ``"me/other@v1.0.0"`` of another
            repository; None takes the one before it.
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
        DataSourceError: a folder lacks ``mining.json`` or files of mined rows.
        ReleaseError: the data is not sound, or is not that of the record; the version is taken; there is no token, or
            it may not write there; the Hub refuses the card, or does not answer for too long.
        StoreError: the disk is full.
    """
    wanted = parse_version(version)
    if not isinstance(metadata, CardMetadata):
        raise ArgumentError(f"Expected metadata as CardMetadata(license=...), got {type(metadata).__name__}; make one.")
    validate_metadata(metadata)
    chosen = check_layouts(layouts)
    check_notes(notes)
    check_parent(parent)
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
    check_destination(repo_id, to_folder, overwrite, online)
    source: Dataset | DatasetDict | MinedShards
    if isinstance(mined, (str, Path)):
        useless = {"to_folder": to_folder, "dry_run": dry_run or None, "shard_bytes": shard_bytes}
        check_for_shards(chosen, {"miner": miner, "record": record, **useless})
        found = MinedShards.open(mined)
        record = add_estimate(found.record, estimate)
        source = replace(found, record=record)
        examples = _check_first(source)
    else:
        source, record = mined, add_estimate(choose_record(mined, miner, record), estimate)
        check_mined(source, record)
        examples = _pick_examples(source)
    draft = Draft(
        record=replace(record, recipe=hide_paths(record.recipe)),
        metadata=metadata,
        repo_id=repo_id,
        layouts=chosen,
        examples=examples,
        notes=" ".join(notes.split()),
        parent=parent,
        template=None if template is None else Path(template),
    )
    # One of the two is given, and repo_id where files are sent one after another.
    if not isinstance(source, MinedShards) and (to_folder is not None or repo_id is None):
        if repo_id is not None and "/" not in repo_id:  # whose it will be is not known, so nothing can link to it
            metadata = replace(metadata, pretty_name=metadata.pretty_name or repo_id)
            draft = replace(draft, metadata=metadata, repo_id=None)
        return _publish_to_folder(source, draft, wanted, Path(to_folder or ""), shard_bytes, overwrite=overwrite)
    with explain_refusals():
        repository = open_repository(
            repo_id or "",
            token=token,
            branch=revision,
            private=private,
            create_pr=create_pr,
            retry_seconds=retry_seconds,
        )
        compare_with = _leave_open if isinstance(source, MinedShards) else Comparing(source, record.recipe, repository)
        upload = Upload(wanted, compare_with, private, create_pr, commit_message)
        draft = replace(draft, repo_id=repository.repo_id)  # with its namespace
        if isinstance(source, MinedShards):
            return _publish_shards(source, draft, repository, upload)
        return _publish_to_hub(source, draft, repository, upload, shard_bytes, dry_run=dry_run)


def _publish_to_hub(
    mined: Dataset | DatasetDict,
    draft: Draft,
    repository: Repository,
    upload: Upload,
    shard_bytes: int | None,
    *,
    dry_run: bool,
) -> Release:
    head = _look_first(draft, repository, upload, _split_names(mined))
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
        with explain_refused_release():
            make_repository(repository, upload)
            additions = [send_file(repository, path, folder / path, upload) for path in staged.files]
            done = commit_release(repository, staged, draft, upload, additions)
    return Release(draft.repo_id, str(done.version), done.commit, done.pull_request, None, sizes)


def _look_first(draft: Draft, repository: Repository, upload: Upload, splits: Sequence[str]) -> Head:
    """Return what is at the end of the branch, where the version is free and the Hub takes the card."""
    head = read_head(repository)
    verdict = decide(repository, head, upload.wanted, draft)
    place = find_place(head, verdict.version, draft, _leave_open)
    check_card_on_hub(repository, check_draft(draft, place, splits))
    return head


def _publish_shards(mined: MinedShards, draft: Draft, repository: Repository, upload: Upload) -> Release:
    """Send the files of a mined folder one after another, and commit them together."""
    head = _look_first(draft, repository, upload, mined.splits)
    check_room(repository, head, [pattern_of(layout, split) for layout in draft.layouts for split in mined.splits])
    mined.check()
    additions: list[CommitOperationAdd] = []
    with staging_folder(repository.repo_id, keep=False) as folder, explain_refused_release():
        make_repository(repository, upload)

        def send(path: str, file: Path) -> None:
            additions.append(send_file(repository, path, file, upload))
            if additions[-1]._is_uploaded:  # otherwise its content travels with the commit
                file.unlink()

        staged = stage_shards(mined, folder, layouts=draft.layouts, send=send)
        version, commit = decide(repository, head, upload.wanted, draft, staged.data)
        if commit is not None and version in head.tags:
            return Release(draft.repo_id, str(version), commit, None, None, {})
        done = commit_release(repository, staged, draft, upload, additions)
        sizes = {**{path: int(entry["size"]) for path, entry in staged.files.items()}, **_sizes(folder)}
    return Release(draft.repo_id, str(done.version), done.commit, done.pull_request, None, dict(sorted(sizes.items())))


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


def _leave_open(commit: str) -> float | None:
    """Say that the share in common with a release is not known."""
    return None


def _check_first(mined: MinedShards) -> list[Mapping[str, Any]]:
    """Check the first file that has rows, and return three of them."""
    shard, rows = mined.read_first()
    check_shard(mined, shard, rows)
    return _pick_examples(rows)


def _pick_examples(mined: Dataset | DatasetDict) -> list[Mapping[str, Any]]:
    """Return three rows, of the first split that has rows, as plain values whatever format it has."""
    splits = mined.values() if isinstance(mined, DatasetDict) else [mined]
    rows = next(split for split in splits if len(split)).with_format(None)
    return [rows[number] for number in pick_rows(rows)]


def _split_names(mined: Dataset | DatasetDict) -> list[str]:
    names = list(mined) if isinstance(mined, DatasetDict) else [str(mined.split or "train")]
    return [*split_file_names(names).values()]


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
