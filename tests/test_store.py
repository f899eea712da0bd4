"""The store loses nothing: kills, damage, a full disk, two writers."""

import os
import subprocess
import sys
import time
import warnings

import numpy as np
import pyarrow as pa
import pytest

from hn_datasets.errors import ArgumentError, DamagedShardWarning, StoreError, VectorError
from hn_datasets.ray_engine.ranges import range_store
from hn_datasets.store import EmbeddingStore, check_vectors
from hn_datasets.teachers.dense import DenseTeacher
from hn_datasets.texts import Corpus, digest_texts
from hn_datasets.vector_space import VectorSpace
from tests.teachers import HashTeacher

TEXTS = [f"text number {number}" for number in range(300)]

SCRIPT = """
import os, resource, signal, sys
import pyarrow as pa
import hn_datasets.store as module
from hn_datasets.texts import digest_texts
from tests.teachers import HashTeacher
directory, log, shard, die_after, limit, dimension, writes = sys.argv[1:]
module.SHARD_TEXTS = int(shard)
flush, flushed = os.fsync, []
def flush_or_die(descriptor):
    flushed.append(descriptor)
    if len(flushed) == int(writes):
        os.kill(os.getpid(), signal.SIGKILL)
    flush(descriptor)
os.fsync = flush_or_die
if int(limit):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
texts = [f"text number {number}" for number in range(300)]
teacher = HashTeacher(int(dimension), log=log, die_after=int(die_after) if die_after != "-" else None)
module.EmbeddingStore(directory).embed(teacher, "passage", pa.array(texts), digest_texts(texts))
print("finished")
"""


def start(directory, log, *, shard=20, die_after="-", limit=0, dimension=8, die_writing=0):
    arguments = [str(part) for part in (directory, log, shard, die_after, limit, dimension, die_writing)]
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stdout=pipe, stderr=pipe, text=True)


def embed(directory, texts=TEXTS, **options):
    teacher = HashTeacher(**options)
    store = EmbeddingStore(directory)
    store.embed(teacher, "passage", pa.array(texts), digest_texts(texts))
    return store, teacher


def test_vectors_come_back_bit_for_bit_and_are_encoded_once(tmp_path):
    _, teacher = embed(tmp_path)
    store = EmbeddingStore(tmp_path)
    assert (store.vectors(teacher, "passage", TEXTS[::-1]) == teacher.encode(TEXTS[::-1], "passage")).all()
    _, again = embed(tmp_path, [*TEXTS, "one more", "one more"], log=tmp_path / "log")
    assert (tmp_path / "log").read_text().splitlines() == ["one more"]
    assert again.calls == 1


def test_a_killed_run_loses_at_most_one_shard(tmp_path):
    log = tmp_path / "log"
    process = start(tmp_path / "store", log, die_after=7)
    assert process.communicate()[0] == ""
    assert process.returncode == -9
    kept = len(VectorSpace(tmp_path / "store/embeddings/v1" / HashTeacher().space("passage"), 8))
    assert kept == 7 * 20
    assert start(tmp_path / "store", log).communicate()[0] == "finished\n"
    assert len(log.read_text().splitlines()) == 300


def test_a_run_killed_while_it_writes_leaves_no_torn_shard(tmp_path):
    """The fourth file is the third shard: the first is the description of the space."""
    store = tmp_path / "store"
    process = start(store, tmp_path / "log", die_writing=4)
    process.communicate()
    assert process.returncode == -9
    assert len(list(store.rglob(".writing-*"))) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(store, log=tmp_path / "again")
    assert len((tmp_path / "again").read_text().splitlines()) == 300 - 2 * 20


def test_an_interrupted_run_keeps_all_that_it_has_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr("hn_datasets.store.CALL_TEXTS", 512)

    class Interrupted(HashTeacher):
        def encode(self, texts, role):
            if self.calls == 1:
                raise KeyboardInterrupt
            return super().encode(texts, role)

    many = [f"text number {number}" for number in range(1000)]
    with pytest.raises(KeyboardInterrupt):
        EmbeddingStore(tmp_path).embed(Interrupted(), "passage", pa.array(many), digest_texts(many))
    assert len(EmbeddingStore(tmp_path).space(HashTeacher(), "passage")) == 512


