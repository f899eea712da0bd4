"""The folders of a release on this machine: where it is staged, and whether it may stay somewhere."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from hn_datasets.errors import ArgumentError, ReleaseError
from hn_datasets.files import cache_directory
from hn_datasets.record import RECORD_FILE


@contextlib.contextmanager
def staging_folder(repo_id: str, *, keep: bool) -> Iterator[Path]:
    """Yield an empty folder for a repository, which no other process on this machine uses meanwhile.

    What a killed process has left there goes first. Afterwards it is removed, unless it is to be kept.

    Raises:
        ReleaseError: another process is publishing to the repository.
    """
    root = cache_directory() / "releases" / repo_id.replace("/", "--")
    folder = root / "release"
    root.mkdir(parents=True, exist_ok=True)
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
        ArgumentError: it holds something else, or a release and ``overwrite`` is off.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / RECORD_FILE).exists():
        raise ArgumentError(
            f"Expected a new folder or one with a release, {folder} holds something else; name another."
        )
    if not overwrite:
        raise ArgumentError(f"{folder} holds a release already; name another folder, or pass overwrite.")
