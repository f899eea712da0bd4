"""Which files and configurations of a repository the last release wrote; all others are somebody else's and stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from huggingface_hub import RepoCard
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from hn_datasets.errors import ReleaseError
from hn_datasets.inspection.opening import named_entries
from hn_datasets.release.card import CARD_FILE
from hn_datasets.release.repository import Head, Repository


def check_room(repository: Repository, head: Head, patterns: Sequence[str]) -> None:
    """Check that a release replaces no file or configuration of somebody else, and reads no such file as its own.

    Args:
        repository: that it goes to.
        head: what is at the end of the branch.
        patterns: of the files of the release.

    Raises:
        ReleaseError: there is such a file or configuration.
    """
    if head.commit is None:
        return
    files, folders = head.files, {pattern.split("/")[0] for pattern in patterns}
    for name in folders.intersection(_config_names(head.card or "")) - {path.split("/")[0] for path in files}:
        raise ReleaseError(
            f"Expected room for the configuration {name!r}, {CARD_FILE} of {repository.repo_id} lists one that the "
            "last release did not write; rename it there, or publish to another repository."
        )
    for file in repository.list_files(folders, head.commit):
        if file.path not in files and any(fnmatchcase(file.path, pattern) for pattern in patterns):
            raise ReleaseError(
                f"Expected room for the files of the release, {repository.repo_id} has {file.path!r}, which the last "
                "release did not write; move or delete it there, or publish to another repository."
            )


def _config_names(card: str) -> set[str]:
    """Return the configurations that a card lists."""
    text = card.removeprefix("\ufeff")
    if REGEX_YAML_BLOCK.search(text) is None:
        return set()
    return {name for name, _ in named_entries(RepoCard(text).data.get("configs"))}


def find_outdated(repository: Repository, head: Head, paths: Iterable[str]) -> list[str]:
    """Return the files of the last release that the next one does not have.

    What somebody has deleted since, or replaced by something else, is not among them.

    Args:
        repository: that it goes to.
        head: what is at the end of the branch.
        paths: of the files of the next release.
    """
    gone = {path: entry for path, entry in head.files.items() if path not in set(paths)}
    if not gone or head.commit is None:
        return []
    there = repository.describe_files(list(gone), head.commit)
    return [file.path for file in there if _is_same(file, gone[file.path])]


def _is_same(file: RepoFile, entry: dict[str, str | int]) -> bool:
    """Return whether a file is still what a release wrote; one that is kept as text has no SHA-256, but a size."""
    return file.lfs.sha256 == entry["sha256"] if file.lfs is not None else file.size == entry["size"]
