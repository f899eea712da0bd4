"""The miner: a callable for ``dataset.map(..., batched=True)`` that adds a column of hard negatives."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
from datasets import Dataset, Features

from hn_datasets.approximate import ApproximateIndex, check_index, choose_index
from hn_datasets.collecting import Collected, collect_corpus, collect_dataset, iter_anchors
from hn_datasets.columns import AnyDataset, CorpusLike, resolve_columns
from hn_datasets.errors import ArgumentError
from hn_datasets.finished import FinishedRows, digest_rows
from hn_datasets.guards import Guard, Sources, describe_guards, guard_from_dict
from hn_datasets.methods import Method, TopKPercPos
from hn_datasets.modes import members_of
from hn_datasets.picking import Mined, mined_schema
from hn_datasets.preparing import (
    MORE_PASSAGES,
    check_guards,
    embed_texts,
    warn_of_replaced_columns,
    warn_of_short_rows,
    warn_of_weak_teacher,
)
from hn_datasets.recipe import ALGORITHM_VERSION, OnEmpty, Recipe, Sampling
from hn_datasets.row_mining import RowMiner
from hn_datasets.rows import Rows, answer_of, check_batched, columns_of
from hn_datasets.scoring import DenseScorer, open_scorer
from hn_datasets.store import EmbeddingStore
from hn_datasets.teachers.base import Scorer, Teacher
from hn_datasets.teachers.ensemble import EnsembleTeacher, list_members, named_errors
from hn_datasets.teachers.loading import as_teacher, teacher_from_spec
from hn_datasets.texts import AnchorPositives, Corpus, PassageGroups, Ragged, digest_of, no_lists

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TeacherLike: TypeAlias = "str | Path | SentenceTransformer | Teacher"


class HardNegativeMiner(RowMiner):
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

    _remedy = MORE_PASSAGES
    """How a corpus that is too small grows."""

    def __init__(
        self, recipe: Recipe, collected: Collected, store: EmbeddingStore, guards: Sequence[Guard] = ()
    ) -> None:
        self.recipe = replace(recipe, algorithm_version=ALGORITHM_VERSION)
        self.corpus: Corpus = collected.corpus
        self.store = store
        self.timings: dict[str, float] = {}
        self._positives = collected.positives
        self._groups = collected.groups
        self._guards = tuple(guards)
        warn_of_short_rows(recipe, len(self.corpus), stacklevel=4, remedy=self._remedy)

    @classmethod
    def from_dataset(  # noqa: PLR0913 - everything that decides the result
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
        relabel_candidates: bool = False,
        on_empty: OnEmpty = "error",
        index: str | None = None,
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
            relabel_candidates: add a column of suspected positives: those of the ``num_negatives`` best passages that
                the ceiling or ``SimilarToPositive`` keeps out, by the first teacher of an ensemble. Costs a search.
            on_empty: "error", or "skip" rows without a text.
            index: exact search if None or "exact"; "auto" or a FAISS factory string such as "IVF4096,SQ8" for
                approximate search of millions of passages, see ``Recipe``.
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
            teacher=teacher.spec() if isinstance(teacher, EnsembleTeacher) else {},
            method=method if method is not None else TopKPercPos(),
            num_negatives=num_negatives,
            sampling=sampling,
            pool=pool,
            temperature=temperature,
            seed=seed,
            guards=describe_guards(guards),
            relabel_candidates=relabel_candidates,
            anchor_column_name=anchor,
            positive_column_name=positive,
            on_empty=on_empty,
            index=index,
        )
        warn_of_replaced_columns(dataset, draft, stacklevel=2)
        if corpus is None and corpus_column_name is not None:
            raise ArgumentError("corpus_column_name has no effect without a corpus; leave it out.")
        ready = as_teacher(teacher, query_prompt=query_prompt, corpus_prompt=corpus_prompt, batch_size=batch_size)
        collect = partial(collect_dataset, dataset, corpus, corpus_column_name)
        return cls._build(draft, ready, guards, store, collect, iter_anchors(dataset, draft))

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
        relabel_candidates: bool = False,
        on_empty: OnEmpty = "error",
        index: str | None = None,
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
            teacher=teacher.spec() if isinstance(teacher, EnsembleTeacher) else {},
            method=method if method is not None else TopKPercPos(),
            num_negatives=num_negatives,
            sampling=sampling,
            pool=pool,
            temperature=temperature,
            seed=seed,
            guards=describe_guards(guards),
            relabel_candidates=relabel_candidates,
            anchor_column_name=anchor_column_name,
            positive_column_name=positive_column_name,
            on_empty=on_empty,
            index=index,
        )
        ready = as_teacher(teacher, query_prompt=query_prompt, corpus_prompt=corpus_prompt, batch_size=batch_size)
        collect = partial(collect_corpus, corpus, corpus_column_name)
        return cls._build(draft, ready, guards, store, collect, iter(()))

    @classmethod
    def _build(
        cls,
        draft: Recipe,
        teacher: Teacher,
        guards: Sequence[Guard],
        store: EmbeddingStore | str | Path | None,
        collect: Callable[[Recipe, Sequence[str], EmbeddingStore], Collected],
        anchors: Iterator[pa.Array],
    ) -> HardNegativeMiner:
        """Check what can be checked before anything is read, collect, and embed."""
        check_guards(guards, teacher, draft.method)
        check_index(draft.index, teacher)
        store = store if isinstance(store, EmbeddingStore) else EmbeddingStore(store)
        start = time.perf_counter()
        collected = collect(draft, [name for guard in guards for name in guard.columns], store)
        index = choose_index(draft.index, len(collected.corpus))
        miner = cls(replace(draft, teacher=teacher.spec(), index=index), collected, store, guards)
        miner.timings["collect"] = time.perf_counter() - start
        miner._prepare(teacher, anchors)
        return miner

    def positives_of(self, anchors: Sequence[str]) -> Ragged:
        """Return the corpus ids of all positives that the miner knows of each anchor, beside those of a row itself."""
        return self._positives.of(anchors) if self._positives is not None else no_lists(len(anchors))

    def with_method(self, method: Method, *, forget_positives: bool = False) -> HardNegativeMiner:
        """Return a miner with another method and everything else the same; nothing is embedded or indexed again.

        Args:
            method: the ceiling.
            forget_positives: know only the positives of the row itself, to try out what becomes of the others.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.__dict__.pop("_finished", None)  # the rows of this recipe
        other.recipe = replace(self.recipe, method=method)
        other._positives = None if forget_positives else self._positives
        return other

    def __call__(self, batch: Any) -> Any:
        """Return the added columns for a batch of rows.

        Args:
            batch: columns as lists, an Arrow table or a data frame; has to have the anchor and the positive column.

        Returns:
            ``negatives`` (texts, best first), ``negative_ids`` (int64, rows of the corpus), ``negative_scores``
            (float32, falling), ``positive_score`` (float32, the lowest of the row's positives), ``ceiling`` (float64,
            every negative is strictly below; inf if there is none) and ``top_score`` (float32, the best passage that is
            no positive, ceiling or not). With guards also ``guard_removals`` (int32): for each, how many passages it
            took out; an ensemble adds ``negative_teachers``, the name of each negative's teacher. A skipped row has no
            negatives and NaN. For an Arrow table or a data frame it is a table that has their columns too.

        Raises:
            ColumnError: a column is missing or holds no text, or the batch is one row.
            TextError: a text is None, empty or white space, and ``on_empty`` is "error".
        """
        mined = self._add_columns(self._read(batch), self._complete)
        return answer_of(batch, mined, self.features(Features()))

    @property
    def sources(self) -> Sources:
        """Where guards look things up."""
        return Sources(self.recipe, self.corpus, self.store, self._groups)

    @cached_property
    def _scorers(self) -> list[tuple[str | None, Scorer]]:
        """Name and scorer of every teacher of an ensemble, or the scorer of the one teacher, without a name."""
        # Whoever made the miner has had the teacher; a worker that was not forked only loads it again.
        teacher = teacher_from_spec(self.recipe.teacher, trust_remote_code=True)
        scorers: list[tuple[str | None, Scorer]] = []
        for name, member in list_members(teacher):
            with named_errors(name):
                scorers.append((name, open_scorer(member, self.corpus, self.store)))
        return scorers

    @cached_property
    def _index(self) -> ApproximateIndex | None:
        scorer = self.scorer
        if self.recipe.index is None or not isinstance(scorer, DenseScorer):
            return None
        return ApproximateIndex(scorer, self.recipe.index)

    def _prepare(self, teacher: Teacher, anchors: Iterator[pa.Array]) -> None:
        """Embed or index the corpus and the anchors, so that workers and later calls only read."""
        self._teacher = teacher
        for guard in self._guards:
            guard.prepare(self.sources)
        warn_of_weak_teacher(teacher, stacklevel=4)
        seconds = embed_texts(teacher, self.corpus, anchors, self.store)
        if seconds is not None:
            self.timings["encode"] = seconds
        start = time.perf_counter()
        _ = self._scorers, self._index
        self.timings["index"] = time.perf_counter() - start

    @cached_property
    def _finished(self) -> FinishedRows:
        schema = mined_schema(self.recipe.num_negatives, len(self._guards), bool(members_of(self.recipe.teacher)))
        positives = self._positives.digest if self._positives is not None else ""
        groups = [f"{name} {found.digest}" for name, found in sorted(self._groups.items())]
        key = digest_of(self.recipe.to_json(), self.corpus.digest, positives, *groups, schema.to_string())
        return FinishedRows(self.store.derived / "finished" / key, schema, len(self.corpus))

    def _complete(self, rows: Rows) -> Mined:
        """Return one block of rows, those of an earlier run as it has kept them."""
        digests = digest_rows(rows.anchors, rows.own, rows.columns)
        table = self._finished.complete(digests, lambda missing: self._mine(rows.take(missing)).to_table())
        return Mined.from_table(table)

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


