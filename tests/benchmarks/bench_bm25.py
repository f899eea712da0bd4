"""BM25 alone: mining with ceilings, beside bm25s, which has none, over the same tokens.

``python tests/benchmarks/bench_bm25.py [--size 31250] [--runs 3]`` draws seeded texts of 60 words from a Zipf
distribution of 50,000, ``size`` anchors and passages; an anchor is 60 words, half of them of its passage.

- ours: ``dataset.map(miner, batched=True)`` with BM25, TopK-PercPos 95 %, 4 negatives, the index built before;
- bm25s: ``retrieve(k=10)`` with numba and both cores, the best 10 without any ceiling, the index built before;
- both indexes, with tokenising.

Each in a process of its own; seconds are medians, memory is the peak of anonymous memory above that before the run.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from measuring import in_own_process, measure, print_table, store_results

NUM_WORDS, LENGTH, NUM_NEGATIVES, K = 50_000, 60, 4, 10


def draw_texts(size: int) -> tuple[list[str], list[str]]:
    """Return anchors and passages."""
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(1, NUM_WORDS + 1)
    words = np.array([f"w{number}" for number in range(NUM_WORDS)])
    passages = rng.choice(NUM_WORDS, (size, LENGTH), p=chances / chances.sum())
    anchors = rng.choice(NUM_WORDS, (size, LENGTH), p=chances / chances.sum())
    anchors[:, ::2] = passages[:, ::2]
    return tuple([" ".join(words[row]) for row in part] for part in (anchors, passages))  # type: ignore[return-value]


def mine_ours(size: int, runs: int) -> dict[str, Any]:
    """Mine with this package."""
    from datasets import Dataset, disable_progress_bars

    from hn_datasets import BM25Teacher, HardNegativeMiner

    disable_progress_bars()
    warnings.simplefilter("ignore")
    anchors, passages = draw_texts(size)
    pairs = Dataset.from_dict({"anchor": anchors, "positive": passages})
    with tempfile.TemporaryDirectory() as store:

        def build() -> HardNegativeMiner:
            teacher = BM25Teacher(tokenizer=str.split)
            return HardNegativeMiner.from_dataset(pairs, teacher=teacher, num_negatives=NUM_NEGATIVES, store=store)

        building = measure(build, 1)
        miner = building.value
        miner(pairs[:8])  # compiles
        mining = measure(lambda: pairs.map(miner, batched=True, load_from_cache_file=False), runs)
    short = sum(len(row) < NUM_NEGATIVES for row in mining.value["negative_ids"])
    return mining.to_dict() | {"index": building.to_dict(), "short": short}


def retrieve_theirs(size: int, runs: int) -> dict[str, Any]:
    """Retrieve with bm25s."""
    import bm25s

    anchors, passages = draw_texts(size)

    def build() -> Any:
        retriever = bm25s.BM25(method="atire", backend="numba")
        retriever.index([text.split() for text in passages], show_progress=False)
        return retriever

    building = measure(build, 1)
    tokens = [text.split() for text in anchors]
    retrieve = lambda rows: building.value.retrieve(rows, k=K, n_threads=2, show_progress=False)  # noqa: E731
    retrieve(tokens[:8])
    return measure(lambda: retrieve(tokens), runs).to_dict() | {"index": building.to_dict()}


def main() -> None:
    """Print the table and store it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=31_250)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    results = {
        "ours": in_own_process(mine_ours, options.size, options.runs),
        "bm25s": in_own_process(retrieve_theirs, options.size, options.runs),
    }
    print(f"BM25, {options.size:,} x {options.size:,}, {LENGTH} words each, medians")
    rows = []
    for name, result in results.items():
        added = (result["memory_peak"] - result["memory_before"]) / 2**20
        rate = options.size / result["seconds"]
        rows.append([name, result["seconds"], rate, added, result["index"]["seconds"], result.get("short", "")])
    print_table(["", "seconds", "anchors/s", "MiB added", "index seconds", "short rows"], rows)
    ratio = results["bm25s"]["seconds"] / results["ours"]["seconds"]
    print(f"ours is {ratio:.2f} times as fast as bm25s")
    store_results(Path(__file__), {"size": options.size, "times_as_fast": round(ratio, 2), **results})


if __name__ == "__main__":
    main()
