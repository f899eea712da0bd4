"""A staged release on its way to the Hub: large files first, then one commit with all of it, then the tag.

Whatever happens on the way, the same call can be made again. It looks at what is there: a release that was committed
but has no tag only gets its tag, and one that is complete is left as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, RepoCard
from huggingface_hub.errors import HfHubHTTPError

from hn_datasets.errors import ReleaseError
from hn_datasets.record import RECORD_FILE, MiningRecord
from hn_datasets.release.card import CARD_FILE
from hn_datasets.release.drafting import Draft, write_papers
from hn_datasets.release.history import CompareWith, decide, find_place, find_same
from hn_datasets.release.ownership import check_room, find_outdated
from hn_datasets.release.repository import DATASET, Head, Repository, read_head
from hn_datasets.release.retrying import Patience, is_conflict, is_passing, one_line, retry, status_of
from hn_datasets.release.staging import Staged
from hn_datasets.release.versions import Bump, Version


class Uploaded(NamedTuple):
    """Where a release is.

    Attributes:
        version: of the release.
        commit: that has it.
        pull_request: address of the request that proposes it; None where it is published.
    """

    version: Version
    commit: str
    pull_request: str | None


@dataclass(frozen=True)
class Upload:
    """What the upload needs beside the files.

    Attributes:
        wanted: the version, or the step from the last one.
        compare_with: returns the share of negatives in common with the data at a commit.
        private: of a repository that is made; None leaves it to the Hub.
        create_pr: propose the release.
        message: title of the commit; the version if None.
    """

    wanted: Version | Bump
    compare_with: CompareWith
    private: bool | None
    create_pr: bool
    message: str | None


@contextlib.contextmanager
def explain_refused_release() -> Iterator[None]:
    """Say what the Hub refuses, and what to do.

    Raises:
        ReleaseError: it refuses something.
    """
    try:
        yield
    except HfHubHTTPError as error:
        raise ReleaseError(
            f"Expected the Hub to take the release, it answered {status_of(error)} ({one_line(error)}); see to that, "
            "and run the same again: what is there already stays."
        ) from error


def make_repository(repository: Repository, upload: Upload) -> None:
    """Make the repository if there is none."""
    retry(
        repository.retry_seconds,
        repository.api.create_repo,
        repository.repo_id,
        repo_type=DATASET,
        private=upload.private,
        exist_ok=True,
    )


def send_file(repository: Repository, path: str, file: Path, upload: Upload) -> CommitOperationAdd:
    """Send a file, which no commit has yet; what the Hub keeps as text waits for the commit.

    Args:
        repository: that it goes to.
        path: in the repository.
        file: on this machine.
        upload: of the release.
    """
    addition = CommitOperationAdd(path, str(file))

    def send(**options: Any) -> None:
        try:
            repository.api.preupload_lfs_files(additions=[addition], **options)
        except RuntimeError as error:  # which hides what the Hub said, or that it could not be reached
            raise error.__cause__ or error from None

    repository.call(send, revision=repository.branch, create_pr=upload.create_pr)
    return addition


def commit_release(
    repository: Repository, staged: Staged, draft: Draft, upload: Upload, additions: list[CommitOperationAdd]
) -> Uploaded:
    """Commit a release whose files were sent, and tag it.

    Raises:
        ReleaseError: the version was taken meanwhile, or the Hub does not answer for too long.
        HfHubHTTPError: it refuses something.
    """
    done = _commit(repository, staged, draft, upload, additions)
    if done.pull_request is None:
        _tag(repository, done.version, done.commit, draft.notes)
    return done


def check_card_on_hub(repository: Repository, text: str) -> None:
    """Ask the Hub whether it takes a card.

    Raises:
        ReleaseError: it does not; the message says why.
    """
    try:
        card = RepoCard(text)
        retry(repository.retry_seconds, card.validate, repo_type=DATASET)
    except ValueError as error:
        raise _card_error(error) from error


def _card_error(error: ValueError) -> ReleaseError:
    return ReleaseError(
        f"Expected a card that the Hub takes, it refuses this one ({one_line(error)}); correct the metadata."
    )


def _commit(
    repository: Repository, staged: Staged, draft: Draft, upload: Upload, additions: list[CommitOperationAdd]
) -> Uploaded:
    """Commit on top of what is at the end of the branch, again and again while others do the same.

    An attempt that failed may still have arrived: each begins with a look at what is there.
    """
    patience = Patience(repository.retry_seconds)
    attempted: Version | None = None
    while True:
        head = read_head(repository)
        if attempted is not None:  # and maybe it arrived, and others have published since
            same = find_same(repository, head, attempted, draft, staged.data)
            if same is not None:
                return Uploaded(attempted, same, None)
        version, commit = decide(repository, head, upload.wanted, draft, staged.data)
        if commit is not None:
            return Uploaded(version, commit, None)
        if not upload.create_pr:
            _finish_last(repository, head)
        for addition in additions:
            # The client leaves a file out that the branch had when it was sent: by now it may be gone, or another one.
            addition._remote_oid = None
        place = find_place(head, version, draft, upload.compare_with)
        record = write_papers(draft, place, staged, token=repository.token)
        check_room(repository, head, staged.patterns)
        try:
            info = repository.api.create_commit(
                repository.repo_id,
                [*additions, *_paper_operations(repository, staged, head, record)],
                repo_type=DATASET,
                revision=repository.branch,
                parent_commit=head.commit,
                create_pr=upload.create_pr,
                commit_message=upload.message or f"Release {version}",
                commit_description=draft.notes,
            )
        except ValueError as error:  # the client asks the Hub about the card once more
            raise _card_error(error) from error
        except Exception as error:
            if not (is_conflict(error) or is_passing(error)):
                raise
            attempted = version
            patience.wait(error)
            continue
        return Uploaded(version, info.oid, info.pr_url)


def _finish_last(repository: Repository, head: Head) -> None:
    """Set the tag of a last release that has none: below another release nobody would find its commit again."""
    commit = head.commit_of(head.untagged) if head.untagged is not None else None
    if head.untagged is not None and head.record is not None and commit is not None:
        _tag(repository, head.untagged, commit, head.record.release.get("notes") or "")


def _paper_operations(
    repository: Repository, staged: Staged, head: Head, record: MiningRecord
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Return the operations for card and record, and for files of the last release that this one does not have."""
    gone = find_outdated(repository, head, record.release["files"])
    papers = [CommitOperationAdd(name, (staged.folder / name).read_bytes()) for name in (CARD_FILE, RECORD_FILE)]
    return [*papers, *(CommitOperationDelete(path, is_folder=False) for path in gone)]


def _tag(repository: Repository, version: Version, commit: str, notes: str) -> None:
    """Tag a commit; a tag that points to it already is fine.

    Raises:
        ReleaseError: the tag points to another commit, or the Hub refuses to set it.
    """
    if read_head(repository).tags.get(version) == commit:
        return
    try:
        repository.call(repository.api.create_tag, tag=version.tag, tag_message=notes or None, revision=commit)
    except HfHubHTTPError as error:
        if status_of(error) == 409:
            if read_head(repository).tags.get(version) == commit:
                return
            raise ReleaseError(
                f"Expected to set the tag {version.tag} of {repository.repo_id}, it points to another commit now; "
                "publish the next version."
            ) from error
        raise ReleaseError(
            f"The release is committed as {commit[:12]}, but the Hub refuses its tag {version.tag} "
            f"({one_line(error)}); see to that, and run the same again, which only sets the tag."
        ) from error
