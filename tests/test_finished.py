"""Mined rows survive a kill: the next run reads them, whatever its batches, and mines the others alone.

The anchors of a stream are encoded as they come and not kept, so the teacher's log says which rows were mined.
"""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from datasets import Dataset

from hn_datasets import EmbeddingStore, HardNegativeMiner, RandomNegatives, TopK
from hn_datasets.errors import DamagedShardWarning, UnkeptRowsWarning
from tests import oracle
from tests.teachers import HashTeacher

PASSAGES = [f"passage {number}" for number in range(60)]
ROWS = [(f"question {number}", [PASSAGES[number % 60]]) for number in range(100)]
PAIRS = Dataset.from_dict({"anchor": [anchor for anchor, _ in ROWS], "positive": [own[0] for _, own in ROWS]})

SCRIPT = """
import os, signal, sys
import hn_datasets.finished as module
from hn_datasets import HardNegativeMiner
from tests.teachers import HashTeacher
from tests.test_finished import PAIRS, PASSAGES
store, log, die_after, num_proc = sys.argv[1:]
module.SHARD_PAIRS = 20 * len(PASSAGES)
teacher = HashTeacher(log=log, die_after=int(die_after))
miner = HardNegativeMiner.from_corpus(PASSAGES, teacher=teacher, store=store)
PAIRS.map(miner, batched=True, batch_size=10, num_proc=int(num_proc) or None)
"""


@pytest.fixture(autouse=True)
def every_row_is_worth_a_file(monkeypatch):
    monkeypatch.setattr("hn_datasets.finished.SHARD_PAIRS", 1)


def mine(store, *, pairs=PAIRS, log=None, corpus=PASSAGES, batch_size=10, num_proc=None, teacher="hash", **choices):
    """Return the mined dataset and the anchors that were mined now."""
    teacher = HashTeacher(log=log, name=teacher)
    miner = HardNegativeMiner.from_corpus(corpus, teacher=teacher, store=store, **choices)
    mined = pairs.map(miner, batched=True, batch_size=batch_size, num_proc=num_proc, load_from_cache_file=False)
    texts = log.read_text().splitlines() if log and log.exists() else []
    return mined, sorted(text for text in texts if text.startswith("question"))


def expected(method=("topk-percpos", 0.95), num_negatives=4):
    teacher = HashTeacher()
    vectors = {
        text: teacher.encode([text], "passage")[0].astype(np.float64) for row in ROWS for text in (row[0], *row[1])
    }
    return oracle.mine(ROWS, [], lambda one, other: np.float32(vectors[one] @ vectors[other]), method, num_negatives)


def kept_files(store):
    return list((store / "finished").rglob("*.arrow"))


@pytest.mark.parametrize("again", [{}, {"batch_size": 7}, {"batch_size": None}, {"num_proc": 2}], ids=repr)
def test_a_second_run_reads_every_row_whatever_its_batches(tmp_path, again):
    _, first = mine(tmp_path, log=tmp_path / "first")
    assert len(first) == 100
    mined, second = mine(tmp_path, log=tmp_path / "second", **again)
    assert second == []
    oracle.assert_same(mined, expected())


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """The corpus takes one call of the teacher, and every batch of 10 rows one; two batches make a shard."""
    command = [sys.executable, "-c", SCRIPT, tmp_path, tmp_path / "killed", "8", "0"]
    assert subprocess.run(list(map(str, command)), capture_output=True, check=False).returncode == -9
    mined, anchors = mine(tmp_path, log=tmp_path / "again", batch_size=9)
    assert anchors == sorted(anchor for anchor, _ in ROWS[60:])
    oracle.assert_same(mined, expected())


def test_workers_that_are_killed_leave_their_rows_too(tmp_path):
    command = [sys.executable, "-c", SCRIPT, tmp_path, tmp_path / "killed", "3", "2"]
    assert subprocess.run(list(map(str, command)), capture_output=True, check=False, timeout=120).returncode
    mined, anchors = mine(tmp_path, log=tmp_path / "again")
    assert len(anchors) <= 80
    oracle.assert_same(mined, expected())


