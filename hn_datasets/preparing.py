"""What is done once before rows are mined: checks, embedding, indexes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence

import pyarrow as pa
from datasets import Features

from hn_datasets.columns import AnyDataset, splits_of
from hn_datasets.errors import ArgumentError, ReplacedColumnsWarning, ShortRowsWarning, WeakTeacherWarning
from hn_datasets.guards import Guard
from hn_datasets.methods import Method
from hn_datasets.mined_columns import MINED_FEATURES, mined_features
from hn_datasets.recipe import Recipe
from hn_datasets.scoring import open_scorer
from hn_datasets.store import EmbeddingStore
from hn_datasets.teachers.base import Encoder, Ranker, Teacher
from hn_datasets.teachers.ensemble import list_members, named_errors
from hn_datasets.texts import Corpus, digest_texts

MORE_PASSAGES = "add passages by corpus=..."


def check_guards(guards: Sequence[Guard], teacher: Teacher, method: Method) -> None:
    """Refuse what cannot work with this teacher or method.

    Raises:
        ArgumentError: a guard needs another teacher or method.
    """
    members = list_members(teacher)
    for guard in guards:
        guard.check(members[0][1], method)
        if guard.sifts and len(members) > 1:
            raise ArgumentError(
                f"The guard {guard.name!r} looks at one teacher's ranking, got an ensemble; name one teacher, or leave "
                "the guard out."
            )


def warn_of_short_rows(recipe: Recipe, num_passages: int, stacklevel: int, remedy: str = MORE_PASSAGES) -> None:
    """Warn where the corpus is smaller than what a row can need; ``remedy`` says how it grows."""
    wanted = recipe.method.skip + recipe.pool_size
    if num_passages <= wanted:
        warnings.warn(
            f"The corpus has {num_passages:,} distinct passages, a row can need {wanted:,} besides its positives: "
            f"rows will come out short; {remedy}, or ask for fewer negatives.",
            ShortRowsWarning,
            stacklevel=stacklevel + 1,
        )


def warn_of_replaced_columns(dataset: AnyDataset, recipe: Recipe, stacklevel: int) -> None:
    """Warn where columns would be lost; a dataset with all columns that mining adds is mined again, as it should be."""
    added = mined_features(Features(), recipe)
    for split in splits_of(dataset).values():
        taken = [name for name in split.column_names or () if name in added]
        if taken and not set(taken).issuperset(MINED_FEATURES):
            warnings.warn(
                f"Mining adds columns named {', '.join(taken)}, which the dataset has already and would lose; rename "
                f"them to keep them: dataset.rename_column({taken[0]!r}, ...).",
                ReplacedColumnsWarning,
                stacklevel=stacklevel + 1,
            )
            return


def warn_of_weak_teacher(teacher: Teacher, stacklevel: int) -> None:
    """Warn where BM25 is the only teacher."""
    if isinstance(teacher, Ranker):
        warnings.warn(
            "BM25 is the only teacher: in NV-Retriever's comparison its negatives trained a student worse (0.5002) "
            "than random ones (0.5248), dense teachers better (0.5494 to 0.5810); see arXiv 2407.15831.",
            WeakTeacherWarning,
            stacklevel=stacklevel + 1,
        )


def embed_texts(teacher: Teacher, corpus: Corpus, anchors: Iterator[pa.Array], store: EmbeddingStore) -> float | None:
    """Embed the corpus and the anchors by every teacher that gives vectors.

    Returns:
        The seconds that it took; None where no teacher gives vectors.
    """
    members = list_members(teacher)
    for name, member in members if len(members) > 1 else ():
        if isinstance(member, Ranker):  # before anything is encoded: what it lacks shows now
            with named_errors(name):
                open_scorer(member, corpus, store)
    start = time.perf_counter()
    encoders = [(name, member) for name, member in members if isinstance(member, Encoder)]
    chunks = list(anchors) if encoders else []
    for name, encoder in encoders:
        with named_errors(name):
            store.embed(encoder, "passage", corpus.column, corpus.digests)
            if chunks:
                texts = pa.chunked_array(chunks)
                store.embed(encoder, "anchor", texts, digest_texts(texts.to_pylist()))
    return time.perf_counter() - start if encoders else None
