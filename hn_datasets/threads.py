"""Threads for compiled loops that release the interpreter lock.

Plain threads, because the thread pools of OpenMP and numba do not survive a fork, and ``map(num_proc=...)`` forks.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_IMPORTED_IN = os.getpid()
_limits = [1 << 16]
"""How many threads this process may have; the last entry counts."""


def is_forked() -> bool:
    """Return whether this process is a forked child of the one that imported the package."""
    return os.getpid() != _IMPORTED_IN


def num_threads() -> int:
    """Return the number of cores at hand, or 1 in a forked worker, whose siblings have the other cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if is_forked() else min(cores, _limits[-1])


def leave_parents_threads() -> None:
    """Let torch compute with one thread in a forked worker: it would wait for those of the parent for ever."""
    if is_forked() and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def limit_threads(count: int) -> None:
    """Let this process use at most so many cores, because others on this machine use the rest."""
    _limits.append(count)
    torch.set_num_threads(count)


def over_rows(function: Callable[[int, int], None], num_rows: int) -> None:
    """Call ``function(begin, end)`` on one range of rows per thread, and wait for all of them."""
    threads = min(num_threads(), num_rows)
    if threads <= 1:
        function(0, num_rows)
        return
    bounds = [num_rows * part // threads for part in range(threads + 1)]
    for done in [_executor(os.getpid()).submit(function, begin, end) for begin, end in itertools.pairwise(bounds)]:
        done.result()


def over_items(function: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """Return ``function(item)`` for every item, in their order; each thread takes one item after the other.

    They are taken while others are still being made. With fewer than two for each thread they are taken in turn, and
    the work on one may use all cores.
    """
    threads, others = num_threads(), iter(items)
    first = list(itertools.islice(others, 2 * threads))
    if threads <= 1 or len(first) < 2 * threads:
        return [function(item) for item in itertools.chain(first, others)]
    answers = []
    try:
        for item in itertools.chain(first, others):
            answers.append(_executor(os.getpid()).submit(function, item))  # noqa: PERF401 - what is there, if one fails
        return [answer.result() for answer in answers]
    finally:
        for answer in answers:  # where an item could not be made, or somebody has pressed Ctrl-C
            answer.cancel()


@lru_cache(maxsize=1)
def _executor(process: int) -> ThreadPoolExecutor:
    """Return the threads of this process; those of the parent are not there after a fork.

    Each computes matrix products alone: the threads of OpenMP keep the cores busy for milliseconds after a product.
    """
    threads = num_threads()
    own = torch.get_num_threads()  # before another thread sets a number, which this one would take for its own
    started = threading.Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()  # which a thread's first operation asks, and takes for its own, whatever was set before
        torch.set_num_threads(1)
        started.wait()

    executor = ThreadPoolExecutor(threads, thread_name_prefix=f"hn-datasets-{process}", initializer=start)
    for _ in range(threads):
        executor.submit(int)
    started.wait()
    torch.set_num_threads(own)  # threads that others start later take the last number set anywhere
    return executor
