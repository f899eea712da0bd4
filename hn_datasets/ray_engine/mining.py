"""Mining a part of the rows on a worker: the stages of one machine, with a corpus in pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import numpy as np
import pyarrow.parquet as pq
from datasets import Features

from hn_datasets.finished import FinishedRows, digest_rows
from hn_datasets.guards import Sources, guard_from_dict
from hn_datasets.index_recall import IndexRecall, spread
from hn_datasets.modes import members_of
from hn_datasets.picking import Index, Mined, mined_schema
from hn_datasets.ray_engine.encoding import encoder_of
from hn_datasets.ray_engine.job import Job, Part, Pieces
from hn_datasets.ray_engine.output import shard_path, write_shard_to
from hn_datasets.ray_engine.ranges import range_store
from hn_datasets.ray_engine.reading import as_dataset
from hn_datasets.ray_engine.searching import open_postings
from hn_datasets.ray_engine.sliced import SlicedCorpus, SlicedGroups, SlicedLists
from hn_datasets.ray_engine.sliced_scores import Prepared, SlicedBM25Scorer, SlicedDenseScorer, SlicedIndex
from hn_datasets.row_mining import RowMiner
from hn_datasets.rows import Rows
from hn_datasets.search import Found, Search
from hn_datasets.teachers.base import Encoder, Floats, Role, Scorer
from hn_datasets.teachers.ensemble import list_members
from hn_datasets.texts import Ragged

AskMember = Callable[[int, Prepared, Sequence[Search], bool], list[Found]]
"""From the number of a teacher to what ``sliced.Ask`` is."""


class SlicedMiner(RowMiner):
    """Mines rows against a corpus in pieces.

    Args:
        job: the run.
        pieces: its files.
        ask: searches all pieces.
    """

    corpus: SlicedCorpus

    def __init__(self, job: Job, pieces: Pieces, ask: AskMember) -> None:
        self.job = job
        self.pieces = pieces
        self.recipe = job.recipe
        self.corpus = SlicedCorpus(pieces.passages)
        self._guards = tuple(guard_from_dict(guard) for guard in job.recipe.guards)
        self._ask = ask
        self._anchors = SlicedCorpus(pieces.anchors)
        self._positives = SlicedLists(pieces.positives)
        self._groups = {name: SlicedGroups(paths) for name, paths in pieces.groups.items()}

    @property
    def sources(self) -> Sources:
        """Where guards look things up."""
        return Sources(self.recipe, self.corpus, self.job.shared, self._groups)

    def positives_of(self, anchors: Sequence[str]) -> Ragged:
        """Return the corpus ids of all positives of each anchor."""
        return self._positives.of(anchors)

    @cached_property
    def _scorers(self) -> list[tuple[str | None, Scorer]]:
        members = list_members(self.job.teacher)
        return [(name, self._open_member(member)) for member, (name, _) in enumerate(members)]

    @cached_property
    def _index(self) -> Index | None:
        return SlicedIndex() if self.recipe.index is not None else None

    def _open_member(self, member: int) -> Scorer:
        ask = partial(self._ask, member)
        encoder = encoder_of(self.job, member)
        if encoder is None:
            numbers = range(self.job.num_ranges)
            return SlicedBM25Scorer(
                self.corpus, [open_postings(self.job, self.pieces, member, number) for number in numbers], ask
            )
        passages = self._matrices(encoder, self.corpus, "passage")
        vectors = self._matrices(encoder, self._anchors, "anchor")
        return SlicedDenseScorer(self.corpus, passages, self._anchors, vectors, self.pieces.sums.get(member), ask)

    def _matrices(self, encoder: Encoder, corpus: SlicedCorpus, role: Role) -> list[Floats | None]:
        return [
            range_store(self.job.store, number, self.job.num_ranges).matrix(encoder, part, role, check=False)
            if part is not None
            else None
            for number, part in enumerate(corpus.parts)
        ]

    def mine_part(self, part: Part, features: Features, num_shards: int) -> int:
        """Mine the rows of a part and write them as one shard; return how many were left out as unscorable."""
        table = pq.read_table(part.path)
        rows = self._read(as_dataset(table, features).with_format(None)[:])
        kept = self._scorable(rows)
        columns = self._add_columns(rows.take(np.flatnonzero(kept)), partial(self._complete, self._finished(part)))
        write_shard_to(
            shard_path(self.job.output, part, num_shards), as_dataset(table, features), columns, self.features(features)
        )
        return int((~kept).sum())

    def measure_part_recall(self, part: Part, features: Features, count: int) -> IndexRecall:
        """Mine up to ``count`` rows of a part by the index and exactly."""
        table = pq.read_table(part.path)
        sample = as_dataset(table.take(spread(len(table), count)), features).with_format(None)
        kept = self._scorable(self._read(sample[:]))
        return self.measure_recall(sample.select(np.flatnonzero(kept))[:])

    def _scorable(self, rows: Rows) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return which rows have an anchor and positives that the teachers could score, shape ``[n]``."""
        kept: np.ndarray[tuple[int], np.dtype[np.bool_]] = self._anchors.ids(rows.anchors) >= 0
        owners = np.repeat(np.arange(len(rows.own)), [len(own) for own in rows.own])
        missing = self.corpus.ids([text for own in rows.own for text in own]) < 0
        kept[owners[missing]] = False
        return kept

    def _finished(self, part: Part) -> FinishedRows:
        schema = mined_schema(self.recipe.num_negatives, len(self._guards), bool(members_of(self.recipe.teacher)))
        return FinishedRows(self.job.work / "finished" / part.path.stem, schema, len(self.corpus))

    def _complete(self, finished: FinishedRows, rows: Rows) -> Mined:
        """Return one block of rows, those of an earlier run as it has kept them."""
        digests = digest_rows(rows.anchors, rows.own, rows.columns)
        return Mined.from_table(finished.complete(digests, lambda missing: self._mine(rows.take(missing)).to_table()))