def test_rows_that_are_there_and_new_ones_come_in_their_order(tmp_path):
    mine(tmp_path, pairs=PAIRS.select(range(1, 100, 2)))
    mined, anchors = mine(tmp_path, log=tmp_path / "log", batch_size=None)
    assert anchors == sorted(anchor for anchor, _ in ROWS[::2])
    oracle.assert_same(mined, expected())


@pytest.mark.parametrize(
    "other",
    [
        {"num_negatives": 3},
        {"method": TopK()},
        {"sampling": "softmax"},
        {"corpus": [*PASSAGES, "one more"]},
        {"teacher": "another"},
        {"pairs": PAIRS.map(lambda row: {"positive": row["positive"][:-1] + "x"})},
    ],
    ids=lambda other: next(iter(other)),
)
def test_nothing_is_read_that_was_mined_otherwise(tmp_path, other):
    mine(tmp_path)
    _, anchors = mine(tmp_path, log=tmp_path / "log", **other)
    assert len(anchors) == 100


def test_an_anchor_that_has_got_another_positive_is_mined_again(tmp_path):
    pairs = Dataset.from_dict({"query": ["q", "r"], "answer": ["a", "b"]})
    corpus = [f"extra {number}" for number in range(30)]
    for rows in (pairs, Dataset.from_dict({"query": ["q", "r", "q"], "answer": ["a", "b", "extra 7"]})):
        miner = HardNegativeMiner.from_dataset(
            rows, teacher=HashTeacher(), corpus=[*corpus, "a", "b"], method=TopK(), num_negatives=31, store=tmp_path
        )
        mined = pairs.map(miner, batched=True, load_from_cache_file=False)
        assert ("extra 7" in mined[0]["negatives"]) == (rows is pairs)


@pytest.mark.parametrize(
    "choices", [{"num_negatives": 59}, {"method": RandomNegatives(), "num_negatives": 5}], ids=repr
)
def test_short_and_drawn_rows_come_back_to_the_last_bit(tmp_path, choices):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        once, _ = mine(tmp_path, **choices)
        again, anchors = mine(tmp_path, log=tmp_path / "log", **choices)
    assert anchors == []
    oracle.assert_same(again, list(once))


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_the_rows_of_a_damaged_file_are_mined_again(tmp_path, damage):
    mine(tmp_path)
    shards = sorted(kept_files(tmp_path))
    assert len(shards) == 10
    data = bytearray(shards[3].read_bytes())
    data[len(data) // 2] ^= 1
    shards[3].write_bytes({"flip": bytes(data), "truncate": bytes(data[:-50]), "empty": b""}[damage])
    with pytest.warns(DamagedShardWarning, match=f"{shards[3].name}.*searched again"):
        mined, anchors = mine(tmp_path, log=tmp_path / "log")
    assert len(anchors) == 10
    oracle.assert_same(mined, expected())
    assert sorted(kept_files(tmp_path)) == shards


def test_a_disk_that_takes_no_rows_is_named_once_and_stops_nothing(tmp_path):
    (tmp_path / "finished").write_text("a file where a folder has to be")
    with pytest.warns(UnkeptRowsWarning, match="Could not write") as caught:
        mined, _ = mine(tmp_path)
    assert len(caught) == 1
    oracle.assert_same(mined, expected())


def test_mining_anew_reads_no_rows(tmp_path):
    mine(tmp_path)
    miner = HardNegativeMiner.from_corpus(PASSAGES, teacher=HashTeacher(log=tmp_path / "log"), store=tmp_path)
    oracle.assert_same(miner.mine_anew(PAIRS[:]), expected())
    assert len((tmp_path / "log").read_text().splitlines()) == 100


def test_what_is_soon_searched_again_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("hn_datasets.finished.SHARD_PAIRS", 100 * 60 + 1)
    mine(tmp_path)
    assert not kept_files(tmp_path)


def test_kept_rows_are_counted_and_pruned_with_the_vectors(tmp_path):
    mine(tmp_path)
    store = EmbeddingStore(tmp_path)
    size = sum(path.stat().st_size for path in kept_files(tmp_path))
    assert 0 < size < store.num_bytes
    assert store.prune(unused_days=0) >= size
    assert store.num_bytes == 0
