"""A dataset repository on the Hub: who may write to it, and what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils import validate_repo_id

from hn_datasets.errors import ArgumentError, HNDatasetsError, ReleaseError
from hn_datasets.record import RECORD_FILE, MiningRecord
from hn_datasets.release.card import CARD_FILE, VersionRow
from hn_datasets.release.retrying import one_line, retry, status_of
from hn_datasets.release.versions import Version

Result = TypeVar("Result")
DATASET = "dataset"
PATHS = 500
"""How many files one request asks for."""


@dataclass(frozen=True)
class Repository:
    """A repository that a user may write to, or propose changes to.

    Attributes:
        repo_id: with its namespace.
        branch: that releases go to.
        token: of the user; it stands in no text.
        retry_seconds: how long a failing request is tried again.
    """

    repo_id: str
    branch: str
    token: str = field(repr=False)
    retry_seconds: float

    @property
    def api(self) -> HfApi:
        """The client of the Hub."""
        return HfApi(token=self.token)

    def call(self, request: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """Return what a request for this repository returns; it is tried again where that may help."""
        return retry(self.retry_seconds, request, *args, repo_id=self.repo_id, repo_type=DATASET, **options)

    def read_text(self, path: str, commit: str) -> str | None:
        """Return the text of a small file at a commit; None where there is none."""
        found = self._download(path, commit)
        return found.read_bytes().decode("utf-8", errors="replace") if found is not None else None

    def read_record(self, commit: str) -> MiningRecord | None:
        """Return what ``mining.json`` holds at a commit; None where there is none.

        Raises:
            ReleaseError: it is no record, or one of a later schema.
        """
        found = self._download(RECORD_FILE, commit)
        try:
            return _read_release(found.parent) if found is not None else None
        except (HNDatasetsError, TypeError, KeyError, AttributeError) as error:
            raise ReleaseError(
                f"Expected a record of hn_datasets in {RECORD_FILE} of {self.repo_id} at {commit[:12]}, got one that "
                f"cannot be read ({one_line(error)}); restore or delete it there, or publish to another repository."
            ) from error

    def list_files(self, folders: Iterable[str], commit: str) -> list[RepoFile]:
        """Return the files that lie in folders, but not those in folders below them."""
        return [item for folder in sorted(folders) for item in self._list(folder, commit) if isinstance(item, RepoFile)]

    def describe_files(self, paths: list[str], commit: str, *, expand: bool = False) -> list[RepoFile]:
        """Return what the Hub knows of files; of those that are not there, nothing.

        Args:
            paths: of the files.
            commit: where they are looked for.
            expand: ask for the last commit of each, too.
        """
        found: list[RepoFile] = []
        for start in range(0, len(paths), PATHS):
            some = paths[start : start + PATHS]
            items = self.call(self.api.get_paths_info, paths=some, revision=commit, expand=expand)
            found += [item for item in items if isinstance(item, RepoFile)]
        return found

    def _list(self, folder: str, commit: str) -> list[RepoFile | RepoFolder]:
        def ask(**where: Any) -> list[RepoFile | RepoFolder]:
            return list(self.api.list_repo_tree(path_in_repo=folder, revision=commit, **where))

        try:
            return self.call(ask)
        except EntryNotFoundError:
            return []

    def _download(self, path: str, commit: str) -> Path | None:
        try:
            return Path(self.call(hf_hub_download, filename=path, revision=commit, token=self.token))
        except LocalEntryNotFoundError:  # which is an EntryNotFoundError, but says that the Hub gave no answer
            raise
        except EntryNotFoundError:
            return None


def _read_release(folder: Path) -> MiningRecord:
    """Return the record in a folder; what the next release needs of it has the right form."""
    record = MiningRecord.read(folder)
    for entry in record.release.get("files", {}).values():
        entry["sha256"], entry["size"]
    for row in record.release.get("versions", ()):
        VersionRow(**row)
    return record


@dataclass(frozen=True)
class Head:
    """What is at the end of the branch.

    Attributes:
        commit: its id; None where there is no repository yet.
        tags: commit of each version that has a tag.
        card: text of ``README.md``; None where there is none.
        record: of ``mining.json``; None where there is none.
        released: the commit that wrote ``mining.json``; somebody may have changed other files since.
    """

    commit: str | None = None
    tags: dict[Version, str] = field(default_factory=dict)
    card: str | None = None
    record: MiningRecord | None = None
    released: str | None = None

    @property
    def files(self) -> dict[str, dict[str, str | int]]:
        """The data and pictures of the last release, with size and SHA-256; those of no other are among them."""
        return dict(self.record.release.get("files", {})) if self.record is not None else {}

    @property
    def untagged(self) -> Version | None:
        """The version that was committed last, if its tag is missing: somebody is about to set it, or was stopped."""
        version = Version.find(str(self.record.release.get("version", ""))) if self.record is not None else None
        return version if version not in self.tags else None

    @property
    def last(self) -> Version | None:
        """The highest version, tagged or not."""
        versions = [*self.tags, *([self.untagged] if self.untagged is not None else [])]
        return max(versions, default=None)

    def commit_of(self, version: Version) -> str | None:
        """Return the commit of a version; None where there is no such version."""
        return self.tags.get(version) or (self.released if version == self.untagged else None)


def read_head(repository: Repository) -> Head:
    """Return what is at the end of the branch.

    Raises:
        ReleaseError: there is no such branch, or ``mining.json`` is no record, or one of a later schema.
    """
    try:
        refs = repository.call(repository.api.list_repo_refs)
    except RepositoryNotFoundError:
        if repository.branch != constants.DEFAULT_REVISION:
            raise ReleaseError(
                f"Expected the branch {constants.DEFAULT_REVISION}, for {repository.repo_id} is not there yet, got "
                f"{repository.branch!r}; leave the branch out, or make the repository first."
            ) from None
        return Head()
    branches = {ref.name: ref.target_commit for ref in refs.branches}
    if repository.branch not in branches:
        raise ReleaseError(
            f"Expected one of the branches {', '.join(branches) or 'none'} of {repository.repo_id}, got "
            f"{repository.branch!r}; create it first."
        )
    commit = branches[repository.branch]
    tags = {version: ref.target_commit for ref in refs.tags if (version := _version_of(ref.name)) is not None}
    head = Head(commit, tags, repository.read_text(CARD_FILE, commit), repository.read_record(commit))
    return head if head.untagged is None else replace(head, released=_find_writer(repository, commit))


def _find_writer(repository: Repository, commit: str) -> str:
    """Return the last commit, up to one, that has written ``mining.json``: the one of the release."""
    for file in repository.describe_files([RECORD_FILE], commit, expand=True):
        if file.last_commit is not None:
            return file.last_commit.oid
    return commit


def _version_of(tag: str) -> Version | None:
    return Version.find(tag) if tag.startswith("v") else None


def check_repo_id(repo_id: str) -> None:
    """Check the form of a name on the Hub.

    Raises:
        ArgumentError: it is none.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ArgumentError(
            f"Expected a repository such as 'me/qa-hard-negatives', got {repo_id!r} ({one_line(error)}); correct it."
        ) from None


