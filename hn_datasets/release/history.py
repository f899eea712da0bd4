"""A release among the others of its repository: which version it is, whether it is there already, what it follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError

from hn_datasets.errors import HNDatasetsError, ReleaseError
from hn_datasets.inspection.comparison import compare
from hn_datasets.recipe import Recipe
from hn_datasets.record import MiningRecord
from hn_datasets.release.drafting import Draft, Place
from hn_datasets.release.repository import Head, Repository
from hn_datasets.release.retrying import retry
from hn_datasets.release.staging import FileEntries
from hn_datasets.release.versions import Bump, Version

CompareWith = Callable[[str], float | None]


class Verdict(NamedTuple):
    """What is to be done.

    Attributes:
        version: of the release.
        commit: that has it already; None if it is to be committed.
    """

    version: Version
    commit: str | None


def decide(
    repository: Repository, head: Head, wanted: Version | Bump, draft: Draft, files: FileEntries | None = None
) -> Verdict:
    """Return which version a release is, and whether it is there already.

    Args:
        repository: that it goes to.
        head: what is at the end of the branch.
        wanted: the version, or the step from the last one.
        draft: of the release.
        files: of the data; before they are staged None, and then a release that may be the same counts as the same.

    Raises:
        ReleaseError: the version is taken, or below the last one.
    """
    last = head.last
    candidate = wanted if isinstance(wanted, Version) else last
    if candidate is not None:
        same = find_same(repository, head, candidate, draft, files)
        if same is not None:
            return Verdict(candidate, same)
    if not isinstance(wanted, Version):
        return Verdict((last or Version()).bump(wanted), None)
    if last is None or wanted > last:
        return Verdict(wanted, None)
    state = (
        "is there with other data or layouts, and a version never changes"
        if head.commit_of(wanted)
        else f"is below the last one, {last}"
    )
    raise ReleaseError(
        f"Expected a version above {last} for {repository.repo_id}, got {wanted}, which {state}; publish "
        f"{last.bump('patch')} instead."
    )


def find_same(
    repository: Repository, head: Head, version: Version, draft: Draft, files: FileEntries | None
) -> str | None:
    """Return the commit of a version if it is this release; None where it is another one or not there.

    Args:
        repository: that the release goes to.
        head: what is at the end of the branch.
        version: to look at.
        draft: of the release.
        files: of its data; None before they are staged.
    """
    commit = head.commit_of(version)
    there = repository.read_record(commit) if commit is not None else None
    return commit if there is not None and _is_same(there, draft, files) else None


def find_place(head: Head, version: Version, draft: Draft, compare_with: CompareWith) -> Place:
    """Return the place of a new release behind the last one."""
    last = head.last
    commit = head.commit_of(last) if last is not None else None
    earlier = head.record.release.get("versions", ()) if head.record is not None else ()
    return Place(
        version=version,
        parent=draft.parent or (last.tag if last is not None else None),
        common_share=compare_with(commit) if commit is not None else None,
        earlier=tuple(earlier),
        card=head.card,
    )


def _is_same(there: MiningRecord, draft: Draft, files: FileEntries | None) -> bool:
    """Return whether a release is of the same mining and layouts, and where ``files`` are known, has the same data."""
    record = draft.record
    same = (
        list(draft.layouts) == there.release.get("layouts")  # in their order: the first one is loaded by default
        and there.recipe.digest == record.recipe.digest
        and there.rows == record.rows
        and there.corpus == record.corpus
        and there.statistics == record.statistics
    )
    if files is None or not same:
        return same
    data = {path: entry for path, entry in there.release.get("files", {}).items() if path.endswith(".parquet")}
    return data == files


class Comparing:
    """The share of negatives that the new data has in common with a release; each release is read once."""

    def __init__(self, mined: Dataset | DatasetDict, recipe: Recipe, repository: Repository) -> None:
        """Compare with releases of a repository; the recipe names the text columns of the new data."""
        self._mined = mined
        self._recipe = recipe
        self._repository = repository
        self._known: dict[str, float | None] = {}

    def __call__(self, commit: str) -> float | None:
        """Return the share, 0 to 1, in common with the release at a commit; None where that is not known."""
        if commit not in self._known:
            self._known[commit] = self._compare(commit)
        return self._known[commit]

    def _compare(self, commit: str) -> float | None:
        repository = self._repository
        try:
            if repository.read_record(commit) is None:  # a tag that no release of ours has set
                return None
            source = f"{repository.repo_id}@{commit}"
            options = {"recipe": self._recipe, "token": repository.token}
            result = retry(repository.retry_seconds, compare, source, self._mined, **options)
        except (HNDatasetsError, HfHubHTTPError, DatasetsError):  # its files are gone or are no mined data
            return None
        return result.negatives_in_common / result.new_negatives if result.new_negatives else None