class _BatchMiner(HardNegativeMiner):
    """A miner whose corpus is a batch."""

    _remedy = f"take larger batches, map(..., batch_size=None) for the whole split, {MORE_PASSAGES}"


class MineNegatives:
    """``mine_negatives``: mining as one function, for a quick try.

    An object and not a plain function, because ``map`` hashes an importable function by its name alone and would return
    the rows of an older version of this package.
    """

    def __call__(self, batch: Any, *, teacher: TeacherLike = "BAAI/bge-m3", **arguments: Any) -> Any:
        """Mine negatives for the rows of a batch **from the positives of that batch alone**.

        ``ds.map(mine_negatives, batched=True)`` works as it stands, with 1,000 rows as the corpus of each row;
        ``batch_size=None`` makes it the whole split. ``HardNegativeMiner.from_dataset`` has one corpus for all batches,
        and is the better choice for training data.

        Args:
            batch: as for the miner; the first two text columns are anchors and positives unless named.
            teacher: as for ``HardNegativeMiner.from_dataset``.
            arguments: the other arguments of ``HardNegativeMiner.from_dataset``, by name; pass them to ``map`` as
                ``fn_kwargs={"teacher": "bm25", "num_negatives": 2}``.

        Raises:
            HNDatasetsError: as ``HardNegativeMiner.from_dataset``.
        """
        columns = columns_of(batch)
        check_batched(columns.values())
        rows = {name: list(values) for name, values in columns.items()}
        with tempfile.TemporaryDirectory() as folder:
            store = arguments.pop("store", None)
            directory = store.directory if isinstance(store, EmbeddingStore) else store
            miner = _BatchMiner.from_dataset(
                Dataset.from_dict(rows), teacher=teacher, store=EmbeddingStore(directory, derived=folder), **arguments
            )
            return answer_of(batch, miner(rows), miner.features(Features()))

    def __getstate__(self) -> dict[str, int]:
        return {"algorithm_version": ALGORITHM_VERSION}


mine_negatives = MineNegatives()
