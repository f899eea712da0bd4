"""Mining on a real Ray cluster of several nodes: the rows of one machine, also when nodes and drivers are lost.

One cluster serves all tests. A teacher from ``tests.teachers`` counts what it encodes in a file, and can take its own
node with it.
"""

import json
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import ray
from click.testing import CliRunner
from datasets import Dataset, DatasetDict, load_dataset
from ray.cluster_utils import Cluster

import hn_datasets
from hn_datasets import (
    BM25Teacher,
    CrossEncoderGuard,
    EmbeddingStore,
    EnsembleTeacher,
    HardNegativeMiner,
    HeldOut,
    NearDuplicate,
    PrecomputedTeacher,
    RandomNegatives,
    SameGroup,
    SimilarToPositive,
    TopK,
    TopKPercPos,
)
from hn_datasets.cli import main
from hn_datasets.errors import ArgumentError, ClusterError, DataSourceError, StoreError, TeacherError, TextError
from hn_datasets.guards import describe_guards
from hn_datasets.ray_engine.cluster import check_nodes, connected
from hn_datasets.ray_engine.engine import mine_on_ray
from hn_datasets.ray_engine.files import SourceFile, commit_of
from hn_datasets.ray_engine.output import exists, open_whole
from hn_datasets.recipe import Recipe
from hn_datasets.record import MiningRecord
from hn_datasets.sources import describe_source
from tests import oracle
from tests.teachers import HashTeacher, NodeKiller, PickyTeacher
from tests.tiny_cross_encoder import save_tiny_cross_encoder

WORDS = ("rate", "bond", "yield", "stock", "fund", "bank", "loan", "price", "risk", "tax", "debt", "cash")
STORE_BYTES = 80 * 2**20
NOTICE_LOST_NODES = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000}


def sentence(number):
    draws = np.random.default_rng(number).integers(0, len(WORDS), 5)
    return " ".join([*(WORDS[draw] for draw in draws), f"no {number}"])


PASSAGES = [sentence(number) for number in range(80)]
ROWS = [(f"what is {sentence(1000 + number)}", [PASSAGES[number % 50]]) for number in range(60)]
ROWS += [(ROWS[3][0], [PASSAGES[9]]), (ROWS[4][0], [PASSAGES[60].upper()])]  # more positives, one in another case
PAIRS = Dataset.from_dict(
    {
        "anchor": [anchor for anchor, _ in ROWS],
        "positive": [own[0] for _, own in ROWS],
        "title": [f"title {number % 7}" if number % 5 else None for number in range(len(ROWS))],
    }
)
CORPUS = Dataset.from_dict({"text": PASSAGES, "title": [f"title {number % 9}" for number in range(80)]})


@pytest.fixture(scope="module")
def cluster():
    """A head and two more nodes, with one core each."""
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    cluster = Cluster(
        initialize_head=True, head_node_args={**node, "include_dashboard": False, "_system_config": NOTICE_LOST_NODES}
    )
    for _ in range(2):
        cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def two_nodes(cluster):
    """The cluster, of which a test takes a node away: it gets another one when Ray has noticed."""
    yield cluster
    wait_for_nodes(2)
    for node in [node for node in cluster.worker_nodes if node.dead_processes()]:
        cluster.remove_node(node)
    cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)


def wait_for_nodes(count):
    """Wait until Ray knows that so many nodes are alive: it takes some seconds to miss one."""
    until = time.monotonic() + 60
    while (alive := sum(node["Alive"] for node in ray.nodes())) != count:
        assert time.monotonic() < until, f"{alive} nodes are alive, expected {count}"
        threading.Event().wait(0.1)


