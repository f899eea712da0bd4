"""The miner: a callable for ``dataset.map(..., batched=True)`` that adds a column of hard negatives."""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from sentence_transformers import SentenceTransformer

from hn_datasets.collecting import Collected, collect_corpus, collect_dataset, iter_anchors
from hn_datasets.columns import AnyDataset, CorpusLike, resolve_columns
from hn_datasets.errors import ArgumentError, ShortRowsWarning, WeakTeacherWarning
from hn_datasets.guards import Guard, Sources, describe_guards, guard_from_dict
from hn_datasets.methods import Method, TopKPercPos
from hn_datasets.picking import Mined, mine_block, open_block
from hn_datasets.recipe import ALGORITHM_VERSION, OnEmpty, Recipe, Sampling
from hn_datasets.rows import Rows, read_rows
from hn_datasets.scoring import open_scorer
from hn_datasets.store import EmbeddingStore
from hn_datasets.teachers.base import Encoder, Ids, Ranker, Scorer, Teacher
from hn_datasets.teachers.loading import as_teacher, teacher_from_spec
from hn_datasets.texts import AnchorPositives, Corpus, PassageGroups, Ragged, digest_texts

BLOCK_ROWS = 2048
"""Anchors searched at once: tiles of 2,048 x 4,096 scores were the fastest on two cores."""

BLOCK_EXCLUDED = 1 << 22
"""Passages that guards may list for the rows of a block, all together: 32 MiB of ids."""

MINED_FEATURES = Features(
    {
        "negatives": List(Value("string")),
        "negative_ids": List(Value("int64")),
        "negative_scores": List(Value("float32")),
        "positive_score": Value("float32"),
        "ceiling": Value("float64"),
        "top_score": Value("float32"),
    }
)
"""The columns that mining adds."""

GUARD_FEATURES = Features({"guard_removals": List(Value("int32"))})
"""Added with guards: for each, how many passages it takes out; see ``picking.Mined``."""

TeacherLike = str | Path | SentenceTransformer | Teacher