def open_repository(
    repo_id: str, *, token: str | None, branch: str | None, private: bool | None, create_pr: bool, retry_seconds: float
) -> Repository:
    """Return a repository, which need not exist yet, after a check that the user may do what a release needs.

    Args:
        repo_id: with or without its namespace, which is then the user's own.
        token: of the user; the one of the environment if None.
        branch: ``main`` if None.
        private: of a repository that is to be made; None leaves it to the Hub.
        create_pr: the release is to be proposed only.
        retry_seconds: how long a failing request is tried again.

    Raises:
        ArgumentError: ``repo_id`` is no name; ``private`` has no effect on the repository, which is there already.
        ReleaseError: there is no token, the Hub refuses it, or it has no right to write there.
    """
    check_repo_id(repo_id)
    token = (token or get_token() or "").strip()
    if not token:
        raise ReleaseError(
            "Expected a token of the Hub with the right to write, got none; run `hf auth login`, or set HF_TOKEN."
        )
    if not (token.isascii() and token.isprintable() and " " not in token):  # the client would show it in its error
        raise ReleaseError("Expected a token of the Hub, got a text with characters that none has; copy it again.")
    user = _ask_who(token, retry_seconds)
    own = [user["name"], *(entry["name"] for entry in user.get("orgs", ()))]
    repo_id = repo_id if "/" in repo_id else f"{user['name']}/{repo_id}"
    namespace = repo_id.split("/")[0]
    if namespace not in own and not create_pr:
        raise ReleaseError(
            f"Expected a repository of {', '.join(own)}, whose token this is, got {repo_id!r}; publish under one of "
            "these names, or propose the release by create_pr."
        )
    repository = Repository(repo_id, branch or constants.DEFAULT_REVISION, token, retry_seconds)
    _check_rights(repository, private=private, create_pr=create_pr)
    return repository


def _ask_who(token: str, retry_seconds: float) -> dict[str, Any]:
    """Return who a token is from."""
    try:
        user: dict[str, Any] = retry(retry_seconds, HfApi(token=token).whoami)
    except HfHubHTTPError as error:
        raise ReleaseError(
            f"Expected a valid token of the Hub, which refused this one (status {status_of(error)}); make a new one "
            "in your settings there."
        ) from None
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise ReleaseError(
            f"Expected a token with the right to write, got one of {user['name']} that can only read; make another "
            "one in your settings on the Hub."
        )
    return user


def _check_rights(repository: Repository, *, private: bool | None, create_pr: bool) -> None:
    try:
        info = repository.call(repository.api.repo_info)
        if not create_pr:
            repository.call(repository.api.auth_check, write=True)
    except RepositoryNotFoundError:
        if create_pr:
            raise ReleaseError(
                f"Expected a repository that is there, got {repository.repo_id!r}, which is not, or is private; a "
                "pull request cannot make it."
            ) from None
        return
    except HfHubHTTPError as error:
        raise ReleaseError(
            f"Expected the right to write to {repository.repo_id}, the Hub says no ({one_line(error)}); ask its "
            "owners, or propose the release by create_pr."
        ) from None
    if private is not None and bool(info.private) != private:
        kind = "private" if info.private else "public"
        raise ArgumentError(
            f"private={private} has no effect: {repository.repo_id} is there and {kind}; leave it out, or change the "
            "repository's settings on the Hub."
        )
