"""The guard on passages of the same document, author, ticker or day."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import numpy as np

from hn_datasets.columns import group_names
from hn_datasets.errors import ArgumentError
from hn_datasets.guards.base import Block, Guard, Rule, Sources, merge
from hn_datasets.texts import Ragged


@dataclass(frozen=True)
class SameGroup(Guard):
    """Never a passage of the same document, title, author, ticker or day.

    The values of a column of the dataset name groups: strings, or numbers and dates taken as text, 3.0 like 3; None,
    NaN and white space name none. A positive is in the group of every row that has it, a further passage of ``corpus``
    in that of its own row, where the corpus has such a column too. A row gets no passage of its own group, nor of any
    group that one of the anchor's positives is in.

    Args:
        column: of the dataset.

    Raises:
        ArgumentError: ``column`` is no name.
    """

    column: str
    name: ClassVar[str] = "same-group"

    def __post_init__(self) -> None:
        if not isinstance(self.column, str) or not self.column:
            raise ArgumentError(f"SameGroup needs the name of a column, got {self.column!r}.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of the groups."""
        return (self.column,)

    def most_excluded(self, sources: Sources) -> int:
        """Return the number of passages in the largest group."""
        return sources.groups[self.column].largest

    def rule(self, block: Block, sources: Sources) -> Rule:
        """Return the passages of each row's group, and of the groups of its positives."""
        groups, num_rows = sources.groups[self.column], len(block.anchors)
        names = group_names(block.columns[self.column])
        named = np.array([row for row, name in enumerate(names) if name is not None], dtype=np.int64)
        own = groups.of([name for name in names if name is not None])
        ids = sources.corpus.ids(list(chain.from_iterable(block.positives)))
        rows = np.repeat(np.arange(num_rows), [len(row) for row in block.positives])[ids >= 0]
        beside = groups.beside(ids[ids >= 0])
        parts = (Ragged.from_pairs(of[part.rows], part.values, num_rows) for of, part in ((named, own), (rows, beside)))
        return Rule(excluded=merge(list(parts), num_rows))