def test_two_processes_fill_one_store(tmp_path):
    both = [start(tmp_path / "store", tmp_path / name) for name in ("one", "two")]
    assert [process.communicate()[0] for process in both] == ["finished\n"] * 2
    store = EmbeddingStore(tmp_path / "store")
    teacher = HashTeacher()
    assert len(store.space(teacher, "passage")) == 300
    assert (store.vectors(teacher, "passage", TEXTS) == teacher.encode(TEXTS, "passage")).all()


def test_what_another_process_encodes_meanwhile_is_left_to_it(tmp_path, monkeypatch):
    """The other process begins when the first has taken three of five calls, from the other end, and is killed."""
    monkeypatch.setattr("hn_datasets.store.SHARD_TEXTS", 100)
    many = [f"text number {number:03} " + "x" * (500 - number) for number in range(500)]
    encoded = {"first": [], "other": []}

    class Counting(HashTeacher):
        who, meet = "other", None

        def encode(self, texts, role):
            encoded[self.who].append([int(text.split()[2]) for text in texts])
            if self.meet and len(encoded["first"]) == 3:
                with pytest.raises(KeyboardInterrupt):
                    EmbeddingStore(tmp_path).embed(Killed(), "passage", pa.array(many), digest_texts(many))
            return super().encode(texts, role)

    class Killed(Counting):
        def encode(self, texts, role):
            if len(encoded["other"]) == 2:
                raise KeyboardInterrupt
            return super().encode(texts, role)

    first = Counting()
    first.who, first.meet = "first", True
    space = EmbeddingStore(tmp_path).embed(first, "passage", pa.array(many), digest_texts(many))
    assert len(space) == 500
    assert [(rows[0], rows[-1]) for rows in encoded["first"]] == [(0, 99), (100, 199), (200, 299)]
    assert [(rows[0], rows[-1]) for rows in encoded["other"]] == [(400, 499), (300, 399)]
    assert not len(space.missing(digest_texts(many)))


