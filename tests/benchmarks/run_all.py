"""All speed benchmarks one after the other, and a table of what they are held to.

    python tests/benchmarks/run_all.py [DATA_FOLDER] [--store FOLDER] [--texts N] [--only NAME ...] [--table]

DATA_FOLDER holds retrieval sets, each a folder of ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv``. Without it the
benchmarks that can do without real texts run on docstrings and seeded vectors, and the others are left out. All of them
take likely well over an hour on two cores; what they measure is in a JSON file beside each. ``--table`` prints the
table of the JSON files that are there, and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from measuring import print_table

HERE = Path(__file__).parent
LONG_TEXTS, QUESTIONS, GUARDED = "scifact-title", "korquad1-dev", "jaquad"

Figures = dict[str, Any]


class Line(NamedTuple):
    """One line of the table.

    Attributes:
        benchmark: the name of the file.
        work: what is done.
        against: what it is compared with.
        asked: the figure to reach.
        figure: takes the measured one from the JSON file; a ``KeyError`` if it has not been measured.
        at_most: whether less is better.
    """

    benchmark: str
    work: str
    against: str
    asked: float
    figure: Callable[[Figures], float]
    at_most: bool = False


def seconds(figures: Figures) -> float:
    """Return the median seconds of one measurement."""
    return float(figures["seconds"])


def added(figures: Figures) -> int:
    """Return the bytes that one measurement took at its peak."""
    return int(figures["memory_peak"] - figures["memory_before"])


LINES = [
    *(
        Line("bench_mine", f"{name}, end to end", "sentence-transformers, times as fast", 4,
             lambda all, name=name: all[name]["times_as_fast"])
        for name in (LONG_TEXTS, QUESTIONS)
    ),
    *(
        Line("bench_mine", f"{name}, again with another margin", "first run, times as fast", 30,
             lambda all, name=name: all[name]["first_run_to_another_margin"])
        for name in (LONG_TEXTS, QUESTIONS)
    ),
    *(
        Line("bench_mine", f"{name}, 1 % new rows", "first run's encoding, share", 0.05,
             lambda all, name=name: all[name]["new_rows_share_of_encoding"], at_most=True)
        for name in (LONG_TEXTS, QUESTIONS)
    ),
    Line("bench_search", "100,000 x 100,000 x 384", "sentence-transformers, FAISS, times as fast", 5,
         lambda all: seconds(all["sentence_transformers"]) / seconds(all["ours"])),
    Line("bench_search", "100,000 x 100,000 x 384, memory", "the same, share", 0.25,
         lambda all: added(all["ours"]) / added(all["sentence_transformers"]), at_most=True),
    Line("bench_search", "100,000 x 100,000 x 384", "bfloat16 product alone, share of its rate", 0.5,
         lambda all: seconds(all["products"]["bfloat16"]) / seconds(all["ours"])),
    Line("bench_search", "100,000 x 100,000 x 384", "rows short", 0, lambda all: all["ours"]["short"], at_most=True),
    Line("bench_search", "31,250 x 31,250 x 1,024", "seconds", 20, lambda all: seconds(all["korean"]), at_most=True),
    Line("bench_approximate", "approximate search", "exact search, times as fast", 5, lambda all: all["ratio"]),
    Line("bench_approximate", "approximate search", "recall of its negatives", 0.98, lambda all: all["recall"]),
    Line("bench_bm25", "BM25, 31,250 x 31,250", "bm25s, times as fast", 0.5, lambda all: all["times_as_fast"]),
    Line("bench_memory", "1,000,000 passages, 100,000 anchors", "GiB of anonymous memory", 2,
         lambda all: all["memory_peak"] / 2**30, at_most=True),
    *(
        Line("bench_guards", f"SimilarToPositive, {name}", "without it, times as long", 1.5,
             lambda all, name=name: all[name]["ratio"], at_most=True)
        for name in (GUARDED, "seeded vectors, 384")
    ),
    Line("bench_survey", "survey, 35,687 x 11,144", "seconds", 120, lambda all: seconds(all["first"]), at_most=True),
]  # fmt: skip


def commands(data: Path | None, store: Path, texts: int) -> dict[str, list[str] | None]:
    """Return the arguments of every benchmark, None where it needs data."""
    sets = sorted(str(folder) for folder in data.iterdir() if (folder / "qrels.tsv").exists()) if data else []

    def only(*names: str) -> list[str]:
        return [folder for folder in sets if Path(folder).name in names]

    return {
        "bench_search": [],
        "bench_mine": [*only(LONG_TEXTS, QUESTIONS), "--pairs", "0"],
        "bench_guards": [*only(GUARDED), "--store", str(store / "guards")],
        "bench_bm25": [],
        "bench_memory": [],
        "bench_survey": [],
        "bench_approximate": [*sets, "--store", str(store / "approximate"), "--size", str(texts)] if sets else None,
        "bench_release": [],
        "bench_ray": ["--large"],
    }


def print_lines() -> None:
    """Print what is asked for and what the JSON files say."""
    rows = []
    for line in LINES:
        path = HERE / f"{line.benchmark}.json"
        try:
            figure = float(line.figure(json.loads(path.read_text(encoding="utf-8"))))
        except (FileNotFoundError, KeyError):
            rows.append([line.work, line.against, "", "not measured", ""])
            continue
        reached = figure <= line.asked if line.at_most else figure >= line.asked
        asked = f"{'at most' if line.at_most else 'at least'} {line.asked:g}"
        rows.append([line.work, line.against, asked, figure, "yes" if reached else "no"])
    print_table(["work", "against", "asked", "measured", "reached"], rows)


def main() -> None:
    """Run the benchmarks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("--store", type=Path, help="where vectors are kept between runs; nowhere if left out")
    parser.add_argument("--texts", type=int, default=1_000_000, help="passages of approximate search, to be encoded")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="bench_search, for instance")
    parser.add_argument("--table", action="store_true", help="print the table of what has been measured")
    options = parser.parse_args()
    failed: list[str] = []
    if not options.table:
        with tempfile.TemporaryDirectory() as place:
            every = commands(options.data, options.store or Path(place), options.texts)
            unknown = sorted(set(options.only or ()) - set(every))
            if unknown:
                parser.error(f"expected some of {', '.join(every)}, got {', '.join(unknown)}")
            for name, arguments in every.items():
                if options.only and name not in options.only:
                    continue
                print(f"\n{name}" + (": left out, it needs a DATA_FOLDER" if arguments is None else ""), flush=True)
                if arguments is None:
                    continue
                if subprocess.run([sys.executable, str(HERE / f"{name}.py"), *arguments], check=False).returncode:
                    failed.append(name)
        print()
    print_lines()
    if failed:
        sys.exit(f"Failed, and in the table as measured before: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
