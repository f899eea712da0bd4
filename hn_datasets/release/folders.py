"""The folders of a release on this machine: where it is staged, and whether it may stay somewhere."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from hn_datasets.errors import ArgumentError, ReleaseError, StoreError
from hn_datasets.files import cache_directory, check_readable
from hn_datasets.record import RECORD_FILE
from hn_datasets.release.card import CARD_FILE


@contextlib.contextmanager
def staging_folder(repo_id: str, *, keep: bool) -> Iterator[Path]:
    """Yield an empty folder for a repository, which no other process on this machine uses meanwhile.

    What a killed process has left there goes first. Afterwards it is removed, unless it is to be kept.

    Raises:
        ReleaseError: another process is publishing to the repository.
        StoreError: there can be no such folder.
    """
    root = cache_directory() / "releases" / repo_id.replace("/", "--")
    folder = root / "release"
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / "lock").touch()
    except OSError as error:
        raise StoreError(
            error.errno,
            f"Could not write to {root} ({error.strerror or error}); free some space, or set HN_DATASETS_CACHE to "
            "another folder.",
        ) from error
    try:
        with FileLock(root / "lock", timeout=0):
            for entry in root.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
            folder.mkdir()
            try:
                yield folder
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            if not keep:
                shutil.rmtree(folder)
    except Timeout:
        raise ReleaseError(
            f"Another process on this machine is publishing to {repo_id}; wait until it is done."
        ) from None


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Check that a release may be written to a folder.

    Raises:
        ArgumentError: it holds something that no release has written, or a release and ``overwrite`` is off; or it is
            the working directory or one above it, which would be gone; or nobody could load it there.
    """
    check_readable(folder)
    if not folder.exists():
        return
    if folder.is_dir() and Path.cwd().resolve().is_relative_to(folder.resolve()):
        raise ArgumentError(
            f"Expected a folder that can be replaced, {str(folder)!r} is the working directory or above it; name "
            "another."
        )
    if folder.is_dir() and not any(folder.iterdir()):
        return
    files = _read_files(folder)
    if files is None:
        raise ArgumentError(
            f"Expected a new folder or one with a release, {folder} holds something else; name another."
        )
    if not overwrite:
        raise ArgumentError(f"{folder} holds a release already; name another folder, or pass overwrite=True.")
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name not in files and (path.is_symlink() or not path.is_dir()):
            raise ArgumentError(
                f"Expected a folder with nothing but a release, {folder} holds {name!r}, which is not of it; move that "
                "away, or name another folder."
            )


def _read_files(folder: Path) -> set[str] | None:
    """Return the files of the release in a folder; None where it holds none, but for instance what ``mine`` wrote."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        return {CARD_FILE, RECORD_FILE, *record["release"]["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