def test_a_full_disk_is_a_clear_error_and_the_store_still_opens(tmp_path):
    process = start(tmp_path / "store", tmp_path / "log", shard=30, dimension=8)
    process.communicate()
    whole = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*.arrow"))
    full = start(tmp_path / "full", tmp_path / "log2", shard=30, dimension=512, limit=whole)
    _, errors = full.communicate()
    assert full.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith("hn_datasets.errors.StoreError")
    assert "File too large" in last
    assert "HN_DATASETS_CACHE" in last
    assert not list((tmp_path / "full").rglob(".writing-*"))
    store, teacher = embed(tmp_path / "full", dimension=512)
    assert (store.vectors(teacher, "passage", TEXTS) == teacher.encode(TEXTS, "passage")).all()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_fills_up_keeps_the_shards_before(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("this machine does not let a test mount a tmpfs")
    try:
        full = start(small / "store", tmp_path / "log", shard=30, dimension=512)
        _, errors = full.communicate()
        assert "No space left on device" in errors.strip().splitlines()[-1]
        kept = len(VectorSpace(small / "store/embeddings/v1" / HashTeacher(512).space("passage"), 512))
        assert 0 < kept < 300
        assert kept % 30 == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_shard_is_named_and_encoded_again(tmp_path, damage):
    embed(tmp_path)
    (shard,) = tmp_path.rglob("*.arrow")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes({"flip": bytes(data), "truncate": bytes(data[:-50]), "empty": b""}[damage])
    with pytest.warns(DamagedShardWarning, match=shard.name):
        store, teacher = embed(tmp_path, log=tmp_path / "log")
    assert len((tmp_path / "log").read_text().splitlines()) == 300
    assert (store.vectors(teacher, "passage", TEXTS) == teacher.encode(TEXTS, "passage")).all()


def test_only_the_texts_of_a_damaged_shard_are_encoded_again(tmp_path, monkeypatch):
    monkeypatch.setattr("hn_datasets.store.SHARD_TEXTS", 30)
    embed(tmp_path)
    shards = sorted(tmp_path.rglob("*.arrow"))
    assert len(shards) == 10
    shards[4].write_bytes(shards[4].read_bytes()[:-1] + b"?")
    with pytest.warns(DamagedShardWarning, match=shards[4].name):
        assert len(EmbeddingStore(tmp_path).space(HashTeacher(), "passage")) == 270
    assert not shards[4].exists()
    embed(tmp_path, log=tmp_path / "log")
    assert len((tmp_path / "log").read_text().splitlines()) == 30
    assert sorted(tmp_path.rglob("*.arrow")) == shards


@pytest.mark.parametrize("version", [0, 2])
def test_a_store_of_another_version_is_left_alone(tmp_path, version):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hn_datasets.store.STORE_VERSION", version)
        embed(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    store, teacher = embed(tmp_path, log=tmp_path / "log")
    assert len((tmp_path / "log").read_text().splitlines()) == 300
    assert (store.vectors(teacher, "passage", TEXTS) == teacher.encode(TEXTS, "passage")).all()
    assert before.items() <= {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}.items()


def test_shards_are_appended_and_never_written_again(tmp_path):
    embed(tmp_path, TEXTS[:100])
    (first,) = tmp_path.rglob("*.arrow")
    before = first.stat()
    embed(tmp_path)
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(list(tmp_path.rglob("*.arrow"))) == 2


def test_a_call_of_the_teacher_is_bounded_and_the_longest_texts_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr("hn_datasets.store.CALL_CHARACTERS", 100)
    texts = ["a", "b" * 40, "c" * 70, "d" * 30, "e" * 200]
    _, teacher = embed(tmp_path, texts, log=tmp_path / "log")
    assert [line[0] for line in (tmp_path / "log").read_text().splitlines()] == ["e", "c", "b", "d", "a"]
    assert teacher.calls == 3
    monkeypatch.setattr("hn_datasets.store.CALL_TEXTS", 100)
    monkeypatch.setattr("hn_datasets.store.CALL_CHARACTERS", 1_000_000)
    assert embed(tmp_path)[1].calls == 3


def test_a_teacher_says_how_much_text_it_wants_at_once(tmp_path):
    class Slow(HashTeacher):
        call_characters = 100

    slow = Slow()
    store = EmbeddingStore(tmp_path)
    store.embed(
        slow, "passage", pa.array(["a" * 30] * 2 + [letter * 30 for letter in "bcdef"]), digest_texts("aabcdef")
    )
    assert slow.calls == 2


def test_a_run_that_goes_on_has_the_vectors_of_one_that_was_never_stopped_to_the_last_bit(tmp_path, minilm_path):
    """Whatever a model makes of a text beside others: the calls are the same ones."""

    class Stopping(DenseTeacher):
        left = 2
        call_characters = 1000

        def encode(self, texts, role):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().encode(texts, role)

    texts = [f"text {number} " + "word " * (number % 17) for number in range(80)]
    corpus, digests = pa.array(texts), digest_texts(texts)
    with pytest.raises(KeyboardInterrupt):
        EmbeddingStore(tmp_path / "stopped").embed(Stopping(minilm_path), "passage", corpus, digests)
    vectors = []
    for name in ("stopped", "whole"):
        teacher = Stopping(minilm_path)
        teacher.left = 100
        vectors.append(EmbeddingStore(tmp_path / name).embed(teacher, "passage", corpus, digests).vectors(digests))
    assert 90 <= teacher.left < 99
    assert (vectors[0] == vectors[1]).all()


def test_shards_are_read_by_memory_map(tmp_path):
    embed(tmp_path, dimension=4096)
    before = pa.total_allocated_bytes()
    store = EmbeddingStore(tmp_path)
    assert len(store.space(HashTeacher(4096), "passage")) == 300
    assert pa.total_allocated_bytes() - before < 100_000
    corpus = Corpus.build([pa.array(TEXTS)], tmp_path / "corpora")
    assert isinstance(store.matrix(HashTeacher(4096), corpus), np.memmap)


def test_roles_share_vectors_where_their_address_is_the_same_and_teachers_never_do(tmp_path):
    store, teacher = embed(tmp_path)
    store.embed(teacher, "anchor", pa.array(TEXTS), digest_texts(TEXTS))
    assert teacher.calls == 1
    other = HashTeacher(name="other")
    store.embed(other, "anchor", pa.array(TEXTS), digest_texts(TEXTS))
    assert other.calls == 1


def test_a_teacher_that_fails_midway_loses_only_its_last_shard(tmp_path, monkeypatch):
    class Failing(HashTeacher):
        def encode(self, texts, role):
            return super().encode(texts, role) * (np.nan if self.calls == 3 else 1)

    monkeypatch.setattr("hn_datasets.store.SHARD_TEXTS", 100)
    with pytest.raises(VectorError, match="100 of 100 texts, first 'text number"):
        EmbeddingStore(tmp_path).embed(Failing(), "passage", pa.array(TEXTS), digest_texts(TEXTS))
    embed(tmp_path, log=tmp_path / "log")
    assert len((tmp_path / "log").read_text().splitlines()) == 100


def test_the_matrix_has_the_order_of_the_corpus_and_is_made_again_when_damaged(tmp_path):
    store, teacher = embed(tmp_path)
    corpus = Corpus.build([pa.array(TEXTS)], tmp_path / "corpora")
    expected = teacher.encode(corpus.texts(np.arange(300)), "passage")
    assert (store.matrix(teacher, corpus) == expected).all()
    (file,) = tmp_path.rglob("*.npy")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert (EmbeddingStore(tmp_path).matrix(teacher, corpus) == expected).all()


def test_vectors_of_a_stream_are_not_kept(tmp_path):
    store, teacher = embed(tmp_path, TEXTS[:5])
    vectors = store.vectors(teacher, "passage", ["new", TEXTS[2], "new"])
    assert (vectors == teacher.encode(["new", TEXTS[2], "new"], "passage")).all()
    assert len(EmbeddingStore(tmp_path).space(teacher, "passage")) == 5


def test_a_text_without_a_vector_is_not_made_up(tmp_path):
    store, teacher = embed(tmp_path, TEXTS[:5])
    with pytest.raises(VectorError, match="1 of 2 have none"):
        store.space(teacher, "passage").vectors(digest_texts([TEXTS[0], "unknown"]))


def test_odd_texts_have_vectors_of_their_own(tmp_path):
    odd = ["a\x00", "a", "a\x00\x00", "x" * 100_000, "\u200b"]
    store, teacher = embed(tmp_path, odd)
    assert (store.vectors(teacher, "passage", odd) == teacher.encode(odd, "passage")).all()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((1, 3)), r"shape \[2, 3\].*got \[1, 3\]"),
        (np.zeros((2, 4)), r"shape \[2, 3\].*got \[2, 4\]"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), "1 of 2 texts, first 'second'"),
        (np.array([[np.inf, 0, 0], [0, 0, 0]]), "1 of 2 texts, first 'first'"),
    ],
)
def test_vectors_that_are_none_are_refused(vectors, message):
    with pytest.raises(VectorError, match=message):
        check_vectors(vectors, ["first", "second"], 3)