def mine_here(folder, teacher, *, pairs=PAIRS, corpus=CORPUS, **choices):
    """Return what one machine gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        miner = HardNegativeMiner.from_dataset(pairs, teacher=teacher, corpus=corpus, store=folder, **choices)
    return pairs.map(miner, batched=True), miner


def mine_there(folder, teacher, *, pairs=PAIRS, corpus=CORPUS, guards=(), **choices):
    """Return what the cluster gives, and the record."""
    workers, slices, shard_rows = (choices.pop(*one) for one in (("workers", 2), ("slices", 3), ("shard_rows", 25)))
    names = ("on_error", "overwrite", "gpus_per_worker", "address", "config_name")
    settings = {name: choices.pop(name) for name in names if name in choices}
    recipe = Recipe(teacher.spec(), guards=describe_guards(guards), **choices)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record = mine_on_ray(
            pairs, recipe, folder / "mined", teacher=teacher, guards=guards, corpus=corpus, store=folder / "store",
            workers=workers, slices=slices, shard_rows=shard_rows, **settings,
        )  # fmt: skip
    return load_dataset(str(folder / "mined")), record


def assert_same(got, want):
    assert got.features == want.features
    for name in want.column_names:
        for number, (one, other) in enumerate(zip(got[name], want[name], strict=True)):
            same = one is None if other is None else np.array_equal(one, other, equal_nan=isinstance(other, float))
            assert same, f"row {number}, {name}: {one}, expected {other}"


def score_by(teacher):
    vectors = {}

    def vector(text):
        return vectors.setdefault(text, teacher.encode([text], "passage")[0].astype(np.float64))

    return lambda one, other: np.float32(vector(one) @ vector(other))


def test_the_rows_are_those_of_brute_force_and_the_record_that_of_one_machine(cluster, tmp_path):
    mined, record = mine_there(tmp_path, HashTeacher(), method=TopKPercPos(0.95))
    expected = oracle.mine(ROWS, PASSAGES, score_by(HashTeacher()), ("topk-percpos", 0.95), 4)
    oracle.assert_same(mined["train"], expected)
    here, miner = mine_here(tmp_path / "here", HashTeacher())
    assert mined["train"].features == here.features
    assert record.corpus == {"passages": len(miner.corpus), "digest": miner.corpus.digest}
    local = MiningRecord.of(here, miner)
    assert record.statistics == local.statistics
    assert record.recipe == local.recipe
    assert MiningRecord.read(tmp_path / "mined").to_dict() == record.to_dict()
    assert set(record.timings) == {"start", "read", "collect", "encode", "index", "search", "write"}
    names = sorted(path.name for path in (tmp_path / "mined" / "data").iterdir())
    assert names == [f"train-{number:05d}-of-00003.parquet" for number in range(3)]


GUARDS = (SimilarToPositive(), SameGroup("title"), HeldOut(PASSAGES[70:]), NearDuplicate(0.6))
CHOICES = {
    "guards": {"guards": GUARDS, "method": TopKPercPos(1.0), "relabel_candidates": True},
    "sampling": {"sampling": "softmax", "seed": 3, "guards": (SameGroup("title"),)},
    "random": {"method": RandomNegatives(), "guards": (HeldOut(PASSAGES[70:]),)},
}


@pytest.mark.parametrize(("name", "workers", "slices"), [("guards", 2, 5), ("sampling", 1, 1), ("random", 1, 2)])
def test_guards_and_draws_are_those_of_one_machine(cluster, tmp_path, name, workers, slices):
    mined, _ = mine_there(tmp_path, HashTeacher(), workers=workers, slices=slices, **CHOICES[name])
    here, _ = mine_here(tmp_path / "here", HashTeacher(), **CHOICES[name])
    assert_same(mined["train"], here)


def test_a_cross_encoder_judges_on_the_cluster_and_its_scores_are_kept(cluster, tmp_path):
    guard = CrossEncoderGuard(save_tiny_cross_encoder(tmp_path / "model", [*WORDS, "what", "is"]), pool=8)
    mined, record = mine_there(tmp_path, HashTeacher(), workers=1, slices=2, guards=(guard,))
    assert record.statistics.guard_removals[0] > 100
    files = EmbeddingStore(tmp_path / "store").space(guard._scorer, "pair").directory
    scored = sorted(files.iterdir())
    assert len(scored) > 1
    here, _ = mine_here(tmp_path / "store", HashTeacher(), guards=(guard,))
    assert_same(mined["train"], here)
    assert sorted(files.iterdir()) == scored
    alone, _ = mine_here(tmp_path / "here", HashTeacher(), guards=(guard,))
    assert_same(mined["train"], alone)
    (tmp_path / "model").rename(tmp_path / "moved")
    with pytest.raises(TeacherError, match=r"Could not load the cross-encoder .*model"):
        mine_there(tmp_path / "gone", HashTeacher(log=tmp_path / "log"), workers=1, guards=(guard,))
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(("mode", "slices"), [("agree", 3), ("mean-rank", 4)])
def test_ensembles_with_bm25_are_those_of_one_machine(cluster, tmp_path, mode, slices):
    teacher = EnsembleTeacher([HashTeacher(), BM25Teacher()], mode=mode)
    mined, _ = mine_there(tmp_path, teacher, slices=slices, workers=1)
    here, _ = mine_here(tmp_path / "here", teacher)
    assert_same(mined["train"], here)


def test_the_command_mines_by_bm25_what_one_machine_mines(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("HN_DATASETS_CACHE", str(tmp_path / "store"))
    (tmp_path / "pairs").mkdir()
    files = [
        PAIRS.select([]),
        PAIRS.select(range(30)),
        PAIRS.select(range(30, 62)).select_columns(PAIRS.column_names[::-1]),
    ]
    for number, rows in enumerate(files):
        rows.to_parquet(tmp_path / "pairs" / f"train-[{number}].parquet")
    CORPUS.map(lambda row, number: {"title": row["title"] if number > 20 else None}, with_indices=True).to_json(
        tmp_path / "corpus-1.jsonl"
    )
    CORPUS.select(range(40)).to_json(tmp_path / "corpus-2.jsonl")
    (tmp_path / "corpus-0.jsonl").write_text("")
    command = ["mine", tmp_path / "pairs", "--corpus", tmp_path / "corpus-*.jsonl", "--corpus-column", "text"]
    command += [
        "--teacher",
        "bm25",
        "--engine",
        "ray",
        "--workers",
        1,
        "--slices",
        3,
        "--output",
        f"file://{tmp_path}/mined",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = CliRunner().invoke(main, list(map(str, command)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "62 rows have 2" in result.output
    assert "Warning: BM25 is the only teacher" in result.output
    here, _ = mine_here(tmp_path / "here", BM25Teacher())
    written = result.output.partition("Written: ")[2].splitlines()[0]
    assert f"file://{tmp_path}/mined/data" in written
    assert_same(eval(written, {"load_dataset": load_dataset}), here)
    record = MiningRecord.read(tmp_path / "mined")
    assert record.source["path"] == "pairs"


def test_ready_vectors_stay_with_the_driver(cluster, tmp_path):
    encode = HashTeacher().encode
    tables = [(texts, encode(texts, "passage")) for texts in (PAIRS["anchor"][:], [*PASSAGES, *PAIRS["positive"]])]
    mined, _ = mine_there(tmp_path, PrecomputedTeacher(*tables), workers=1, slices=2)
    expected = oracle.mine(ROWS, PASSAGES, score_by(HashTeacher()), ("topk-percpos", 0.95), 4)
    oracle.assert_same(mined["train"], expected)


def test_splits_share_one_corpus(cluster, tmp_path):
    pairs = DatasetDict(train=PAIRS.select(range(40)), test=PAIRS.select(range(40, 62)))
    mined, record = mine_there(tmp_path, HashTeacher(), pairs=pairs, workers=1, slices=2)
    here, _ = mine_here(tmp_path / "here", HashTeacher(), pairs=pairs)
    for split in pairs:
        assert_same(mined[split], here[split])
    assert record.rows == {"train": 40, "test": 22}


def test_a_node_lost_while_encoding_changes_nothing(two_nodes, tmp_path):
    mined, _ = mine_there(
        tmp_path, NodeKiller(tmp_path / "struck", ray.get_runtime_context().get_node_id()), workers=3, slices=6
    )
    assert (tmp_path / "struck").exists()
    wait_for_nodes(2)
    oracle.assert_same(mined["train"], oracle.mine(ROWS, PASSAGES, score_by(HashTeacher()), ("topk-percpos", 0.95), 4))


def when_there(folder, pattern, act):
    """Start a thread that acts as soon as a file is there."""

    def watch():
        while not done.wait(0.005):
            if any(folder.glob(pattern)):
                act()
                return

    done = threading.Event()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return done, thread


def test_a_node_lost_while_searching_changes_nothing(two_nodes, tmp_path):
    finished = []

    def remove():
        finished.extend((tmp_path / "mined" / "data").glob("train-*.parquet"))
        two_nodes.remove_node(list(two_nodes.worker_nodes)[-1], allow_graceful=False)

    done, thread = when_there(tmp_path / "mined" / "data", "train-*.parquet", remove)
    mined, _ = mine_there(tmp_path, HashTeacher(), workers=3, slices=4, shard_rows=2)
    done.set()
    thread.join()
    assert 0 < len(finished) < 31
    oracle.assert_same(mined["train"], oracle.mine(ROWS, PASSAGES, score_by(HashTeacher()), ("topk-percpos", 0.95), 4))


DRIVER = """
import os, signal, sys
from pathlib import Path
import ray
from tests.teachers import HashTeacher
from tests.test_ray_engine import mine_there, when_there
folder, address = Path(sys.argv[1]), sys.argv[2]
when_there(folder / "mined" / "data", "train-*.parquet", lambda: os.kill(os.getpid(), signal.SIGKILL))
mine_there(folder, HashTeacher(log=folder / "log"), workers=1, slices=2, shard_rows=2, address=address)
"""


def test_a_killed_driver_goes_on_from_what_is_finished(cluster, tmp_path):
    command = [sys.executable, "-c", DRIVER, tmp_path, cluster.address]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == -signal.SIGKILL, done.stderr
    encoded = len((tmp_path / "log").read_text().splitlines())
    assert encoded == len({*PASSAGES, *PAIRS["positive"]}) + len(set(PAIRS["anchor"]))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "mined" / "data").glob("train-*")}
    assert 0 < len(before) < 31
    mined, _ = mine_there(tmp_path, HashTeacher(log=tmp_path / "log"), workers=1, slices=2, shard_rows=2)
    assert len((tmp_path / "log").read_text().splitlines()) == encoded
    assert before.items() <= {p.name: p.stat().st_mtime_ns for p in (tmp_path / "mined" / "data").iterdir()}.items()
    oracle.assert_same(mined["train"], oracle.mine(ROWS, PASSAGES, score_by(HashTeacher()), ("topk-percpos", 0.95), 4))


def test_texts_that_fail_are_named_and_the_rest_goes_on(cluster, tmp_path):
    CORPUS.to_parquet(tmp_path / "corpus.parquet")
    given = {"corpus": str(tmp_path / "corpus.parquet"), "workers": 1, "slices": 2, "method": TopK()}
    ensemble = EnsembleTeacher([BM25Teacher(), PickyTeacher(), PickyTeacher(name="other")], mode="mean-rank")
    with pytest.raises(TeacherError, match=r"fails on 2, first row \d+ of .*parquet \(cannot read that\).*'skip'"):
        mine_there(tmp_path, ensemble, **given)
    mined, record = mine_there(tmp_path, PickyTeacher(), **given, on_error="skip", overwrite=True)
    assert record.statistics.failed_texts == 2
    assert "2 texts made the teacher fail" in record.statistics.to_table()
    lines = [json.loads(line) for line in (tmp_path / "mined" / "failed.jsonl").read_text().splitlines()]
    assert {(line["role"], line["row"]) for line in lines} == {("anchor", 2), ("passage", 77)}
    assert mined["train"][2]["negatives"] == []
    assert np.isnan(mined["train"][2]["positive_score"])
    left = [passage for passage in PASSAGES if "no 77" not in passage]
    kept = [number for number in range(len(ROWS)) if number != 2]
    expected = oracle.mine([*ROWS[:2], *ROWS[3:]], left, score_by(HashTeacher()), ("topk", None), 4)
    oracle.assert_same(mined["train"].select(kept), expected)


def test_what_cannot_work_is_refused_before_anything_is_encoded(cluster, tmp_path):
    log = tmp_path / "log"
    with pytest.raises(ClusterError, match=r"Expected 2 GPUs for 2 workers, the cluster has 0; lower"):
        mine_there(tmp_path, HashTeacher(log=log), gpus_per_worker=1)
    with pytest.raises(ClusterError, match=r"Expected an object store of .* MB on every node, .*has 84 MB"):
        mine_there(tmp_path, HashTeacher(log=log, dimension=100_000))
    empty = Dataset.from_dict({"anchor": ["a", ""], "positive": ["b", "c"]})
    with pytest.raises(TextError, match=r"\.parquet, counted from row 0: .*1 rows \(1\)"):
        mine_there(tmp_path, HashTeacher(log=log), pairs=empty, workers=1)
    PAIRS.to_parquet(tmp_path / "1.parquet")
    PAIRS.rename_column("title", "name").to_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataSourceError, match=r"Could not read .*2\.parquet.*column names don't match"):
        mine_there(tmp_path, HashTeacher(log=log), pairs=str(tmp_path / "*.parquet"), workers=1, overwrite=True)
    for pairs, message in {
        str(tmp_path / "none-*.parquet"): r"got none: nothing is at .*none-\*\.parquet",
        "nowhere://bucket/pairs": r"for those of a folder, 'nowhere://bucket/pairs/\*\.parquet'",
        "nowhere://bucket/pairs.parquet": r"that fsspec opens here, got 'nowhere://.*install what it needs",
    }.items():
        with pytest.raises((ArgumentError, DataSourceError), match=message):
            mine_there(tmp_path / "none", HashTeacher(log=log), pairs=pairs)
    with pytest.raises(ArgumentError, match="config_name has no effect on the files"):
        mine_there(tmp_path / "none", HashTeacher(log=log), pairs=str(tmp_path / "1.parquet"), config_name="small")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mined").mkdir()
    (tmp_path / "other" / "mined" / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="holds something else"):
        mine_there(tmp_path / "other", HashTeacher(log=log))
    assert not log.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::DeprecationWarning:hn_datasets")
def test_a_ray_dataset_and_an_index_of_lists(cluster, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    import ray.data

    monkeypatch.setattr("hn_datasets.approximate.AUTO_PASSAGES", 50)
    monkeypatch.setattr("hn_datasets.approximate.AUTO_LIST", 10)
    rows = ray.data.from_items(PAIRS.to_list(), override_num_blocks=3)
    choices = {"index": "auto", "method": TopK()}
    mined, record = mine_there(tmp_path, HashTeacher(), pairs=rows, workers=1, slices=2, **choices)
    assert mined["train"]["anchor"][:] == PAIRS["anchor"][:]
    score, expected = score_by(HashTeacher()), oracle.mine(ROWS, PASSAGES, score_by(HashTeacher()), ("topk", None), 4)
    hits = 0
    for row, want in zip(mined["train"], expected, strict=True):
        assert row["negative_scores"] == [score(row["anchor"], text) for text in row["negatives"]]
        hits += len({*row["negatives"]} & {*want["negatives"]})
    assert hits > 0.95 * 4 * len(ROWS)
    assert (record.index_recall.found, record.index_recall.negatives) == (hits, 4 * len(ROWS))


def test_what_is_read_at_a_commit_of_the_hub_is_recorded_so():
    path = f"hf://datasets/owner/pairs@{'0123abcd' * 5}/data/train.parquet"
    assert commit_of([SourceFile("train", path, "parquet")]) == "0123abcd" * 5
    assert commit_of([SourceFile("train", "s3://owner/pairs@1/train.parquet", "parquet")]) is None
    assert describe_source("s3://me/pairs/*.parquet", None, None, None) == {"path": "pairs/*.parquet"}


def test_an_object_whose_writer_fails_is_not_there():
    with pytest.raises(ValueError, match="torn"), open_whole("memory://bucket/mined/shard") as file:
        file.write(b"half a shard")
        raise ValueError("torn")
    assert not exists("memory://bucket/mined/shard")


class Nodes:
    """A cluster that runs a task in this process, after something has happened to it; some of its nodes are lost."""

    exceptions = ray.exceptions

    def __init__(self, happen=lambda: None, lost=(False,)):
        self.happen = happen
        self.lost = iter(lost)
        self.count = len(lost)

    def nodes(self):
        return [
            {"Alive": True, "NodeID": "0" * 56, "NodeManagerAddress": f"10.0.0.{7 + number}"}
            for number in range(self.count)
        ]

    def remote(self, **_):
        return lambda function: type("Task", (), {"remote": lambda task: (self.happen(), function())[1]})()

    def get(self, answer):
        if next(self.lost):
            raise ray.exceptions.TaskUnschedulableError("The node doesn't exist any more")
        return answer


def test_a_node_that_ray_lists_but_has_lost_is_left_out(tmp_path):
    left = check_nodes(Nodes(lost=(False, True, False)), tmp_path)
    assert [node["NodeManagerAddress"] for node in left] == ["10.0.0.7", "10.0.0.9"]
    with pytest.raises(ClusterError, match="got no answer from 2; see `ray status`"):
        check_nodes(Nodes(lost=(True, True)), tmp_path)


def test_a_node_without_the_package_or_with_another_one_is_named(tmp_path, monkeypatch):
    assert len(check_nodes(Nodes(), tmp_path)) == 1
    with monkeypatch.context() as patch, pytest.raises(ClusterError, match=r"node 10\.0\.0\.7 has 0\.0\.1; install"):
        patch.setattr(hn_datasets, "__version__", "0.0.1")
        check_nodes(Nodes(), tmp_path)
    with monkeypatch.context() as patch, pytest.raises(ClusterError, match=r"node 10\.0\.0\.7 has none; install"):
        patch.setitem(sys.modules, "hn_datasets", None)
        check_nodes(Nodes(), tmp_path)


def test_storage_that_a_node_does_not_see_is_named(tmp_path):
    def hide():
        for path in tmp_path.glob(".seen-*"):
            path.unlink()

    with pytest.raises(ClusterError, match=r"see the store .*10\.0\.0\.7 does not; put it on storage"):
        check_nodes(Nodes(hide), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Could not write to"):
        check_nodes(Nodes(), tmp_path / "file")


def test_what_ray_says_of_a_missing_cluster_is_not_cut_within_a_word(monkeypatch):
    said = "Could not find any running Ray instance. Please specify the one to connect to by setting `--address` flag."

    def fail(**_):
        raise ConnectionError(said)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    with (
        pytest.raises(ClusterError, match=r"got no answer \(Could not find any running Ray instance\); start one"),
        connected("auto"),
    ):
        pass


def test_without_ray_or_a_cluster_the_command_says_what_to_do(tmp_path, monkeypatch):
    PAIRS.to_parquet(tmp_path / "pairs.parquet")
    command = [sys.executable, "-m", "hn_datasets.cli", "mine", tmp_path / "pairs.parquet", "--teacher", "bm25"]
    command += ["--engine", "ray", "--ray-address", "127.0.0.1:1", "--output", tmp_path / "mined"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Expected a Ray cluster at '127.0.0.1:1', got no answer")
    assert len(done.stderr.splitlines()) == 1
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(main, list(map(str, command[3:])))
    assert result.exit_code == 1
    assert 'pip install "hn-datasets[ray]"' in result.output
    result = CliRunner().invoke(main, ["mine", "x", "--teacher", "bm25", "--workers", "2", "--output", "y"])
    assert result.exit_code == 2
    assert "Option '--workers' needs '--engine ray'" in result.output
