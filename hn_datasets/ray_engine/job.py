"""What every process of a run on a cluster is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hn_datasets.recipe import Recipe
from hn_datasets.store import EmbeddingStore
from hn_datasets.teachers.base import Teacher

OnError = Literal["error", "skip"]


@dataclass(frozen=True)
class Job:
    """One run: it travels to every worker.

    Attributes:
        recipe: every choice that decides the result.
        teacher: of the recipe; it travels as its spec, and is loaded where it is needed.
        store: the folder of the embedding store, which all nodes see.
        work: a folder in it for what is only of use to this run, and to the one that goes on with it.
        output: folder of the mined dataset, as fsspec names it.
        num_ranges: pieces of the corpus.
        shard_rows: rows of a part, which becomes one Parquet file.
    """

    recipe: Recipe
    teacher: Teacher
    store: Path
    work: Path
    output: str
    num_ranges: int
    shard_rows: int

    @property
    def shared(self) -> EmbeddingStore:
        """The store as a whole, with the files of guards."""
        return EmbeddingStore(self.store)


@dataclass(frozen=True)
class Part:
    """Rows that are mined and written together.

    Attributes:
        split: where they belong.
        path: Parquet file of the rows.
        num_rows: how many.
        file: where they came from.
        first_row: number of the first of them in that file.
        shard: number of the Parquet file that they become, within the split.
    """

    split: str
    path: Path
    num_rows: int
    file: str
    first_row: int
    shard: int = 0


@dataclass(frozen=True)
class Pieces:
    """The files of all ranges, as far as they are made.

    Attributes:
        passages: of each range the file of its passages, None where it has none.
        sizes: passages of each range.
        anchors: of each range the file of its anchors.
        positives: of each range the file with the positives of its anchors.
        groups: by column, of each range of group names the file of its groups.
        terms: by number of a teacher, the file with the terms of the whole corpus, of BM25.
        sums: by number of a teacher, the sum of all passage vectors.
    """

    passages: tuple[Path | None, ...]
    sizes: tuple[int, ...]
    anchors: tuple[Path | None, ...]
    positives: tuple[Path | None, ...] = ()
    groups: dict[str, tuple[Path | None, ...]] = field(default_factory=dict)
    terms: dict[int, Path] = field(default_factory=dict)
    sums: dict[int, tuple[int, ...]] = field(default_factory=dict)
