"""What a mining run will cost, from what is missing and a small sample, before it starts."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hn_datasets.approximate import AUTO_PASSAGES, LISTS_FACTOR, check_index, choose_index
from hn_datasets.columns import AnyDataset, CorpusLike, iter_pairs, iter_passages, resolve_columns
from hn_datasets.list_building import ListCosts, estimate_lists
from hn_datasets.miner import HardNegativeMiner
from hn_datasets.quantized import multiplies_int8
from hn_datasets.recipe import OnEmpty
from hn_datasets.store import EmbeddingStore
from hn_datasets.teachers.base import Encoder, Role, Teacher
from hn_datasets.teachers.ensemble import list_members
from hn_datasets.teachers.precomputed import PrecomputedTeacher
from hn_datasets.texts import Corpus, digest_texts

WRITTEN_BYTES = 5e8
"""Bytes a second that are gathered and written."""

ROTATED_PRODUCTS = 3e10
"""Products a second of the rotation in float64 before rounding, on two cores."""

SAMPLE_TEXTS = 64
SAMPLE_ANCHORS = 256
SAMPLE_PASSAGES = 4096


@dataclass(frozen=True)
class Stage:
    """One part of the work.

    Attributes:
        name: of the stage, as in the timings of ``mining.json``.
        work: what there is to do, in words.
        seconds: estimated; 0 where nothing is to be done.
        disk_bytes: what it adds to the store.
    """

    name: str
    work: str
    seconds: float
    disk_bytes: int


@dataclass(frozen=True)
class Plan:
    """All stages, and what would make them faster.

    Attributes:
        stages: in their order.
        memory_bytes: estimated peak of anonymous memory, beside the teacher's weights; vectors are memory-mapped.
        advice: sentences; none where nothing stands out.
    """

    stages: tuple[Stage, ...]
    memory_bytes: int
    advice: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    def __str__(self) -> str:
        return self.to_table()

    def to_table(self) -> str:
        """Return a line for each stage and the sum, then memory and advice."""
        lines = [f"{'Stage':<8}{'Estimated':>14}{'Disk':>12}  Work"]
        lines += [
            f"{stage.name:<8}{_duration(stage.seconds):>14}{_size(stage.disk_bytes):>12}  {stage.work}"
            for stage in self.stages
        ]
        seconds, disk = (sum(getattr(stage, name) for stage in self.stages) for name in ("seconds", "disk_bytes"))
        lines.append(f"{'all':<8}{_duration(seconds):>14}{_size(disk):>12}")
        lines.append(f"Memory beside the teacher's weights: about {_size(self.memory_bytes)}.")
        return "\n".join([*lines, *self.advice])


def plan_mining(
    dataset: AnyDataset,
    *,
    teacher: Teacher,
    corpus: CorpusLike | None = None,
    corpus_column_name: str | None = None,
    anchor_column_name: str | None = None,
    positive_column_name: str | None = None,
    on_empty: OnEmpty = "error",
    index: str | None = None,
    store: EmbeddingStore | None = None,
) -> Plan:
    """Estimate what ``HardNegativeMiner.from_dataset`` and ``map`` will take with the same arguments.

    Encoding is timed on 64 of the missing texts, spread over their lengths, and scaled by characters; the search on up
    to 256 anchors and 4,096 passages, of random vectors of the teacher's dimension or by BM25 on the real texts, and
    scaled by their product. Making inverted lists is estimated from their number, and the search through them from that
    of all passages, for how many lists are read depends on the vectors. Only the collected corpus is kept, which the
    run itself then finds.

    Args:
        dataset: what is to be mined.
        teacher: a ready one; it is loaded and asked for a few texts.
        corpus: further passages.
        corpus_column_name: the text column of ``corpus``.
        anchor_column_name: a column of strings; the first text column if None.
        positive_column_name: the next text column if None.
        on_empty: "error", or "skip" rows without a text.
        index: "exact", "auto", or inverted lists such as ``"IVF4096,SQ8"``.
        store: where vectors are kept; that of the environment if None.

    Raises:
        ColumnError: a column is missing or holds no text.
        TextError: a text is None, empty or white space.
        TeacherError: the teacher cannot be loaded.
        ArgumentError: the index has no effect on the teacher, needs faiss, which is missing, or has more lists than
            there are passages.
    """
    check_index(index, teacher)
    store = store or EmbeddingStore()
    names = resolve_columns(dataset, anchor_column_name, positive_column_name)
    pairs = list(iter_pairs(dataset, *names, on_empty))
    extra = iter_passages(corpus, corpus_column_name, on_empty) if corpus is not None else iter(())
    start = time.perf_counter()
    passages = Corpus.build([*(block.positives for block in pairs), *extra], store.derived / "corpora")
    collected = Stage("collect", f"{len(passages):,} distinct passages", time.perf_counter() - start, 0)
    lists = choose_index(index, len(passages))
    anchors = pa.chunked_array([block.anchors for block in pairs])
    stages = [collected]
    for name, member in list_members(teacher):
        stages += [
            stage if name is None else replace(stage, work=f"{name}: {stage.work}")
            for stage in _plan_teacher(member, store, anchors, passages)
        ]
    memory = _memory(len(anchors), len(passages))
    if lists is None or not isinstance(teacher, Encoder):
        larger = isinstance(teacher, Encoder) and len(passages) >= AUTO_PASSAGES
        return Plan(tuple(stages), memory, tuple(_advise(stages, may_use_lists=larger)))
    costs = estimate_lists(lists, len(passages), teacher.dimension)
    changed = [_through_lists(stage, costs) for stage in stages]
    return Plan(
        tuple(changed),
        memory + costs.memory_bytes,
        tuple(_advise(changed, stages if len(passages) < AUTO_PASSAGES else None)),
    )


def _plan_teacher(
    teacher: Teacher, store: EmbeddingStore, anchors: pa.ChunkedArray, passages: Corpus
) -> Iterator[Stage]:
    """Yield the stages of one teacher; in an ensemble it searches all rows at most, and often fewer."""
    if not isinstance(teacher, Encoder):
        yield from _plan_ranking(teacher, anchors, passages)
        return
    yield _plan_encoding(teacher, store, {"passage": passages.column, "anchor": anchors})
    yield _plan_index(len(passages), teacher.dimension)
    yield _plan_dense_search(teacher.dimension, len(anchors), len(passages))


def _plan_index(num_passages: int, dimension: int) -> Stage:
    """Return what it takes to gather the vectors of the corpus and, where that is faster to search, to round them."""
    components = num_passages * dimension
    if not multiplies_int8(dimension):
        return Stage("index", "vectors of the corpus in one file", 4 * components / WRITTEN_BYTES, 4 * components)
    seconds = 5 * components / WRITTEN_BYTES + 3 * components * dimension / ROTATED_PRODUCTS
    return Stage(
        "index", "vectors of the corpus in one file, and as 8-bit integers in another", seconds, 5 * components
    )


def _through_lists(stage: Stage, costs: ListCosts) -> Stage:
    """Return a stage of exact search as it is with inverted lists."""
    if stage.name == "index":
        work = f"{stage.work}, and {costs.num_lists:,} inverted lists"
        return Stage(stage.name, work, stage.seconds + costs.seconds, stage.disk_bytes + costs.disk_bytes)
    if stage.name == "search":
        work = f"{stage.work}, through inverted lists, at most"
        return replace(stage, work=work, seconds=stage.seconds * LISTS_FACTOR)
    return stage


def _plan_encoding(teacher: Encoder, store: EmbeddingStore, texts: dict[Role, pa.ChunkedArray]) -> Stage:
    seconds, parts, num_missing = 0.0, [], 0
    for role, column in texts.items():
        digests = digest_texts(column.to_pylist())
        distinct, first = np.unique(digests, return_index=True)
        missing = first[store.space(teacher, role).missing(distinct)]
        parts.append(f"{len(missing):,} of {len(distinct):,} {role}s")
        num_missing += len(missing)
        seconds += _time_encoding(teacher, role, column.take(pa.array(missing))) if len(missing) else 0.0
    return Stage("encode", f"{' and '.join(parts)} have no vector yet", seconds, 4 * num_missing * teacher.dimension)


def _time_encoding(teacher: Encoder, role: Role, texts: pa.ChunkedArray) -> float:
    """Return the seconds for texts, from a sample that is spread over their lengths."""
    lengths = np.asarray(pc.utf8_length(texts))
    order = np.argsort(lengths, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(SAMPLE_TEXTS, len(order))).astype(np.int64)]
    sample = texts.take(pa.array(chosen)).to_pylist()
    teacher.encode(sample[:1], role)  # which loads the model
    start = time.perf_counter()
    teacher.encode(sample, role)
    return (time.perf_counter() - start) * float(lengths.sum() / max(1, lengths[chosen].sum()))


def _plan_dense_search(dimension: int, num_anchors: int, num_passages: int) -> Stage:
    """Time the search itself, on random vectors."""
    rows, columns = min(SAMPLE_ANCHORS, num_anchors), min(SAMPLE_PASSAGES, num_passages)
    vectors = np.random.default_rng(0).standard_normal((max(rows, columns), dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"text {number}" for number in range(len(vectors))]
    teacher = PrecomputedTeacher((names, vectors), (names, vectors))
    seconds = _time_search(teacher, names[:columns], names[:rows])
    return _search_stage(seconds * num_anchors * num_passages / (rows * columns), num_anchors, num_passages)


def _plan_ranking(teacher: Teacher, anchors: pa.ChunkedArray, passages: Corpus) -> Iterator[Stage]:
    texts = passages.column.slice(0, SAMPLE_PASSAGES).to_pylist()
    rows = list(dict.fromkeys(anchors.slice(0, SAMPLE_ANCHORS).to_pylist()))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        miner = HardNegativeMiner.from_corpus(texts, teacher=teacher, store=folder)
        built = time.perf_counter() - start
        seconds = _time_rows(miner, rows, texts)
    scale = len(passages) / len(texts)
    yield Stage("index", "postings of the corpus", built * scale, 0)
    yield _search_stage(seconds * scale * len(anchors) / len(rows), len(anchors), len(passages))


def _time_search(teacher: Teacher, passages: list[str], anchors: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _time_rows(HardNegativeMiner.from_corpus(passages, teacher=teacher, store=folder), anchors, passages)


def _time_rows(miner: HardNegativeMiner, anchors: list[str], passages: list[str]) -> float:
    """Return the seconds of mining some rows, the second time: the first one compiles."""
    batch = {"anchor": anchors, "positive": [passages[number % len(passages)] for number in range(len(anchors))]}
    miner({name: values[:1] for name, values in batch.items()})
    start = time.perf_counter()
    miner(batch)
    return time.perf_counter() - start


def _search_stage(seconds: float, num_anchors: int, num_passages: int) -> Stage:
    return Stage("search", f"{num_anchors:,} anchors x {num_passages:,} passages", seconds, 0)


def _memory(num_anchors: int, num_passages: int) -> int:
    """Return the anonymous bytes of the search: a tile, and what is kept for each text."""
    return 250_000_000 + 100 * (num_anchors + num_passages)


def _advise(stages: list[Stage], exact: list[Stage] | None = None, *, may_use_lists: bool = False) -> Iterator[str]:
    """Yield what would make it faster.

    Args:
        stages: of the plan.
        exact: those of exact search, where the plan is another.
        may_use_lists: whether the plan is exact, and the corpus large enough for inverted lists.
    """
    if exact is not None:
        given, without = (sum(stage.seconds for stage in some) for some in (stages, exact))
        if without < given:
            yield (
                f"Exact search would take {_duration(without)} in all: for so many anchors leave out --index, unless "
                "you mine this corpus again and again."
            )
    slowest = max(stages, key=lambda stage: stage.seconds)
    if slowest.seconds < 60:
        return
    if slowest.name == "encode":
        yield "Most of it is encoding: a GPU (--device), shorter texts (--max-seq-length) or a smaller teacher helps."
    elif slowest.name == "search":
        lists = ", --index auto, which reads only a part of it," if may_use_lists else ""
        yield f"Most of it is the search, which grows with anchors x passages: a smaller corpus{lists} or a GPU helps."


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:,.2f} GB"
