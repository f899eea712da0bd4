"""The stages of a run in their order, each of which goes on from what an earlier run has finished."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Features

from hn_datasets.approximate import choose_index
from hn_datasets.errors import TeacherError, TextError
from hn_datasets.files import atomic_write
from hn_datasets.guards import Guard
from hn_datasets.index_recall import SAMPLE_ROWS, IndexRecall, spread
from hn_datasets.methods import RandomNegatives
from hn_datasets.preparing import warn_of_short_rows, warn_of_weak_teacher
from hn_datasets.ray_engine import cluster, indexing
from hn_datasets.ray_engine.encoding import Chunk, Failure, adopt_vectors, encode_chunk, encoder_of
from hn_datasets.ray_engine.files import (
    SourceFile,
)
from hn_datasets.ray_engine.job import Job, OnError, Part, Pieces
from hn_datasets.ray_engine.locating import Places, find_in_corpus, find_in_rows
from hn_datasets.ray_engine.output import count_shards, exists, finish_output, merge_shards, shard_path, write_text
from hn_datasets.ray_engine.ranges import build_texts, range_store
from hn_datasets.ray_engine.reading import read_corpus_file, read_rows_file
from hn_datasets.ray_engine.workers import Assembler, Worker, assembler_count
from hn_datasets.recipe import Recipe
from hn_datasets.record import MiningRecord, describe_environment
from hn_datasets.statistics import MiningStatistics
from hn_datasets.teachers.base import Ranker, Role
from hn_datasets.teachers.ensemble import list_members
from hn_datasets.teachers.precomputed import PrecomputedTeacher
from hn_datasets.texts import Corpus

RECALL_PARTS = 8
"""Parts from which rows are taken to measure what an index finds."""

FAILED_FILE = "failed.jsonl"
"""What made the teacher fail: one line each, with file and row."""


@dataclass(frozen=True)
class Given:
    """What is mined.

    Attributes:
        rows: files of the rows.
        corpus: files of further passages.
        features: types of the columns of the rows.
        corpus_features: of the passages; None where there are none.
        column: of the further passages.
        group_columns: whose values are groups.
        source: what the record says.
    """

    rows: list[SourceFile]
    corpus: list[SourceFile]
    features: Features
    corpus_features: Features | None
    column: str | None
    group_columns: tuple[str, ...]
    source: dict[str, Any]


class Run:
    """The stages of one run, each timed."""

    def __init__(self, ray: Any, job: Job, given: Given, guards: Sequence[Guard], on_error: OnError) -> None:
        self.ray = ray
        self.job = job
        self.given = given
        self.guards = guards
        self.on_error = on_error
        self.timings: dict[str, float] = {}
        self.workers: list[Any] = []
        self.assemblers: list[Any] = []

    def stop(self) -> None:
        """End workers and assemblers, which would stay as long as anything refers to them."""
        for actor in (*self.workers, *self.assemblers):
            self.ray.kill(actor)

    def start(self, workers: int, gpus: float, threads: int) -> None:
        """Start workers and assemblers."""
        begin = time.perf_counter()
        self.job_reference = self.ray.put(self.job)
        self.workers = cluster.start_actors(self.ray, Worker, workers, gpus, threads)
        self.assemblers = cluster.start_actors(self.ray, Assembler, assembler_count(workers), 0)
        self.ray.get([actor.wait.remote() for actor in (*self.workers, *self.assemblers)])
        for answer in [assembler.check_guards.remote([self.job_reference]) for assembler in self.assemblers]:
            cluster.result_of(self.ray, answer, "Guards")
        self.timings["start"] = time.perf_counter() - begin

    def mine(self, key: str) -> MiningRecord:
        """Run all stages, and return the record."""
        parts = self._timed("read", self._read)
        pieces = self._timed("collect", self._collect)
        if isinstance(self.job.teacher, Ranker):
            warn_of_weak_teacher(self.job.teacher, stacklevel=3)
        warn_of_short_rows(self.job.recipe, sum(pieces.sizes), stacklevel=3)
        pieces, failures = self._timed("encode", partial(self._encode, pieces, parts))
        pieces = self._timed("index", partial(self._index, pieces))
        self._timed("search", partial(self._search, pieces, parts))
        recipe, recall = self.job.recipe, None
        if recipe.index is not None and not isinstance(recipe.method, RandomNegatives):
            recall = self._timed("recall", partial(self._measure_recall, pieces, parts))
        return self._finish(key, pieces, parts, failures, recall)

    def _timed(self, stage: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        self.timings[stage] = time.perf_counter() - start
        return result

    def _on_workers(self, function: Callable[..., Any], units: Sequence[tuple[Any, ...]], **shown: Any) -> list[Any]:
        """Call a function of a stage for each unit of arguments."""

        def submit(actor: Any, unit: tuple[Any, ...]) -> Any:
            return actor.run.remote([self.job_reference], function, *unit)

        return cluster.run_units(self.ray, self.workers, submit, units, **shown)

    def _read(self) -> list[Part]:
        """Cut the rows into parts; return them in the order of the source, numbered within their splits."""
        given = self.given
        units = [(number, file, given.features, given.group_columns) for number, file in enumerate(given.rows)]
        found = self._on_workers(read_rows_file, units, label="Reading rows", unit="file")
        passages = [
            (number, file, given.corpus_features, given.column, given.group_columns)
            for number, file in enumerate(given.corpus)
        ]
        self._on_workers(read_corpus_file, passages, label="Reading passages", unit="file")
        counts: dict[str, int] = {}
        parts: list[Part] = []
        for part in (part for parts_of_file in found for part in parts_of_file):
            parts.append(replace(part, shard=counts.get(part.split, 0)))
            counts[part.split] = parts[-1].shard + 1
        if not parts:
            raise TextError("Expected a dataset with rows, got an empty one; check the split, and any filter before.")
        return parts

    def _collect(self) -> Pieces:
        """Write the distinct texts of every range."""
        numbers = range(self.job.num_ranges)
        units = [(number, kind) for kind in ("passages", "anchors") for number in numbers]
        found = self._on_workers(collect_range, units, label="Distinct texts", unit="range")
        passages, anchors = found[: len(numbers)], found[len(numbers) :]
        sizes = tuple(size for _, size in passages)
        index = choose_index(self.job.recipe.index, sum(sizes))
        self._change_recipe(replace(self.job.recipe, index=index))
        return Pieces(tuple(path for path, _ in passages), sizes, tuple(path for path, _ in anchors))

    def _change_recipe(self, recipe: Recipe) -> None:
        self.job = replace(self.job, recipe=recipe)
        self.job_reference = self.ray.put(self.job)

    def _encode(self, pieces: Pieces, parts: Sequence[Part]) -> tuple[Pieces, list[Failure]]:
        """Encode what has no vector yet, by all teachers; leave out what makes one fail."""
        failures: list[Failure] = []
        for member, (name, teacher) in enumerate(list_members(self.job.teacher)):
            if encoder_of(self.job, member) is None:
                continue
            roles: tuple[Role, ...] = ("passage", "anchor")
            ranges = [Chunk(member, role, number, 0, 0) for role in roles for number in range(self.job.num_ranges)]
            adopted = self._on_workers(adopt_vectors, [(pieces, one) for one in ranges], label="Known vectors")
            chunks = [(pieces, chunk) for found in adopted for chunk in found]
            if isinstance(teacher, PrecomputedTeacher):  # its vectors are here and nowhere else
                encoded = [encode_chunk(self.job, *chunk) for chunk in chunks]
            else:
                sizes = [chunk.stop - chunk.start for _, chunk in chunks]
                label = "Encoding" if name is None else f"Encoding with {name}"
                encoded = self._on_workers(encode_chunk, chunks, label=label, sizes=sizes, unit="text")
            failures += [failure for found in encoded for failure in found]
        # The same text may fail with several teachers.
        failures = list({(one.role, one.digest): one for one in reversed(failures)}.values())
        if failures:
            pieces = self._leave_out(pieces, parts, failures)
        return pieces, failures

    def _leave_out(self, pieces: Pieces, parts: Sequence[Part], failures: Sequence[Failure]) -> Pieces:
        """Name the texts that made a teacher fail, and write the others again.

        Raises:
            TeacherError: ``on_error`` is "error".
        """
        lines = self._locate(parts, failures)
        if self.on_error == "error":
            first = lines[0]
            raise TeacherError(
                f"Expected a vector for every text, the teacher fails on {len(lines):,}, first row {first['row']} of "
                f"{first['file']} ({first['reason']}); correct them, or pass on_error='skip'."
            )
        write_text(f"{self.job.output}/{FAILED_FILE}", "".join(json.dumps(line) + "\n" for line in lines))
        found: dict[str, list[tuple[Path | None, int]]] = {}
        for role, paths in (("passage", pieces.passages), ("anchor", pieces.anchors)):
            dropped = [failure.digest for failure in failures if failure.role == role]
            found[role] = self._on_workers(
                indexing.drop_failed, [(path, dropped) for path in paths], label=f"Leaving out {role}s"
            )
        return replace(
            pieces,
            passages=tuple(path for path, _ in found["passage"]),
            sizes=tuple(size for _, size in found["passage"]),
            anchors=tuple(path for path, _ in found["anchor"]),
        )

    def _locate(self, parts: Sequence[Part], failures: Sequence[Failure]) -> list[dict[str, Any]]:
        """Return file and row, counted from 0, of each text."""
        wanted = [failure.digest for failure in failures]
        found: list[Places] = self._on_workers(find_in_rows, [(part, wanted) for part in parts], label="Locating")
        column, kinds = self.given.column, self.given.corpus_features
        if self.given.corpus and kinds is not None:
            name = column or ("text" if "text" in kinds else next(iter(kinds)))
            units = [(file, kinds, name, wanted) for file in self.given.corpus]
            found += self._on_workers(find_in_corpus, units, label="Locating")
        places: Places = {}
        for some in found:
            places = {**some, **places}
        lines = []
        for failure in failures:
            file, row = places.get(failure.digest, ("", -1))
            lines.append({"role": failure.role, "file": file, "row": row, "reason": failure.reason})
        return sorted(lines, key=lambda line: (line["file"], line["row"], line["role"]))

    def _index(self, pieces: Pieces) -> Pieces:
        """Write positives, groups, matrices and postings of every range."""
        numbers = range(self.job.num_ranges)
        for member, (_, teacher) in enumerate(list_members(self.job.teacher)):
            if isinstance(teacher, Ranker):
                counted = [(pieces, member, number) for number in numbers]
                self._on_workers(indexing.count_range, counted, label="Counting terms", unit="range")
                (terms,) = self._on_workers(indexing.merge_ranges, [(pieces, member)], label="Merging terms")
                pieces = replace(pieces, terms={**pieces.terms, member: terms})
                posted = [(pieces, member, number) for number in numbers]
                self._on_workers(indexing.post_range, posted, label="Writing postings", unit="range")
        units = [(pieces, number, self.given.group_columns) for number in numbers]
        found = self._on_workers(indexing.index_range, units, label="Indexing", unit="range")
        preparing = [guard for guard in self.guards if type(guard).prepare is not Guard.prepare]
        self._on_workers(indexing.prepare_guards, [(pieces, preparing)], label="Guards")
        sums = [one.sums[0] for one in found if 0 in one.sums]
        return replace(
            pieces,
            positives=tuple(one.positives for one in found),
            groups={name: tuple(one.groups[name] for one in found) for name in self.given.group_columns},
            sums={0: tuple(map(sum, zip(*sums, strict=True)))} if sums else {},
        )

    def _search(self, pieces: Pieces, parts: Sequence[Part]) -> None:
        """Mine all parts that have not been written yet."""
        shards = self._shards(parts)
        left = [(part, path) for part, path in zip(parts, shards, strict=True) if not exists(path)]
        if not left:
            return
        references = [self.job_reference, self.ray.put(pieces)]
        counts = self._num_shards(parts)

        def submit(actor: Any, unit: tuple[Part, str]) -> Any:
            return actor.mine.remote(references, self.workers, unit[0], self.given.features, counts[unit[0].split])

        sizes = [part.num_rows for part, _ in left]
        cluster.run_units(self.ray, self.assemblers, submit, left, label="Mining", sizes=sizes, unit="row")

    def _measure_recall(self, pieces: Pieces, parts: Sequence[Part]) -> IndexRecall:
        """Mine some rows of some parts by the index and exactly."""
        references = [self.job_reference, self.ray.put(pieces)]
        chosen = [parts[place] for place in spread(len(parts), RECALL_PARTS)]

        def submit(actor: Any, part: Part) -> Any:
            count = SAMPLE_ROWS // len(chosen)
            return actor.measure_recall.remote(references, self.workers, part, self.given.features, count)

        return IndexRecall.merge(cluster.run_units(self.ray, self.assemblers, submit, chosen, label="Recall"))

    def _statistics(self, shards: Sequence[str]) -> MiningStatistics:
        """Return the statistics of all shards; what they are merged from goes from worker to worker."""
        reference, count = [self.job_reference], len(self.workers)
        counted = [
            worker.run.remote(reference, count_shards, shards[place::count])
            for place, worker in enumerate(self.workers)
        ]
        merged: MiningStatistics = cluster.result_of(
            self.ray, self.workers[0].run.remote(reference, merge_shards, counted), "Statistics"
        )
        return merged

    def _num_shards(self, parts: Iterable[Part]) -> dict[str, int]:
        return {part.split: part.shard + 1 for part in parts}  # the last one of each split counts

    def _shards(self, parts: Sequence[Part]) -> list[str]:
        counts = self._num_shards(parts)
        return [shard_path(self.job.output, part, counts[part.split]) for part in parts]

    def _finish(
        self,
        key: str,
        pieces: Pieces,
        parts: Sequence[Part],
        failures: Sequence[Failure],
        recall: IndexRecall | None,
    ) -> MiningRecord:
        """Write the record; workers look at what grows with the data."""
        shards, recipe, start = self._shards(parts), self.job.recipe, time.perf_counter()
        statistics = self._statistics(shards)
        (digest,) = self._on_workers(digest_pieces, [(pieces,)], label="Digest")
        if failures:
            statistics = replace(statistics, failed_texts=len(failures))
        rows: dict[str, int] = {}
        for part in parts:
            rows[part.split] = rows.get(part.split, 0) + part.num_rows
        self.timings["write"] = time.perf_counter() - start
        record = MiningRecord(
            recipe=recipe,
            rows=rows,
            corpus={"passages": sum(pieces.sizes), "digest": digest},
            statistics=statistics,
            source={**self.given.source, "fingerprints": dict.fromkeys(rows, key)},
            environment=describe_environment(),
            timings=self.timings,
            index_recall=recall,
        )
        finish_output(self.job.output, record)
        return record


def collect_range(job: Job, number: int, kind: str) -> tuple[Path | None, int]:
    """Write the distinct texts of one range, unless that is done; return their file and how many there are."""
    marker = job.work / kind / f"range-{number:06d}.json"
    if marker.exists():
        name, size = json.loads(marker.read_text(encoding="utf-8"))
        return Path(name) if name is not None else None, size
    files = sorted((job.work / kind).glob("*.arrow"))
    directory = range_store(job.store, number, job.num_ranges).derived / "corpora"
    path = build_texts(files, number, job.num_ranges, directory)
    size = 0 if path is None else len(Corpus(path))
    with atomic_write(marker) as target:
        target.write(json.dumps([None if path is None else str(path), size]).encode())
    return path, size


def digest_pieces(_: Job, pieces: Pieces) -> str:
    """Return the digest of the whole corpus."""
    return indexing.digest_corpus(pieces)
