"""Reading what is to be mined: the corpus, the positives of every anchor, and the passages of every group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, IterableDataset

from hn_datasets.columns import (
    AnyDataset,
    CorpusLike,
    check_groups,
    group_names,
    iter_corpus,
    iter_pairs,
    open_corpus,
)
from hn_datasets.errors import ColumnError
from hn_datasets.recipe import Recipe
from hn_datasets.store import EmbeddingStore
from hn_datasets.texts import AnchorPositives, Corpus, Digests, PassageGroups, digest_texts


@dataclass(frozen=True)
class Collected:
    """What the search needs besides vectors; all of it lies in files.

    Attributes:
        corpus: the distinct passages.
        positives: of every anchor; None where anchors come as a stream.
        groups: by column, the passages of every group.
    """

    corpus: Corpus
    positives: AnchorPositives | None
    groups: dict[str, PassageGroups]


def collect_dataset(
    dataset: AnyDataset,
    further: CorpusLike | None,
    further_column: str | None,
    recipe: Recipe,
    columns: Sequence[str],
    store: EmbeddingStore,
) -> Collected:
    """Read a dataset once: the corpus of all its positives and ``further``, and the positives of every anchor.

    Args:
        dataset: what is to be mined.
        further: passages beside the positives.
        further_column: their text column.
        recipe: names the columns.
        columns: those whose values are groups. A positive is in the group of each of its rows, a further passage in
            that of its own row, where it has such a column.
        store: where the files go.

    Raises:
        ColumnError: a column of groups is missing or of another type, or has no value.
        TextError: a text is None, empty or white space.
    """
    check_groups(dataset, columns)
    passages = open_corpus(further) if further is not None else None
    if isinstance(passages, (Dataset, IterableDataset)):
        check_groups(passages, [name for name in columns if name in (passages.column_names or ())])
    anchors: list[Digests] = []
    positives: list[pa.Array] = []
    members = {name: _Members(name) for name in columns}
    names = (recipe.anchor_column_name, recipe.positive_column_name)
    for pairs in iter_pairs(dataset, *names, recipe.on_empty, columns):
        anchors.append(digest_texts(pairs.anchors.to_pylist())[pairs.rows])
        positives.append(pairs.positives)
        for name, values in pairs.columns.items():
            members[name].add(values, pairs.rows, pairs.positives)
    others = _texts(passages, further_column, recipe, members) if passages is not None else iter(())
    corpus = Corpus.build(chain(positives, others), store.derived / "corpora")
    groups = {name: part.build(corpus, store) for name, part in members.items()}
    ids = np.concatenate([corpus.ids(chunk.to_pylist()) for chunk in positives])
    return Collected(corpus, AnchorPositives.build(np.concatenate(anchors), ids, store.derived / "anchors"), groups)


def collect_corpus(
    corpus: CorpusLike, column: str | None, recipe: Recipe, columns: Sequence[str], store: EmbeddingStore
) -> Collected:
    """Read a corpus for anchors that come as a stream; arguments and errors are those of ``collect_dataset``."""
    passages = open_corpus(corpus)
    if columns and not isinstance(passages, (Dataset, IterableDataset)):
        raise ColumnError(
            f"Expected a corpus with a column {columns[0]!r}, for SameGroup, got strings alone; give a Dataset or a "
            "Parquet or JSON Lines file."
        )
    if isinstance(passages, (Dataset, IterableDataset)):
        check_groups(passages, columns)
    members = {name: _Members(name) for name in columns}
    built = Corpus.build(_texts(passages, column, recipe, members), store.derived / "corpora")
    return Collected(built, None, {name: part.build(built, store) for name, part in members.items()})


def iter_anchors(dataset: AnyDataset, recipe: Recipe) -> Iterator[pa.Array]:
    """Yield the anchors of a dataset in blocks."""
    for pairs in iter_pairs(dataset, recipe.anchor_column_name, recipe.positive_column_name, recipe.on_empty):
        yield pairs.anchors


def _texts(corpus: CorpusLike, column: str | None, recipe: Recipe, members: dict[str, _Members]) -> Iterator[pa.Array]:
    """Yield the texts of a corpus, and note on the way which groups they are in."""
    for block in iter_corpus(corpus, column, recipe.on_empty, list(members)):
        for name, values in block.columns.items():
            members[name].add(values, np.arange(len(block.texts)), block.texts)
        yield block.texts


class _Members:
    """Collects (group, passage) pairs of one column as digests."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._groups: list[Digests] = []
        self._passages: list[Digests] = []

    def add(self, values: pa.Array, rows: npt.NDArray[np.int64], texts: pa.Array) -> None:
        """Add ``texts`` (n of them) to the groups of their ``rows`` (shape ``[n]``) within ``values``."""
        names = group_names(values.to_pylist())
        kept = np.array([name is not None for name in names], dtype=bool)[rows]
        self._groups.append(digest_texts(name or "" for name in names)[rows[kept]])
        self._passages.append(digest_texts(texts.filter(pa.array(kept)).to_pylist()))

    def build(self, corpus: Corpus, store: EmbeddingStore) -> PassageGroups:
        """Write the passages of every group.

        Raises:
            ColumnError: no row has a group.
        """
        groups = np.concatenate([digest_texts([]), *self._groups])
        if not len(groups):
            raise ColumnError(f"Expected values in column {self._column!r}, for SameGroup, got none; name another one.")
        ids = corpus.ids_of_digests(np.concatenate(self._passages))
        return PassageGroups.build(groups, ids, store.derived / "groups")
