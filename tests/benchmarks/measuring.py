"""What all benchmarks share: median seconds, peak anonymous memory, a table, and a JSON file beside the script.

Memory is the anonymous resident memory (``RssAnon``) of a process and all its descendants, read every few milliseconds
by a thread: memory-mapped files, which the system can drop at any time, do not count. Linux only.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from hn_datasets.record import describe_environment

POLL_SECONDS = 0.01


@dataclass
class Measurement:
    """Several runs of one piece of work.

    Attributes:
        runs: seconds of each run.
        memory_before: anonymous bytes before the first run.
        memory_peak: the most anonymous bytes in any run.
        value: what the last run returned.
    """

    runs: list[float] = field(default_factory=list)
    memory_before: int = 0
    memory_peak: int = 0
    value: Any = None

    @property
    def seconds(self) -> float:
        """Median seconds of a run."""
        return statistics.median(self.runs)

    @property
    def memory_added(self) -> int:
        """Bytes of the peak above what was there before."""
        return max(0, self.memory_peak - self.memory_before)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for the JSON file, seconds with three digits after the point."""
        return {
            "seconds": round(self.seconds, 3),
            "runs": [round(seconds, 3) for seconds in self.runs],
            "memory_before": self.memory_before,
            "memory_peak": self.memory_peak,
        }


def anonymous_bytes(pid: int) -> int:
    """Return the anonymous resident memory of a process and all its descendants, in bytes.

    The system knows the children of each thread: looking for them among all processes took a tenth of a core.
    """
    total = 0
    with contextlib.suppress(OSError):  # it ended meanwhile
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) * 1024
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children = (thread / "children").read_text(encoding="ascii")
                total += sum(anonymous_bytes(int(child)) for child in children.split())
    return total


@contextlib.contextmanager
def watch_memory(measurement: Measurement, pid: int | None = None) -> Iterator[None]:
    """Keep ``memory_peak`` up to date while the block runs, for ``pid`` (this process if None)."""
    pid = pid if pid is not None else psutil.Process().pid
    done = threading.Event()

    def poll() -> None:
        while not done.wait(POLL_SECONDS):
            measurement.memory_peak = max(measurement.memory_peak, anonymous_bytes(pid))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def measure(
    work: Callable[[], Any],
    runs: int = 3,
    prepare: Callable[[], Any] | None = None,
    most_seconds: float = 180,
) -> Measurement:
    """Run work in this process.

    Args:
        work: what is timed.
        runs: how often.
        prepare: called before every run, not timed.
        most_seconds: no further run is begun that is likely to end later than this.
    """
    measurement = Measurement()
    for number in range(runs):
        if number and sum(measurement.runs) * (number + 1) / number > most_seconds:
            break
        if prepare is not None:
            prepare()
        if number == 0:
            measurement.memory_before = anonymous_bytes(psutil.Process().pid)
        with watch_memory(measurement):
            start = time.perf_counter()
            measurement.value = work()
            measurement.runs.append(time.perf_counter() - start)
    return measurement


def measure_command(
    command: Sequence[str],
    runs: int = 3,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[], Any] | None = None,
) -> Measurement:
    """Run a command, from its start to its end; its output is thrown away, a failure raises ``CalledProcessError``."""
    measurement = Measurement()
    for _ in range(runs):
        if prepare is not None:
            prepare()
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        with watch_memory(measurement, process.pid):
            code = process.wait()
        measurement.runs.append(time.perf_counter() - start)
        if code:
            raise subprocess.CalledProcessError(code, command)
    return measurement


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module in a new Python, so that neither memory nor caches of another peer are in the way."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: the first column to the left, numbers to the right, floats with three digits that count."""
    texts = [list(headers)] + [
        [f"{value:,.3g}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}" if isinstance(value, float)
         else f"{value:,}" if isinstance(value, int) else str(value) for value in row]
        for row in rows
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for line in texts:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells), flush=True)


def store_results(script: str | Path, results: Mapping[str, Any]) -> Path:
    """Write results with hardware and versions to the script's path with ``.json``; return that path."""
    path = Path(script).with_suffix(".json")
    path.write_text(json.dumps({**results, "environment": describe_environment()}, indent=2) + "\n", encoding="utf-8")
    return path
