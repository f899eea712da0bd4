"""Building the miner of a release again, for a few of its anchors."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, concatenate_datasets

from hn_datasets.columns import CorpusLike, iter_pairs, iter_passages, resolve_columns
from hn_datasets.errors import DataSourceError
from hn_datasets.inspection.blocks import as_strings
from hn_datasets.inspection.roles import as_splits
from hn_datasets.miner import HardNegativeMiner, TeacherLike
from hn_datasets.recipe import Recipe
from hn_datasets.record import MiningRecord
from hn_datasets.sources import load_source
from hn_datasets.store import EmbeddingStore
from hn_datasets.teachers.loading import teacher_from_spec
from hn_datasets.texts import Corpus, Digests, digest_texts

READ_ROWS = 10_000


def load_pairs(record: MiningRecord, mined: DatasetDict) -> Dataset | DatasetDict:
    """Return what was mined: the dataset of the Hub that the record names, or else the rows of the release."""
    if "repo_id" not in record.source:
        return mined
    given = {name: record.source.get(name) for name in ("config_name", "split", "revision")}
    return load_source(record.source["repo_id"], **given)


def _collect(
    pairs: Dataset | DatasetDict,
    recipe: Recipe,
    corpus: CorpusLike | None,
    corpus_column_name: str | None,
    store: EmbeddingStore,
) -> Corpus:
    """Return the corpus that the miner had: all positives, and the further passages."""
    names = resolve_columns(pairs, recipe.anchor_column_name, recipe.positive_column_name)
    positives = (block.positives for block in iter_pairs(pairs, *names, recipe.on_empty))
    further = iter_passages(corpus, corpus_column_name, recipe.on_empty) if corpus is not None else iter(())
    return Corpus.build(chain(positives, further), store.derived / "corpora")


def _rows_of(pairs: Dataset | DatasetDict, anchors: Digests, recipe: Recipe) -> Dataset:
    """Return all rows of some anchors: they decide which positives are known for them.

    Raises:
        DataSourceError: there is none.
    """
    name = recipe.anchor_column_name
    found = []
    for split in as_splits(pairs).values():
        start, numbers = 0, [np.empty(0, dtype=np.int64)]
        for table in split.select_columns([name]).with_format("arrow").iter(READ_ROWS) if len(split) else ():
            same = np.isin(digest_texts(as_strings(table[name])), anchors)
            numbers.append(start + np.flatnonzero(same))
            start += len(table)
        found.append(split.select_columns([name, recipe.positive_column_name]).select(np.concatenate(numbers)))
    rows = concatenate_datasets([part for part in found if len(part)] or found)
    if not len(rows):
        raise DataSourceError(
            "Expected the dataset that was mined, got one without any anchor of the sample; name the right one."
        )
    return rows


def rebuild_miner(
    pairs: Dataset | DatasetDict,
    anchors: list[str],
    recipe: Recipe,
    *,
    corpus: CorpusLike | None,
    corpus_column_name: str | None,
    teacher: TeacherLike | None,
    store: EmbeddingStore,
) -> HardNegativeMiner:
    """Return the miner of a recipe, for some anchors: all passages are encoded, but no other anchors.

    Args:
        pairs: all that was mined.
        anchors: n texts.
        recipe: every choice.
        corpus: further passages beside the positives of ``pairs``.
        corpus_column_name: the text column of ``corpus``.
        teacher: that of the recipe if None.
        store: where vectors are kept.

    Raises:
        DataSourceError: ``pairs`` has none of the anchors.
        ColumnError: ``pairs`` does not have the recipe's columns.
    """
    passages = _collect(pairs, recipe, corpus, corpus_column_name, store)
    # The passages of all pairs come as the corpus, so that the dataset may be cut down to the rows of these anchors.
    return HardNegativeMiner.from_dataset(
        _rows_of(pairs, digest_texts(anchors), recipe),
        teacher=teacher if teacher is not None else teacher_from_spec(recipe.teacher),
        corpus=Dataset(pa.table({"text": passages.column}), fingerprint=passages.digest),
        anchor_column_name=recipe.anchor_column_name,
        positive_column_name=recipe.positive_column_name,
        method=recipe.method,
        num_negatives=recipe.num_negatives,
        sampling=recipe.sampling,
        pool=recipe.pool,
        temperature=recipe.temperature,
        seed=recipe.seed,
        on_empty=recipe.on_empty,
        store=store,
    )