def test_the_store_lists_and_prunes_what_it_holds(tmp_path):
    store, _ = embed(tmp_path, name="one")
    embed(tmp_path, TEXTS[:10], name="two")
    assert {info.description["teacher"]["name"] for info in store.spaces()} == {"one", "two"}
    assert sum(info.num_bytes for info in store.spaces()) <= store.num_bytes
    with pytest.raises(ArgumentError, match="got 'zz', which 0 have"):
        store.prune(address="zz")
    with pytest.raises(ArgumentError, match="got '', which 0 have"):
        store.prune(address="")
    with pytest.raises(ArgumentError, match="either"):
        store.prune()
    with pytest.raises(ArgumentError, match="at least 0"):
        store.prune(unused_days=-1)
    assert store.prune(unused_days=1) == 0
    one = HashTeacher(name="one")
    assert store.prune(address=one.space("passage")[:8]) > 0
    assert [info.description["teacher"]["name"] for info in store.spaces()] == ["two"]
    store.prune(unused_days=0)
    assert store.num_bytes == 0


def test_an_address_that_several_spaces_share_is_refused(tmp_path):
    names = [f"teacher {number}" for number in range(17)]
    for name in names:
        store, _ = embed(tmp_path, TEXTS[:1], name=name)
    begins = [HashTeacher(name=name).space("passage")[0] for name in names]
    shared = next(begin for begin in begins if begins.count(begin) > 1)
    with pytest.raises(ArgumentError, match=f"got '{shared}', which {begins.count(shared)} have"):
        store.prune(address=shared)
    assert len(store.spaces()) == 17