class HardNegativeMiner:
    """Adds hard negatives to batches of (anchor, positive) rows; made by ``from_dataset`` or ``from_corpus``.

    It travels to other processes, and into the fingerprint of ``map``, as its recipe and the paths of the files that
    hold its corpus; models, indexes and memory maps are opened again where they are needed.

    Attributes:
        recipe: every choice that decides the result.
        corpus: the distinct passages; ``miner.corpus[id]`` is the text of a negative, ``miner.corpus.ids(texts)`` the
            ids of texts.
        store: where the vectors are.
        timings: seconds of each stage of the building.
    """

    def __init__(
        self, recipe: Recipe, collected: Collected, store: EmbeddingStore, guards: Sequence[Guard] = ()
    ) -> None:
        self.recipe = replace(recipe, algorithm_version=ALGORITHM_VERSION)
        self.corpus = corpus = collected.corpus
        self.store = store
        self.timings: dict[str, float] = {}
        self._positives = collected.positives
        self._groups = collected.groups
        self._guards = tuple(guards)
        wanted = recipe.method.skip + recipe.pool_size
        if len(corpus) <= wanted:
            warnings.warn(
                f"The corpus has {len(corpus):,} distinct passages, a row can need {wanted:,} besides its positives: "
                "rows will come out short; add passages by corpus=..., or ask for fewer negatives.",
                ShortRowsWarning,
                stacklevel=3,
            )

    @classmethod
    def from_dataset(
        cls,
        dataset: AnyDataset,
        *,
        teacher: TeacherLike,
        corpus: CorpusLike | None = None,
        corpus_column_name: str | None = None,
        anchor_column_name: str | None = None,
        positive_column_name: str | None = None,
        method: Method | None = None,
        num_negatives: int = 4,
        sampling: Sampling = "top",
        pool: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        guards: Sequence[Guard] = (),
        on_empty: OnEmpty = "error",
        query_prompt: str | None = None,
        corpus_prompt: str | None = None,
        batch_size: int | None = None,
        store: EmbeddingStore | str | Path | None = None,
    ) -> HardNegativeMiner:
        """Collect the corpus and all positives of every anchor, and embed what the store lacks.

        Next comes ``mined = dataset.map(miner, batched=True)``, which adds the negatives to every row.

        Args:
            dataset: Dataset, DatasetDict (one corpus for all splits) or a finite IterableDataset.
            teacher: a model name or folder, a SentenceTransformer, "bm25", or a teacher object, for Korean for
                instance ``BM25Teacher(tokenizer="kiwi")``.
            corpus: further passages beside the positives: strings, a dataset, or a Parquet or JSON Lines path.
            corpus_column_name: the text column of ``corpus``.
            anchor_column_name: a column of strings; the first text column if None.
            positive_column_name: a column of strings or lists of strings; the next text column if None.
            method: the ceiling; ``TopKPercPos(0.95)`` if None.
            num_negatives: negatives per row.
            sampling: see ``Recipe``, as are ``pool``, ``temperature``, ``seed`` and ``on_empty``.
            pool: how many of the best passages are drawn from.
            temperature: of the softmax.
            seed: of everything that is drawn.
            guards: rules that keep likely false negatives out, for instance ``(SimilarToPositive(),)``.
            on_empty: "error", or "skip" rows without a text.
            query_prompt: see ``DenseTeacher``, as are ``corpus_prompt`` and ``batch_size``.
            corpus_prompt: put before every passage.
            batch_size: texts per forward pass of the teacher.
            store: where vectors are kept; ``HN_DATASETS_CACHE``, or a folder below ``HF_HOME``, if None.

        Raises:
            ArgumentError: an argument is out of range, contradicts another one, or has no effect.
            ColumnError: a column is missing, named twice, or holds no text.
            TextError: a text is None, empty or white space; names the rows.
            TeacherError: the teacher cannot be loaded.
            VectorError: the teacher gives vectors of another shape, or NaN.
            StoreError: the store cannot be written.
        """
        anchor, positive = resolve_columns(dataset, anchor_column_name, positive_column_name)
        draft = Recipe(
            teacher={},
            method=method if method is not None else TopKPercPos(),
            num_negatives=num_negatives,
            sampling=sampling,
            pool=pool,
            temperature=temperature,
            seed=seed,
            guards=describe_guards(guards),
            anchor_column_name=anchor,
            positive_column_name=positive,
            on_empty=on_empty,
        )
        if corpus is None and corpus_column_name is not None:
            raise ArgumentError("corpus_column_name has no effect without a corpus; leave it out.")
        ready = as_teacher(teacher, query_prompt=query_prompt, corpus_prompt=corpus_prompt, batch_size=batch_size)
        for guard in guards:
            guard.check(ready, draft.method)
        store = store if isinstance(store, EmbeddingStore) else EmbeddingStore(store)
        columns = [name for guard in guards for name in guard.columns]
        start = time.perf_counter()
        collected = collect_dataset(dataset, corpus, corpus_column_name, draft, columns, store)
        miner = cls(replace(draft, teacher=ready.spec()), collected, store, guards)
        miner.timings["collect"] = time.perf_counter() - start
        miner._prepare(ready, iter_anchors(dataset, draft))
        return miner

    @classmethod
    def from_corpus(
        cls,
        corpus: CorpusLike,
        *,
        teacher: TeacherLike,
        corpus_column_name: str | None = None,
        anchor_column_name: str = "anchor",
        positive_column_name: str = "positive",
        method: Method | None = None,
        num_negatives: int = 4,
        sampling: Sampling = "top",
        pool: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        guards: Sequence[Guard] = (),
        on_empty: OnEmpty = "error",
        query_prompt: str | None = None,
        corpus_prompt: str | None = None,
        batch_size: int | None = None,
        store: EmbeddingStore | str | Path | None = None,
    ) -> HardNegativeMiner:
        """Embed a corpus; anchors and positives are embedded as they come, as for a stream.

        A positive need not be in the corpus. Only the positives of its own row are known for an anchor: where anchors
        occur in several rows, use ``from_dataset``. Arguments and errors are those of ``from_dataset``.
        """
        draft = Recipe(
            teacher={},
            method=method if method is not None else TopKPercPos(),
            num_negatives=num_negatives,
            sampling=sampling,
            pool=pool,
            temperature=temperature,
            seed=seed,
            guards=describe_guards(guards),
            anchor_column_name=anchor_column_name,
            positive_column_name=positive_column_name,
            on_empty=on_empty,
        )
        ready = as_teacher(teacher, query_prompt=query_prompt, corpus_prompt=corpus_prompt, batch_size=batch_size)
        for guard in guards:
            guard.check(ready, draft.method)
        store = store if isinstance(store, EmbeddingStore) else EmbeddingStore(store)
        columns = [name for guard in guards for name in guard.columns]
        start = time.perf_counter()
        collected = collect_corpus(corpus, corpus_column_name, draft, columns, store)
        miner = cls(replace(draft, teacher=ready.spec()), collected, store, guards)
        miner.timings["collect"] = time.perf_counter() - start
        miner._prepare(ready, iter(()))
        return miner

    def features(self, features: Features) -> Features:
        """Return the features of the mined dataset: those given, and the added columns."""
        return Features({**features, **MINED_FEATURES, **(GUARD_FEATURES if self._guards else {})})

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Return the added columns for a batch of rows.

        Args:
            batch: columns as lists; has to have the anchor and the positive column.

        Returns:
            ``negatives`` (texts, best first), ``negative_ids`` (int64, rows of the corpus), ``negative_scores``
            (float32, falling), ``positive_score`` (float32, the lowest of the row's positives), ``ceiling`` (float64,
            every negative is strictly below; inf if there is none) and ``top_score`` (float32, the best passage that is
            no positive, ceiling or not). With guards also ``guard_removals`` (int32): for each, how many passages it
            took out. A skipped row has no negatives and NaN.

        Raises:
            ColumnError: a column is missing or holds no text.
            TextError: a text is None, empty or white space, and ``on_empty`` is "error".
        """
        further = [name for guard in self._guards for name in guard.columns]
        rows = read_rows(batch, self.recipe, further)
        blocks = rows.blocks(self._block_rows)
        return self._columns([(block.kept, self._mine(block)) for block in blocks], rows.num_rows)

    @cached_property
    def _scorer(self) -> Scorer:
        # Whoever made the miner has had the teacher; a worker that was not forked only loads it again.
        teacher = teacher_from_spec(self.recipe.teacher, trust_remote_code=True)
        return open_scorer(teacher, self.corpus, self.store)

    @property
    def _sources(self) -> Sources:
        return Sources(self.recipe, self.corpus, self.store, self._groups)

    @cached_property
    def _block_rows(self) -> int:
        most = sum(guard.most_excluded(self._sources) for guard in self._guards)
        return min(BLOCK_ROWS, max(1, BLOCK_EXCLUDED // max(1, most)))

    def _prepare(self, teacher: Teacher, anchors: Iterator[pa.Array]) -> None:
        """Embed or index the corpus and the anchors, so that workers and later calls only read."""
        self._teacher = teacher
        for guard in self._guards:
            guard.prepare(self._sources)
        if isinstance(teacher, Ranker):
            warnings.warn(
                "BM25 is the only teacher: in NV-Retriever's comparison its negatives trained a student worse (0.5002) "
                "than random ones (0.5248), dense teachers better (0.5494 to 0.5810); see arXiv 2407.15831.",
                WeakTeacherWarning,
                stacklevel=3,
            )
        start = time.perf_counter()
        if isinstance(teacher, Encoder):
            self.store.embed(teacher, "passage", self.corpus.column, self.corpus.digests)
            chunks = list(anchors)
            if chunks:
                texts = pa.chunked_array(chunks)
                self.store.embed(teacher, "anchor", texts, digest_texts(texts.to_pylist()))
            self.timings["encode"] = time.perf_counter() - start
            start = time.perf_counter()
        _ = self._scorer
        self.timings["index"] = time.perf_counter() - start

    def _mine(self, rows: Rows) -> Mined:
        """Mine one block of rows."""
        anchors = rows.anchors
        known = self._positives.of(anchors) if self._positives is not None else _no_lists(len(anchors))
        scores = self._scorer.scores(anchors)
        block = open_block(scores, anchors, rows.own, known, self.corpus, rows.columns)
        return mine_block(block, self._scorer, self._guards, self._sources)

    def _columns(self, mined: list[tuple[Ids, Mined]], num_rows: int) -> dict[str, Any]:
        """Return the columns; arrays carry their type into the dataset, also where all lists are empty."""
        k = self.recipe.num_negatives
        ids = np.full((num_rows, k), -1, dtype=np.int64)
        scores = np.full((num_rows, k), np.nan, dtype=np.float32)
        positive_scores, top_scores = (np.full(num_rows, np.nan, dtype=np.float32) for _ in range(2))
        ceilings = np.full(num_rows, np.nan)
        removals = np.zeros((num_rows, len(self._guards)), dtype=np.int32)
        for rows, part in mined:
            ids[rows, : part.found.ids.shape[1]] = part.found.ids
            scores[rows, : part.found.ids.shape[1]] = part.found.scores
            positive_scores[rows], top_scores[rows] = part.positive_scores, part.top_scores
            ceilings[rows], removals[rows] = part.ceilings, part.removals
        return {
            "negatives": self._texts(ids),
            "negative_ids": _lists(ids, ids),
            "negative_scores": _lists(scores, ids),
            "positive_score": list(positive_scores),
            "ceiling": list(ceilings),
            "top_score": list(top_scores),
            **({"guard_removals": list(removals)} if self._guards else {}),
        }

    def _texts(self, ids: Ids) -> list[Any]:
        """Return the texts of passages as lists; -1 stands for none."""
        counts = (ids >= 0).sum(axis=1).tolist()
        texts = iter(self.corpus.texts(ids[ids >= 0]))
        if not any(counts):  # lists that are all empty have no type of their own
            return [np.empty(0, dtype=np.str_) for _ in counts]
        return [[next(texts) for _ in range(count)] for count in counts]

    def __getstate__(self) -> dict[str, str | None]:
        """Return only strings: they hash alike in every process, and any process can open what they name."""
        return {
            "recipe": self.recipe.to_json(),
            "corpus": str(self.corpus.path),
            "positives": str(self._positives.path) if self._positives is not None else None,
            "groups": json.dumps({name: str(groups.path) for name, groups in sorted(self._groups.items())}),
            "store": str(self.store.directory),
            "derived": str(self.store.derived),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.recipe = Recipe.from_json(state["recipe"])
        self.corpus = Corpus(Path(state["corpus"]))
        self._positives = AnchorPositives(Path(state["positives"])) if state["positives"] else None
        self._groups = {name: PassageGroups(Path(path)) for name, path in json.loads(state["groups"]).items()}
        self.store = EmbeddingStore(state["store"], derived=state["derived"])
        self.timings = {}
        self._guards = tuple(guard_from_dict(guard) for guard in self.recipe.guards)


class MineNegatives:
    """``mine_negatives``: mining as one function, for a quick try.

    An object and not a plain function, because ``map`` hashes an importable function by its name alone and would return
    the rows of an older version of this package.
    """

    def __call__(
        self, batch: Mapping[str, Sequence[Any]], *, teacher: TeacherLike = "BAAI/bge-m3", **arguments: Any
    ) -> dict[str, list[Any]]:
        """Mine negatives for the rows of a batch **from the positives of that batch alone**.

        ``ds.map(mine_negatives, batched=True)`` works as it stands, with 1,000 rows as the corpus of each row;
        ``batch_size=None`` makes it the whole split. ``HardNegativeMiner.from_dataset`` has one corpus for all batches,
        and is the better choice for training data.

        Args:
            batch: columns as lists; the first two text columns are anchors and positives unless named.
            teacher: as for ``HardNegativeMiner.from_dataset``.
            arguments: the other arguments of ``HardNegativeMiner.from_dataset``, by name; pass them to ``map`` as
                ``fn_kwargs={"teacher": "bm25", "num_negatives": 2}``.

        Raises:
            HNDatasetsError: as ``HardNegativeMiner.from_dataset``.
        """
        rows = {name: list(values) for name, values in batch.items()}
        with tempfile.TemporaryDirectory() as folder:
            store = arguments.pop("store", None)
            directory = store.directory if isinstance(store, EmbeddingStore) else store
            miner = HardNegativeMiner.from_dataset(
                Dataset.from_dict(rows), teacher=teacher, store=EmbeddingStore(directory, derived=folder), **arguments
            )
            return miner(rows)

    def __getstate__(self) -> dict[str, int]:
        return {"algorithm_version": ALGORITHM_VERSION}


mine_negatives = MineNegatives()


def _lists(values: npt.NDArray[Any], ids: Ids) -> Any:
    """Return values (``[n, k]``) as one array, which becomes a column at once, or as arrays where rows are short."""
    counts = (ids >= 0).sum(axis=1)
    if len(ids) and (counts == ids.shape[1]).all():
        return values
    return [row[:count] for row, count in zip(values, counts.tolist(), strict=True)]


def _no_lists(num_rows: int) -> Ragged:
    return Ragged(np.zeros(num_rows + 1, dtype=np.int64), np.empty(0, dtype=np.int64))
