"""What ``SimilarToPositive`` costs: mining from ready vectors with the guard and without.

    python tests/benchmarks/bench_guards.py [DATA_FOLDER ...] [--size 100000] [--runs 3] [--store FOLDER]

A folder holds ``corpus.jsonl``, ``queries.jsonl`` (``_id``, ``text``) and ``qrels.tsv``; its texts are encoded by the
packaged multilingual Universal Sentence Encoder, whose vectors are kept in the store. After the folders come ``size``
anchors and passages of the seeded vectors of ``bench_search.py``. Timed is ``dataset.map(miner, batched=True)`` with 4
negatives, the miner built before: TopK-PercPos 95 % alone, and TopK-PercPos 100 % with the guard, in turns; medians.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench_mine import read_pairs
from bench_search import DIMENSION, make_vectors
from datasets import Dataset, disable_progress_bars
from measuring import Measurement, in_own_process, measure, print_table, store_results

from hn_datasets import HardNegativeMiner, PrecomputedTeacher, SimilarToPositive, TopKPercPos

VARIANTS: dict[str, dict[str, Any]] = {
    "alone": {"method": TopKPercPos(0.95)},
    "guarded": {"method": TopKPercPos(1.0), "guards": (SimilarToPositive(),)},
}


def compare(pairs: Dataset, teacher: Any, store: Path, runs: int, **arguments: Any) -> dict[str, Any]:
    """Mine by both variants in turns; return their figures."""
    miners = {
        name: HardNegativeMiner.from_dataset(pairs, teacher=teacher, store=store, **arguments, **choices)
        for name, choices in VARIANTS.items()
    }
    measured = {name: Measurement() for name in VARIANTS}
    removed, short = 0, 0
    for turn in range(runs + 1):
        for name, miner in miners.items():
            result = measure(
                lambda miner=miner: pairs.map(miner.mine_anew, batched=True, load_from_cache_file=False), 1
            )
            if turn:  # the first compiles
                measured[name].runs += result.runs
            measured[name].memory_before = measured[name].memory_before or result.memory_before
            measured[name].memory_peak = max(measured[name].memory_peak, result.memory_peak)
            if name == "guarded":
                removed = sum(row[0] for row in result.value["guard_removals"])
                short = sum(len(ids) < 4 for ids in result.value["negative_ids"])
    ratio = measured["guarded"].seconds / measured["alone"].seconds
    figures = {"rows": len(pairs), "passages": len(miners["alone"].corpus), "ratio": round(ratio, 3)}
    return figures | {"removed": removed, "short": short} | {name: one.to_dict() for name, one in measured.items()}


def on_folder(folder: Path, store: Path, runs: int) -> dict[str, Any]:
    """Compare on real texts; passages that answer nothing are in the corpus too."""
    from sentence_transformers import SentenceTransformer
    from use_module import UseModule

    prepare()
    teacher = SentenceTransformer(modules=[UseModule()], device="cpu")
    corpus = Dataset.from_json(str(folder / "corpus.jsonl"), cache_dir=str(store / "datasets"))
    return compare(read_pairs(folder, 0), teacher, store, runs, corpus=corpus, corpus_column_name="text")


def on_vectors(size: int, runs: int) -> dict[str, Any]:
    """Compare on seeded vectors."""
    prepare()
    anchors, passages = make_vectors(size, DIMENSION)
    numbers = range(size)
    texts = [f"anchor {number}" for number in numbers], [f"passage {number}" for number in numbers]
    pairs = Dataset.from_dict({"anchor": texts[0], "positive": texts[1]})
    with tempfile.TemporaryDirectory() as store:
        return compare(pairs, PrecomputedTeacher((texts[0], anchors), (texts[1], passages)), Path(store), runs)


def prepare() -> None:
    """Be quiet."""
    disable_progress_bars()
    warnings.simplefilter("ignore")


def main() -> None:
    """Print the table and store it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--store", type=Path, help="where vectors are kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        store = options.store or Path(place)
        results = {folder.name: in_own_process(on_folder, folder, store, options.runs) for folder in options.folders}
    results[f"seeded vectors, {DIMENSION}"] = in_own_process(on_vectors, options.size, options.runs)
    print_table(
        ["", "rows", "passages", "alone", "guarded", "ratio", "removed", "short"],
        [[name, one["rows"], one["passages"], one["alone"]["seconds"], one["guarded"]["seconds"], one["ratio"],
          one["removed"], one["short"]] for name, one in results.items()],
    )  # fmt: skip
    store_results(Path(__file__), results)


if __name__ == "__main__":
    main()