def test_spaces_are_pruned_by_the_day_of_their_last_use_and_what_was_derived_with_them(tmp_path):
    store, old = embed(tmp_path, name="old")
    embed(tmp_path, name="used")
    corpus = Corpus.build([pa.array(TEXTS)], tmp_path / "corpora")
    store.matrix(old, corpus)
    past = time.time() - 10 * 86400
    for info in store.spaces():
        os.utime(info.directories[0] / "space.json", (past, past))
    EmbeddingStore(tmp_path).space(HashTeacher(name="used"), "passage")
    held = store.num_bytes
    assert store.prune(unused_days=9) == held - store.num_bytes > 0
    assert [info.description["teacher"]["name"] for info in store.spaces()] == ["used"]
    assert not list(tmp_path.rglob("*.npy"))
    _, again = embed(tmp_path, name="old")
    assert again.calls == 1


def test_what_clusters_keep_is_listed_and_pruned_with_the_rest(tmp_path):
    store, teacher = embed(tmp_path, TEXTS[:10], name="everywhere")
    for number in range(2):
        part = range_store(tmp_path, number, 2)
        part.embed(teacher, "passage", pa.array(TEXTS[:10]), digest_texts(TEXTS[:10]))
        part.embed(HashTeacher(name="clusters"), "passage", pa.array(TEXTS), digest_texts(TEXTS))
        part.matrix(teacher, Corpus.build([pa.array(TEXTS[:10])], part.derived / "corpora"))
    past = time.time() - 10 * 86400
    for name in ("ray/old", "ray/new", "ray/given"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "rows.parquet").write_bytes(b"rows")
        os.utime(tmp_path / name / "rows.parquet", (past, past) if name != "ray/new" else None)
    found = {info.description["teacher"]["name"]: info for info in store.spaces()}
    assert {name: len(info.directories) for name, info in found.items()} == {"everywhere": 3, "clusters": 2}
    others = store.other_bytes()
    assert others["ray"] == 12 and others["matrices"] > 2 * 10 * 8 * 4
    assert sum(others.values()) + sum(info.num_bytes for info in found.values()) == store.num_bytes
    assert store.prune(unused_days=9) == 8
    assert [path.name for path in (tmp_path / "ray").rglob("*.parquet")] == ["rows.parquet"]
    assert (tmp_path / "ray" / "new").exists()
    for directory in found["clusters"].directories:
        os.utime(directory / "space.json", (past, past))
    assert store.prune(unused_days=9) > found["clusters"].num_bytes
    assert [info.description["teacher"]["name"] for info in store.spaces()] == ["everywhere"]
    assert store.other_bytes() == {}
    store.prune(address=teacher.space("passage"))
    assert store.num_bytes == 0


def test_leftovers_of_a_killed_writer_do_no_harm_and_are_pruned(tmp_path):
    """One that was written to within the hour may belong to a process that still runs."""
    store, teacher = embed(tmp_path)
    (tmp_path / "matrices").mkdir()
    fresh = store.space(teacher, "passage").directory / ".writing-fresh"
    abandoned = [fresh.with_name(".writing-old"), tmp_path / "matrices" / ".writing-old"]
    for path in (fresh, *abandoned):
        path.write_bytes(b"half a shard")
    for path in abandoned:
        os.utime(path, (time.time() - 7200,) * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(EmbeddingStore(tmp_path).space(teacher, "passage")) == 300
    assert store.prune(unused_days=1) == 2 * len(b"half a shard")
    assert fresh.exists()
    assert len(store.spaces()) == 1
    store.prune(unused_days=0)
    assert store.num_bytes == 0


def test_a_directory_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "embeddings").write_text("a file where a folder has to be")
    with pytest.raises(StoreError, match="Could not write"):
        embed(tmp_path)
