"""The guard that lets a cross-encoder judge what the teacher has found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hn_datasets.errors import ArgumentError
from hn_datasets.guards.base import Block, Guard, Sieve, Sources
from hn_datasets.methods import Method
from hn_datasets.teachers.base import Floats, Ids, Teacher
from hn_datasets.teachers.cross_encoder import PairScorer, digest_pairs, join_pair
from hn_datasets.texts import Digests, digest_texts

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

MOST_POOLS = 8
"""A row that is not full after so many times ``pool`` candidates stays short: nearly all of them are right answers."""

CALL_PAIRS = 16_384
"""Pairs whose texts are held at once."""


@dataclass(frozen=True, init=False)
class CrossEncoderGuard(Guard):
    """Leaves out what a cross-encoder takes for a right answer: the denoising of RocketQA (arXiv 2010.08191).

    The best ``pool`` passages of a row and its positives are scored by a CrossEncoder of sentence-transformers, in
    large batches across rows. The recipe's method gives a ceiling for the lowest of the positives' scores, and a
    passage at or above it is left out. Where a row is not full then, twice as many are scored, up to 8 times ``pool``;
    a row that still is not stays short. Scores are kept in the store like vectors, so that a second run computes none
    of them again.

    Args:
        model: a name on the Hub, a folder, or a loaded CrossEncoder (which is not changed); it needs one label.
        pool: how many of the best passages of a row are scored at once.
        batch_size: pairs per forward pass; 32 if None.
        max_length: pairs are cut after so many tokens; the model's own length if None.
        revision: branch, tag or commit on the Hub.
        device: where the model is loaded. On a GPU, ``map`` has to run in one process.

    Raises:
        TeacherError: the model cannot be loaded.
        ArgumentError: the model has several labels, or an argument is out of range; or the method has no ceiling.
        VectorError: a score is NaN or infinite.
    """

    model: str
    revision: str | None
    weights: str
    max_length: int | None
    pool: int
    name: ClassVar[str] = "cross-encoder"
    sifts: ClassVar[bool] = True

    def __init__(
        self,
        model: str | Path | CrossEncoder,
        *,
        pool: int = 32,
        batch_size: int | None = None,
        max_length: int | None = None,
        revision: str | None = None,
        device: str | None = None,
    ) -> None:
        if not isinstance(pool, int) or isinstance(pool, bool) or pool < 1:
            raise ArgumentError(f"CrossEncoderGuard needs a pool of at least 1, got {pool!r}.")
        scorer = PairScorer(model, max_length=max_length, batch_size=batch_size, revision=revision, device=device)
        self._set(pool, scorer)

    def _set(self, pool: int, scorer: PairScorer) -> None:
        for name, value in {**scorer.spec(), "pool": pool, "scorer": scorer}.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Return the guard of a recipe; its model is loaded when the first pair has to be scored."""
        return cls.__new__(cls)._with(**settings)

    def _with(self, *, model: str, revision: str | None, weights: str, max_length: int | None, pool: int) -> Self:
        spec = {"model": model, "revision": revision, "weights": weights, "max_length": max_length}
        self._set(pool, PairScorer.from_spec(spec))
        return self

    def check(self, teacher: Teacher, method: Method) -> None:
        """Refuse a method without a ceiling, and a model that cannot be loaded or gives no numbers."""
        if np.isinf(method.ceiling(np.zeros(1, dtype=np.float32))).any():
            raise ArgumentError(
                f"CrossEncoderGuard has no effect with {type(method).__name__}, which has no ceiling; choose a method "
                "that has one, such as TopKPercPos, or leave the guard out."
            )
        self._scorer.check()

    @property
    def _scorer(self) -> PairScorer:
        scorer: PairScorer = self.__dict__["scorer"]
        return scorer

    def sieve(self, block: Block, sources: Sources) -> Sieve:
        """Return what scores candidates, and compares them with the row's ceiling."""
        return _Rescoring(block, sources, self._scorer, max(self.pool, sources.recipe.pool_size))


class _Rescoring:
    """Refuses candidates at or above the ceiling for the cross-encoder's score of the row's lowest positive."""

    def __init__(self, block: Block, sources: Sources, scorer: PairScorer, pool: int) -> None:
        self.num_candidates = pool
        self.most_candidates = MOST_POOLS * pool
        self._sources = sources
        self._scorer = scorer
        self._anchors = block.anchors
        self._digests = digest_texts(block.anchors)
        rows = np.repeat(np.arange(len(block.anchors)), [len(texts) for texts in block.positives])
        texts = list(chain.from_iterable(block.positives))
        lowest = np.full(len(block.anchors), np.inf, dtype=np.float32)
        scores = self._scores(rows, digest_texts(texts), lambda places: [texts[place] for place in places.tolist()])
        np.minimum.at(lowest, rows, scores)
        self._ceilings = sources.recipe.method.ceiling(lowest)
        self._pairs = np.empty(0, dtype=np.int64)
        self._refused = np.empty(0, dtype=bool)

    def prepare(self, rows: Ids, ids: Ids) -> None:
        """Score all candidates."""
        places, columns = np.nonzero(ids >= 0)
        owners, passages = rows[places], ids[places, columns]
        corpus = self._sources.corpus
        scores = self._scores(owners, corpus.digests_of(passages), lambda places: corpus.texts(passages[places]))
        refused = scores >= self._ceilings[owners]
        pairs = owners * len(corpus) + passages
        order = np.argsort(pairs)
        self._pairs, self._refused = pairs[order], refused[order]

    def refuses(self, rows: Ids, ids: Ids, kept: Ids) -> npt.NDArray[np.bool_]:
        """Return which candidates are at or above the ceiling."""
        pairs = rows * len(self._sources.corpus) + ids
        return np.asarray(self._refused[np.searchsorted(self._pairs, pairs)])

    def _scores(self, rows: Ids, digests: Digests, texts: Callable[[Ids], list[str]]) -> Floats:
        """Return the score of each (row, passage) pair, shape ``[n]``, from the store where it is there.

        Args:
            rows: shape ``[n]``.
            digests: of the passages, shape ``[n]``.
            texts: gives the passages at some places.
        """
        store, keys = self._sources.store, digest_pairs(self._digests[rows], digests)
        missing = store.space(self._scorer, "pair").missing(keys)
        for start in range(0, len(missing), CALL_PAIRS):
            part = missing[start : start + CALL_PAIRS]
            joined = [
                join_pair(self._anchors[row], text) for row, text in zip(rows[part].tolist(), texts(part), strict=True)
            ]
            store.embed(self._scorer, "pair", pa.array(joined, pa.large_string()), keys[part])
        return store.space(self._scorer, "pair").vectors(keys)[:, 0]
