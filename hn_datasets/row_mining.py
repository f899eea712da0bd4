"""From a batch of rows to their mined columns, whatever holds the corpus and the scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Features

from hn_datasets.ensembling import mine_ensemble
from hn_datasets.guards import Block, Guard, Sources
from hn_datasets.index_recall import IndexRecall
from hn_datasets.mined_columns import mined_columns, mined_features, text_lists
from hn_datasets.modes import members_of
from hn_datasets.picking import Index, Mined, find_candidates, mine_block, open_block
from hn_datasets.recipe import Recipe
from hn_datasets.rows import Rows, read_rows
from hn_datasets.teachers.base import Ids, Scorer
from hn_datasets.teachers.ensemble import named_errors
from hn_datasets.texts import AnyCorpus, Ragged

BLOCK_ROWS = 2048
"""Anchors searched at once: tiles of 2,048 x 4,096 scores were the fastest on two cores."""

INDEX_BLOCK_ROWS = 8192
"""The same with an index: the more anchors read a list at once, the better; a quarter of it took 1.3 times as long."""

BLOCK_EXCLUDED = 1 << 22
"""Passages that guards may list for the rows of a block, all together: 32 MiB of ids."""


def block_rows_of(index: str | None) -> int:
    """Return how many anchors are searched at once with an index of a recipe."""
    return BLOCK_ROWS if index in (None, "exact") else INDEX_BLOCK_ROWS


class RowMiner(ABC):
    """Mines batches of rows, block by block.

    Attributes:
        recipe: every choice that decides the result.
        corpus: the distinct passages.
    """

    recipe: Recipe
    corpus: AnyCorpus
    _guards: tuple[Guard, ...]

    @property
    @abstractmethod
    def sources(self) -> Sources:
        """Where guards look things up."""

    @abstractmethod
    def positives_of(self, anchors: Sequence[str]) -> Ragged:
        """Return the corpus ids of all positives that the miner knows of each anchor, beside those of a row itself."""

    @property
    @abstractmethod
    def _scorers(self) -> list[tuple[str | None, Scorer]]:
        """Name and scorer of every teacher of an ensemble, or the scorer of the one teacher, without a name."""

    @property
    @abstractmethod
    def _index(self) -> Index | None:
        """What is searched first; exact search if None."""

    def features(self, features: Features) -> Features:
        """Return the features of the mined dataset: those given, and the added columns."""
        return mined_features(features, self.recipe)

    def blocks(self, batch: Mapping[str, Sequence[Any]]) -> Iterator[Block]:
        """Yield the rows of a batch, in blocks, with their positives scored; rows without a text are left out.

        Raises:
            ColumnError: a column is missing or holds no text.
            TextError: a text is None, empty or white space, and ``on_empty`` is "error".
        """
        for rows in self._read(batch).blocks(self._block_rows):
            yield self._open(0, rows, self.positives_of(rows.anchors))

    def mine_anew(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Return the mined columns of a batch, and search every row, also those that an earlier run has finished."""
        return self._add_columns(self._read(batch), self._mine)

    def measure_recall(self, batch: Mapping[str, Sequence[Any]]) -> IndexRecall:
        """Mine a batch by the index and exactly, and compare; errors are those of ``mine_anew``."""
        exact = object.__new__(type(self))
        exact.__dict__.update(self.__dict__, _index=None)
        found, expected = (miner.mine_anew(batch)["negative_ids"] for miner in (self, exact))
        return IndexRecall.compare(*([ids.tolist() for ids in column] for column in (found, expected)))

    @property
    def guards(self) -> tuple[Guard, ...]:
        """The guards of the recipe."""
        return self._guards

    @property
    def scorer(self) -> Scorer:
        """The teacher with the corpus, or the first teacher of an ensemble."""
        return self._scorers[0][1]

    def _read(self, batch: Mapping[str, Sequence[Any]]) -> Rows:
        return read_rows(batch, self.recipe, [name for guard in self._guards for name in guard.columns])

    def _add_columns(self, rows: Rows, mine: Callable[[Rows], Mined]) -> dict[str, Any]:
        parts = [(block.kept, mine(block)) for block in rows.blocks(self._block_rows)]
        columns = mined_columns(parts, rows.num_rows, self.recipe, self.corpus)
        if self.recipe.relabel_candidates:
            columns["relabel_candidates"] = text_lists(self._candidates(rows), self.corpus)
        return columns

    def _candidates(self, rows: Rows) -> Ids:
        """Return suspected positives as the one teacher, or the first of an ensemble, sees them."""
        ids = np.full((rows.num_rows, self.recipe.num_negatives), -1, dtype=np.int64)
        for part in rows.blocks(self._block_rows):
            block = self._open(0, part, self.positives_of(part.anchors))
            ids[part.kept] = find_candidates(block, self._guards, self.sources, self._index)
        return ids

    @cached_property
    def _block_rows(self) -> int:
        most = sum(guard.most_excluded(self.sources) for guard in self._guards)
        return min(block_rows_of(self.recipe.index), max(1, BLOCK_EXCLUDED // max(1, most)))

    def _mine(self, rows: Rows) -> Mined:
        """Mine one block of rows."""
        known = self.positives_of(rows.anchors)
        if not members_of(self.recipe.teacher):
            block = self._open(0, rows, known)
            return mine_block(block, self.scorer, self._guards, self.sources, self._index)

        def look(member: int, chosen: Ids) -> Block:
            return self._open(member, rows.take(chosen), known.take(chosen))

        return mine_ensemble(look, rows.anchors, self._guards, self.sources)

    def _open(self, member: int, rows: Rows, known: Ragged) -> Block:
        """Return rows as a teacher of an ensemble sees them, or as the one teacher does."""
        name, scorer = self._scorers[member]
        with named_errors(name):
            return open_block(scorer.scores(rows.anchors), rows.anchors, rows.own, known, self.corpus, rows.columns)
