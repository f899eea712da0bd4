"""The Ray engine on this machine: overhead against one process, memory of the driver, work as a function of slices.

Run: python tests/benchmarks/bench_ray.py [--passages 35687] [--anchors 11144] [--dimension 384] [--only overhead]
--large adds 1,000,000 passages x 100,000 anchors. Vectors are drawn from the texts, so nothing is downloaded; both
engines find them in the store. Passages gather around 2,000 topics, and an anchor is its passage with noise, so that
ceilings lie where those of real pairs lie. What a second machine brings cannot be measured here: ``cluster_model``
has an answer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]

import ray
from datasets import Dataset, load_dataset
from ray.cluster_utils import Cluster

from hn_datasets import HardNegativeMiner
from hn_datasets.ray_engine.engine import mine_on_ray
from hn_datasets.recipe import Recipe
from tests.benchmarks.measuring import Measurement, in_own_process, print_table, store_results, watch_memory
from tests.benchmarks.topic_teacher import TopicTeacher

DRIVER_PASSAGES = (10_000, 100_000, 1_000_000)
DRIVER_ANCHORS = 2_000
SLICES = (1, 2, 4, 8)
OBJECT_STORE_BYTES = 512 << 20


def make(num_passages: int, num_anchors: int, folder: Path) -> tuple[Dataset, str]:
    """Return pairs, whose positives are the first passages, and the file of the passages."""
    passages = [f"passage {number} of the corpus" for number in range(num_passages)]
    path = folder / f"passages-{num_passages}.parquet"
    Dataset.from_dict({"text": passages}).to_parquet(path)
    anchors = [f"question {number}" for number in range(num_anchors)]
    positives = [passages[number % num_passages] for number in range(num_anchors)]
    return Dataset.from_dict({"anchor": anchors, "positive": positives}), str(path)


def mine_here(pairs: Dataset, corpus: str, store: Path, dimension: int) -> tuple[dict[str, float], Dataset]:
    """Return the seconds of the stages on one machine, and the rows."""
    start = time.perf_counter()
    miner = HardNegativeMiner.from_dataset(pairs, teacher=TopicTeacher(dimension), corpus=corpus, store=store)
    built = time.perf_counter() - start
    start = time.perf_counter()
    mined = pairs.map(miner, batched=True, batch_size=None, load_from_cache_file=False)
    return {"build": built, "search": time.perf_counter() - start}, mined


def mine_there(
    pairs: Dataset, corpus: str, store: Path, dimension: int, output: Path, address: str, workers: int, slices: int
) -> dict[str, float]:
    """Return the seconds of the stages of the Ray engine."""
    teacher = TopicTeacher(dimension)
    record = mine_on_ray(
        pairs, Recipe(teacher.spec()), output, teacher=teacher, corpus=corpus, store=store, address=address,
        workers=workers, slices=slices, overwrite=True,
    )  # fmt: skip
    return record.timings


def compare(num_passages: int, num_anchors: int, dimension: int, address: str) -> dict[str, object]:
    """Mine by both engines with the vectors in the store; the rows have to be the same."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs, corpus = make(num_passages, num_anchors, folder)
        mine_here(pairs, corpus, folder / "store", dimension)
        shutil.rmtree(folder / "store" / "finished", ignore_errors=True)
        local, mined = mine_here(pairs, corpus, folder / "store", dimension)
        there = mine_there(pairs, corpus, folder / "store", dimension, folder / "mined", address, 1, 1)
        same = load_dataset(str(folder / "mined"), split="train")["negative_ids"][:] == mined["negative_ids"][:]
    ratio = sum(there.values()) / sum(local.values())
    rows = {"passages": num_passages, "anchors": num_anchors, "local": local, "ray": there}
    return {**rows, "ratio": ratio, "search_ratio": there["search"] / local["search"], "same": bool(same)}


def vary_slices(num_passages: int, num_anchors: int, dimension: int, address: str) -> list[dict[str, float]]:
    """Return the seconds of the search for several numbers of slices, with one worker."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs, corpus = make(num_passages, num_anchors, folder)
        for slices in SLICES:
            output = folder / f"mined-{slices}"
            timings = mine_there(pairs, corpus, folder / "store", dimension, output, address, 1, slices)
            found.append({"slices": slices, "index": timings["index"], "search": timings["search"]})
    return found


def driver_memory(num_passages: int, num_anchors: int, dimension: int, address: str, folder: str) -> dict[str, int]:
    """Return the anonymous memory of a driver: before, and at its peak."""
    pairs, corpus = Dataset.from_parquet(f"{folder}/pairs.parquet"), f"{folder}/passages-{num_passages}.parquet"
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    measurement = Measurement()
    with watch_memory(measurement):
        mine_there(
            pairs, corpus, Path(folder) / "store", dimension, Path(folder) / f"mined-{num_passages}", address, 1, 2
        )
    ray.shutdown()
    return {"passages": num_passages, "peak": measurement.memory_peak}


def drivers(sizes: tuple[int, ...], dimension: int, address: str) -> list[dict[str, int]]:
    """Measure one driver after the other, each in a process of its own."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            pairs, _ = make(size, DRIVER_ANCHORS, Path(folder))
            pairs.to_parquet(f"{folder}/pairs.parquet")
            found.append(in_own_process(driver_memory, size, DRIVER_ANCHORS, dimension, address, folder))
    return found


def main() -> None:
    """Measure, print tables, and write a JSON file beside this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=35_687)
    parser.add_argument("--anchors", type=int, default=11_144)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--most-driver-passages", type=int, default=DRIVER_PASSAGES[-1])
    parser.add_argument("--only", choices=["overhead", "slices", "driver"])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False},
    )
    results: dict[str, object] = {}
    try:
        if given.only in (None, "overhead"):
            sizes = [(given.passages, given.anchors), *([(1_000_000, 100_000)] if given.large else [])]
            runs = [compare(*size, given.dimension, cluster.address) for size in sizes]
            results["overhead"] = runs
            print_table(
                ["passages x anchors", "local s", "ray s", "ratio", "search ratio", "same rows"],
                [
                    [f"{run['passages']:,} x {run['anchors']:,}", float(sum(run["local"].values())),
                     float(sum(run["ray"].values())), run["ratio"], run["search_ratio"], str(run["same"])]
                    for run in runs
                ],
            )  # fmt: skip
        if given.only in (None, "slices"):
            results["slices"] = vary_slices(given.passages, given.anchors, given.dimension, cluster.address)
            print_table(["slices", "index s", "search s"], [list(run.values()) for run in results["slices"]])
        if given.only in (None, "driver"):
            sizes = tuple(size for size in DRIVER_PASSAGES if size <= given.most_driver_passages)
            results["driver"] = drivers(sizes, given.dimension, cluster.address)
            print_table(
                ["passages", "driver MiB"], [[one["passages"], one["peak"] / 2**20] for one in results["driver"]]
            )
    finally:
        ray.shutdown()
        cluster.shutdown()
    store_results(__file__, results)


if __name__ == "__main__":
    main()
