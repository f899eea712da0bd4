"""``map`` itself: its cache across processes, workers forked from a parent with torch, the version of a result."""

import json
import subprocess
import sys

import pytest
from datasets import Dataset

from hn_datasets import BM25Teacher, DenseTeacher, HardNegativeMiner, TopKPercPos
from hn_datasets.recipe import ALGORITHM_VERSION
from hn_datasets.texts import digest_of
from tests.oracle import canonical

TOPICS = ["card", "loan", "fund", "bond", "tax", "rate", "bank", "fee"]
PAIRS = [
    {"query": f"What is the {topic} {kind}?", "answer": f"The {topic} {kind} is set by the {topic} office each {unit}."}
    for topic in TOPICS
    for kind, unit in (("limit", "day"), ("price", "week"), ("rule", "month"), ("plan", "year"))
]

CACHE_SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
from datasets import load_dataset
import hn_datasets.miner as module
from hn_datasets import BM25Teacher, HardNegativeMiner, TopKPercPos
source, store, percentage, extra, k1, version = sys.argv[1:]
if version != "-":
    module.ALGORITHM_VERSION = int(version)
    class Loud(Exception): pass
dataset = load_dataset("parquet", data_files=source, split="train")
miner = HardNegativeMiner.from_dataset(
    dataset, teacher=BM25Teacher(k1=float(k1)), method=TopKPercPos(float(percentage)), store=store,
    corpus=[extra] if extra != "-" else None,
)
calls = []
call = module.HardNegativeMiner.__call__
def counted(self, batch):
    calls.append(len(batch["query"]))
    return call(self, batch)
module.HardNegativeMiner.__call__ = counted
mined = dataset.map(miner, batched=True)
print(json.dumps({"calls": len(calls), "ids": mined["negative_ids"][:]}))
"""


def run_map(source, store, *, percentage=0.95, extra="-", k1=1.5, version="-"):
    """Mine in a new process and return how often the miner was called, and the ids."""
    arguments = [str(part) for part in (source, store, percentage, extra, k1, version)]
    done = subprocess.run([sys.executable, "-c", CACHE_SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_new_process_takes_the_same_map_from_the_cache_and_a_changed_one_not(tmp_path):
    source = tmp_path / "pairs.parquet"
    Dataset.from_list(PAIRS).to_parquet(str(source))
    first = run_map(source, tmp_path / "store")
    assert first["calls"] == 1
    again = run_map(source, tmp_path / "store")
    assert again == {"calls": 0, "ids": first["ids"]}
    for changed in ({"percentage": 0.5}, {"extra": "another passage"}, {"k1": 1.2}, {"version": ALGORITHM_VERSION + 1}):
        assert run_map(source, tmp_path / "store", **changed)["calls"] == 1, changed


@pytest.fixture(scope="module")
def dense_miner(minilm_path, tmp_path_factory):
    dataset = Dataset.from_list(PAIRS)
    teacher = DenseTeacher(minilm_path, precision="float32", device="cpu")
    return dataset, HardNegativeMiner.from_dataset(dataset, teacher=teacher, store=tmp_path_factory.mktemp("store"))


def test_forked_workers_of_a_parent_with_torch_do_not_hang(dense_miner):
    dataset, miner = dense_miner
    reference = dataset.map(miner, batched=True)  # torch and its threads have run in this process
    forked = dataset.map(miner, batched=True, num_proc=2, batch_size=5)
    assert forked["negative_ids"][:] == reference["negative_ids"][:]
    assert forked["negative_scores"][:] == reference["negative_scores"][:]


def test_workers_encode_what_the_miner_has_not_seen(dense_miner):
    _, miner = dense_miner
    unseen = Dataset.from_list([{**row, "query": row["query"] + " Tell me."} for row in PAIRS])
    reference = unseen.map(miner, batched=True)
    forked = unseen.map(miner, batched=True, num_proc=2, load_from_cache_file=False)
    assert forked["negative_ids"][:] == reference["negative_ids"][:]


@pytest.mark.filterwarnings("ignore::hn_datasets.errors.WeakTeacherWarning")
def test_results_have_not_changed_without_a_new_algorithm_version(tmp_path):
    """If this fails on purpose, raise ``ALGORITHM_VERSION`` and write the new digest down."""
    dataset = Dataset.from_list(PAIRS)
    miner = HardNegativeMiner.from_dataset(
        dataset, teacher=BM25Teacher(), method=TopKPercPos(0.9), sampling="softmax", pool=10, seed=3, store=tmp_path
    )
    mined = dataset.map(miner, batched=True)
    assert [miner.corpus[number] for number in range(len(miner.corpus))] == canonical(row["answer"] for row in PAIRS)
    rounded = [[round(score, 3) for score in row] for row in mined["negative_scores"]]
    golden = {1: "231620e3db0f8be0c4ed1cdd8e173757"}
    assert digest_of(json.dumps([mined["negative_ids"][:], rounded])) == golden[ALGORITHM_VERSION]
