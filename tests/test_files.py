"""Files appear whole or not at all, and tell when they are damaged."""

import errno
import os
import stat
from pathlib import Path

import pyarrow as pa
import pytest
from huggingface_hub import constants

from hn_datasets.errors import StoreError
from hn_datasets.files import atomic_write, cache_directory, is_intact, open_arrow, write_arrow, write_checked


def names_in(directory):
    return [path.name for path in directory.iterdir()]


def test_a_file_appears_when_its_block_ends(tmp_path):
    path = tmp_path / "new" / "folders" / "file"
    with atomic_write(path) as file:
        file.write(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert names_in(path.parent) == ["file"]


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(path) as file:
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_says_what_to_do_and_leaves_nothing(tmp_path):
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        expected = pytest.raises(StoreError, match=r"No space left.*HN_DATASETS_CACHE")
        with expected as raised, atomic_write(tmp_path / "file") as file:
            os.dup2(full, file.fileno())
            file.write(b"content")
    finally:
        os.close(full)
    assert raised.value.errno == errno.ENOSPC
    assert "\n" not in str(raised.value)
    assert names_in(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="Could not write to"):
        write_checked(tmp_path / "file", "", ".bin", [b"content"])


def test_files_have_the_permissions_that_the_user_wants(tmp_path):
    """Not those of temporary files, which nobody else may read: a store can be shared."""
    for umask in (0o022, 0o027):
        before = os.umask(umask)
        try:
            path = write_checked(tmp_path, f"{umask}-", ".bin", [b"content"])
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_the_name_of_a_checked_file_depends_on_its_content_alone(tmp_path):
    one = write_checked(tmp_path / "a", "key-", ".bin", [b"first ", b"second"])
    same = write_checked(tmp_path / "b", "key-", ".bin", [memoryview(b"first second")])
    other = write_checked(tmp_path / "b", "key-", ".bin", [b"first third"])
    assert one.name == same.name != other.name
    assert one.name.startswith("key-")
    assert one.suffix == ".bin"
    assert one.read_bytes() == b"first second"


@pytest.mark.parametrize("size", [1, 10, (1 << 22) + 1])
def test_every_kind_of_damage_is_noticed(tmp_path, size):
    content = bytes(number % 251 for number in range(size))
    path = write_checked(tmp_path, "key-", ".bin", [content])
    assert is_intact(path, "key-")
    assert not is_intact(path)
    for bad in (content + b"\0", content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(bad)
        assert not is_intact(path, "key-")
    path.write_bytes(content)
    assert is_intact(path, "key-")


@pytest.mark.parametrize("chunks", [[["a", "b\0", "한"], ["c"]], [[]]])
def test_a_table_comes_back_without_being_read_into_memory(tmp_path, chunks):
    table = pa.table({"text": pa.chunked_array([pa.array(chunk, pa.large_string()) for chunk in chunks])})
    write_arrow(table, tmp_path / "table.arrow")
    before = pa.total_allocated_bytes()
    back = open_arrow(tmp_path / "table.arrow")
    assert back.equals(table.combine_chunks())
    assert pa.total_allocated_bytes() - before < 1000


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HN_DATASETS_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.setenv("HN_DATASETS_CACHE", "~/vectors")
    assert cache_directory() == Path.home() / "vectors"
    monkeypatch.setenv("HN_DATASETS_CACHE", "relative")
    assert cache_directory() == Path.cwd() / "relative"
    for unset in ("", None):
        monkeypatch.delenv("HN_DATASETS_CACHE") if unset is None else monkeypatch.setenv("HN_DATASETS_CACHE", unset)
        assert cache_directory() == Path(constants.HF_HOME) / "hn_datasets"
