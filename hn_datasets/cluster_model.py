"""What mining on a cluster will take: a model of work, memory and disk for each stage, from sizes and rates.

It is arithmetic on given numbers and knows no cluster. It leaves out: starting the workers, waiting for a lost node,
unequal lengths of texts between ranges, networks that are shared with others, and how rates fall when a processor gets
hot. Stages follow one another, as in the engine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

BLOCK_ROWS = 2048
"""Anchors that travel to the pieces together."""

INDEX_BYTES = 24
"""Bytes of memory for each text of a range while it is encoded: its digest, and where its vector is."""

TABLE_BYTES = 64
"""Bytes on disk beside each text: three digests, an order, an offset."""

MINED_BYTES = 60
"""Bytes of the numeric columns of a mined row."""


@dataclass(frozen=True)
class Sizes:
    """What is mined.

    Attributes:
        passages: distinct passages.
        anchors: rows.
        dimension: components of a vector.
        text_bytes: of a passage, on average, in UTF-8.
        num_negatives: of a row.
        searched_share: part of the passages that an anchor is compared with: 1 for exact search.
    """

    passages: int
    anchors: int
    dimension: int
    text_bytes: float = 500.0
    num_negatives: int = 4
    searched_share: float = 1.0


@dataclass(frozen=True)
class Rates:
    """What one worker does in a second, and the storage for all of them.

    Attributes:
        encoded_texts: by the teacher; 0 for one without vectors.
        read_texts: read, digested, normalised and written again.
        products: of two components, in the search.
        call_seconds: what one search of one piece costs beside its products.
        storage_bytes: read or written by all workers together.
    """

    encoded_texts: float
    products: float
    read_texts: float = 20_000.0
    call_seconds: float = 0.01
    storage_bytes: float = 1e9


@dataclass(frozen=True)
class ClusterStage:
    """One stage.

    Attributes:
        name: as in the timings of ``mining.json``.
        work: what there is to do, in words.
        hours: expected.
        bound: what the hours come from.
        memory_bytes: of a worker, beside the teacher's weights; mapped files do not count.
        disk_bytes: that stay on the shared storage.
    """

    name: str
    work: str
    hours: float
    bound: str
    memory_bytes: float
    disk_bytes: float


@dataclass(frozen=True)
class ClusterPlan:
    """All stages.

    Attributes:
        stages: in their order.
        workers: how many.
        slices: pieces of the corpus.
        piece_bytes: vectors of one piece as float32, which a GPU has to hold to be fast.
    """

    stages: tuple[ClusterStage, ...]
    workers: int
    slices: int
    piece_bytes: float

    @property
    def hours(self) -> float:
        """Of all stages."""
        return sum(stage.hours for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    def __str__(self) -> str:
        return self.to_table()

    def to_table(self) -> str:
        """Return a line for each stage, and the sums."""
        lines = [f"{'Stage':<8}{'Hours':>10}{'Memory':>10}{'Disk':>10}  {'Bound by':<10}  Work"]
        lines += [
            f"{stage.name:<8}{stage.hours:>10,.2f}{_size(stage.memory_bytes):>10}{_size(stage.disk_bytes):>10}  "
            f"{stage.bound:<10}  {stage.work}"
            for stage in self.stages
        ]
        disk = sum(stage.disk_bytes for stage in self.stages)
        lines.append(f"{'all':<8}{self.hours:>10,.2f}{'':>10}{_size(disk):>10}")
        lines.append(
            f"{self.workers:,} workers, {self.slices:,} pieces with {_size(self.piece_bytes)} of vectors each. Memory "
            "is that of a worker beside the teacher; left out: starting, lost nodes, unequal texts, shared networks."
        )
        return "\n".join(lines)


def plan_cluster(sizes: Sizes, rates: Rates, workers: int, slices: int | None = None) -> ClusterPlan:
    """Return what mining will take.

    Args:
        sizes: what is mined.
        rates: of one worker, measured or assumed.
        workers: how many.
        slices: pieces of the corpus; as many as workers if None.
    """
    pieces = slices or workers
    stages = (
        _read(sizes, rates, workers),
        _collect(sizes, rates, workers, pieces),
        _encode(sizes, rates, workers, pieces),
        _index(sizes, rates),
        _search(sizes, rates, workers, pieces),
    )
    return ClusterPlan(stages, workers, pieces, 4 * sizes.passages * sizes.dimension / pieces)


def _read(sizes: Sizes, rates: Rates, workers: int) -> ClusterStage:
    texts, size = sizes.passages + sizes.anchors, sizes.text_bytes
    disk = texts * (size + 16) + sizes.anchors * size
    seconds = {"reading": texts / (rates.read_texts * workers), "storage": 2 * disk / rates.storage_bytes}
    return _stage("read", f"{texts:,} texts", seconds, 65_536 * 3 * size, disk)


def _collect(sizes: Sizes, rates: Rates, workers: int, pieces: int) -> ClusterStage:
    texts, size = sizes.passages + sizes.anchors, sizes.text_bytes
    disk = texts * (size + TABLE_BYTES)
    seconds = {"reading": texts / (rates.read_texts * workers), "storage": 2 * disk / rates.storage_bytes}
    memory = sizes.passages / pieces * (TABLE_BYTES + 16)
    return _stage("collect", f"{sizes.passages:,} distinct passages", seconds, memory, disk)


def _encode(sizes: Sizes, rates: Rates, workers: int, pieces: int) -> ClusterStage:
    texts = (sizes.passages + sizes.anchors) if rates.encoded_texts else 0
    disk = texts * (4 * sizes.dimension + 16)
    teacher = texts / (rates.encoded_texts * workers) if texts else 0.0
    seconds = {"teacher": teacher, "storage": disk / rates.storage_bytes}
    return _stage("encode", f"{texts:,} texts", seconds, sizes.passages / pieces * INDEX_BYTES, disk)


def _index(sizes: Sizes, rates: Rates) -> ClusterStage:
    read = 4 * (sizes.passages + sizes.anchors) * sizes.dimension
    written = read + sizes.passages * sizes.dimension
    seconds = {"storage": (read + written) / rates.storage_bytes}
    return _stage("index", "vectors of each piece in one file, and as 8-bit integers", seconds, 3e8, written)


def _search(sizes: Sizes, rates: Rates, workers: int, pieces: int) -> ClusterStage:
    products = sizes.anchors * sizes.passages * sizes.searched_share * sizes.dimension
    calls = -(-sizes.anchors // BLOCK_ROWS) * pieces
    seconds = {"products": products / (rates.products * workers), "calls": calls * rates.call_seconds / workers}
    block = 4 * BLOCK_ROWS * sizes.dimension
    disk = sizes.anchors * (sizes.text_bytes * (2 + sizes.num_negatives) + MINED_BYTES)
    work = f"{sizes.anchors:,} anchors x {sizes.passages:,} passages"
    if sizes.searched_share < 1:
        work += f", {sizes.searched_share:.2%} of them read"
    return _stage("search", work, seconds, 2.5e8 + 4 * block, disk)


def _stage(name: str, work: str, seconds: dict[str, float], memory: float, disk: float) -> ClusterStage:
    """Return a stage that lasts as long as the slowest of what it does at the same time."""
    bound = max(seconds, key=lambda cause: seconds[cause])
    return ClusterStage(name, work, seconds[bound] / 3600, bound, memory, disk)


def _size(num_bytes: float) -> str:
    unit, divisor = next(((u, d) for u, d in (("TB", 1e12), ("GB", 1e9)) if num_bytes >= d), ("MB", 1e6))
    return f"{num_bytes / divisor:,.1f} {unit}"
