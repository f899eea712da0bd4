"""What runs on the nodes of a cluster: workers, which read, encode and search, and assemblers, which mine rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hn_datasets.guards import guard_from_dict
from hn_datasets.index_recall import IndexRecall
from hn_datasets.ray_engine.cluster import load_ray
from hn_datasets.ray_engine.job import Job, Part
from hn_datasets.ray_engine.mining import SlicedMiner
from hn_datasets.ray_engine.searching import OpenPieces, merge_found
from hn_datasets.ray_engine.sliced_scores import Prepared, cut
from hn_datasets.search import Found, Search
from hn_datasets.threads import limit_threads


class Worker:
    """Does any stage's work, one unit after the other; all that it keeps, it can make again.

    Args:
        threads: cores that it may use.
    """

    def __init__(self, threads: int) -> None:
        limit_threads(threads)
        self._job: Job | None = None
        self._reference: Any = None
        self._open: OpenPieces | None = None

    def wait(self) -> None:
        """Return when this process has started."""

    def run(self, job: Sequence[Any], function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a stage's function with the run, of which one copy is kept, so that a model is loaded once.

        Args:
            job: the reference of the run, alone in a list, so that Ray leaves it as it is.
            function: of a stage.
            arguments: after the run.
        """
        return function(self._load(job[0]), *arguments)

    def search(
        self,
        references: Sequence[Any],
        number: int,
        member: int,
        anchors: Prepared,
        searches: Sequence[Search],
        approximate: bool,
    ) -> list[Found]:
        """Answer searches of one piece; see ``OpenPieces.search``.

        Args:
            references: of the run and its pieces.
            number: of the piece.
            member: number of the teacher.
            anchors: as the teacher sees them.
            searches: in ids of the piece.
            approximate: by the index of the recipe.
        """
        if self._open is None:
            self._open = OpenPieces(self._load(references[0]), load_ray().get(references[1]))
        return self._open.search(number, member, anchors, searches, approximate)

    def _load(self, reference: Any) -> Job:
        """Return the run, with the teacher that this process has loaded already."""
        if self._job is None or reference != self._reference:
            job: Job = load_ray().get(reference)
            self._job = job if self._job is None else replace(job, teacher=self._job.teacher)
            self._reference = reference
        return self._job


class Assembler:
    """Mines parts: it asks the workers for what only a search can tell, and looks up the rest itself."""

    def __init__(self) -> None:
        limit_threads(1)
        self._miner: SlicedMiner | None = None

    def wait(self) -> None:
        """Return when this process has started."""

    def check_guards(self, job: Sequence[Any]) -> None:
        """Refuse guards that do not work here, such as one whose model is not on this node.

        Args:
            job: the reference of the run, alone in a list.

        Raises:
            HNDatasetsError: a guard does not work.
        """
        run: Job = load_ray().get(job[0])
        self._guards = [guard_from_dict(guard) for guard in run.recipe.guards]  # kept, and with it what it has loaded
        for guard in self._guards:
            guard.check(run.teacher, run.recipe.method)

    def mine(
        self, references: Sequence[Any], workers: Sequence[Any], part: Part, features: Any, num_shards: int
    ) -> int:
        """Mine a part and write it; return how many of its rows the teachers could not score.

        Args:
            references: of the run and its pieces.
            workers: which have the pieces, each every ``len(workers)``-th.
            part: the rows.
            features: types of their columns.
            num_shards: parts of the split.
        """
        return self._open(references, workers).mine_part(part, features, num_shards)

    def measure_recall(
        self, references: Sequence[Any], workers: Sequence[Any], part: Part, features: Any, count: int
    ) -> IndexRecall:
        """Mine up to ``count`` rows of a part by the index and exactly; the other arguments are those of ``mine``."""
        return self._open(references, workers).measure_part_recall(part, features, count)

    def _open(self, references: Sequence[Any], workers: Sequence[Any]) -> SlicedMiner:
        if self._miner is None:
            self._references, self._workers = references, workers
            job, self._pieces = load_ray().get(list(references))
            self._miner = SlicedMiner(job, self._pieces, self._ask)
        return self._miner

    def _ask(self, member: int, anchors: Prepared, searches: Sequence[Search], approximate: bool) -> list[Found]:
        """Search all pieces at once, and merge what they find."""
        ray, offset, references = load_ray(), 0, []
        shared = ray.put(anchors)
        for number, size in enumerate(self._pieces.sizes):
            if size:
                own = [cut(search, offset, offset + size) for search in searches]
                worker = self._workers[number % len(self._workers)]
                references.append(worker.search.remote(self._references, number, member, shared, own, approximate))
            offset += size
        answers = ray.get(references)
        return [merge_found([answer[place] for answer in answers], search.k) for place, search in enumerate(searches)]


def assembler_count(workers: int) -> int:
    """Return how many assemblers keep the workers busy: their own part of the work is small."""
    return (workers + 1) // 2
