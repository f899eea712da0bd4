"""Dense scores: products of stored vectors, fast in tiles and exact in pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

from hn_datasets.store import EmbeddingStore
from hn_datasets.teachers.base import Encoder, Floats, Ids, Ranker, Scorer, Teacher
from hn_datasets.texts import Corpus
from hn_datasets.threads import is_forked, over_rows

FLOAT32_ROUNDING = 2.0**-24
NORM_ROWS = 65_536


class DenseScorer:
    """An encoder with one corpus, whose vectors lie in one memory-mapped matrix.

    Args:
        encoder: the teacher; asked only for vectors that the store lacks.
        corpus: the passages; all of them have to be in the store.
        store: where the vectors are.
        device: where the products are computed; CUDA if there is one, else the CPU, if None.
    """

    def __init__(
        self, encoder: Encoder, corpus: Corpus, store: EmbeddingStore, device: str | torch.device | None = None
    ) -> None:
        self.encoder = encoder
        self.store = store
        self.num_passages = len(corpus)
        self.passages = store.matrix(encoder, corpus)
        cuda = torch.cuda.is_available() and not is_forked()
        self.device = torch.device(device if device is not None else "cuda" if cuda else "cpu")

    def scores(self, anchors: Sequence[str]) -> DenseScores:
        """Return the scores of these anchors against the corpus."""
        if is_forked() and torch.get_num_threads() > 1:
            torch.set_num_threads(1)  # the threads of the parent did not come along, and waiting for them never ends
        return DenseScores(self, self.store.vectors(self.encoder, "anchor", list(anchors)))

    @cached_property
    def largest_norm(self) -> float:
        """Upper bound of the length of a passage's vector."""
        if self.encoder.similarity == "cosine":
            return 1.002
        starts = range(0, self.num_passages, NORM_ROWS)
        return (
            max(float(np.linalg.norm(self.passages[start : start + NORM_ROWS], axis=1).max()) for start in starts)
            * 1.001
        )


class DenseScores:
    """The scores of a block of anchors; see ``teachers.base.Scores``.

    ``pairs`` and ``of_texts`` sum float64 products in one order and round once to float32. ``tile`` is a float32 matrix
    product, which may differ from that by the rounding of a sum of d products (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1): at most d / 2**24 times the lengths of both vectors.
    """

    def __init__(self, scorer: DenseScorer, anchors: Floats) -> None:
        self._scorer = scorer
        self._anchors = anchors
        self._block = torch.from_numpy(anchors).to(scorer.device)
        unit = (anchors.shape[1] + 2) * FLOAT32_ROUNDING
        bound = unit / (1 - unit) * scorer.largest_norm
        self.slack: Floats = (np.linalg.norm(anchors, axis=1) * 1.001 * bound).astype(np.float32)

    def tile(self, start: int, stop: int) -> Floats | torch.Tensor:
        """Return ``[num_anchors, stop - start]`` float32: an array on the CPU, a tensor on another device."""
        passages = np.array(self._scorer.passages[start:stop])
        with _float32_products():
            tile = self._block @ torch.from_numpy(passages).to(self._scorer.device).T
        return tile.numpy() if tile.device.type == "cpu" else tile

    def pairs(self, rows: Ids, ids: Ids) -> Floats:
        """Return the score of each (anchor row, passage id) pair, shape ``[n]``, float32."""
        return dot_products(self._anchors, self._scorer.passages, rows, ids)

    def of_texts(self, rows: Ids, texts: Sequence[str]) -> Floats:
        """Return the score of each (anchor row, text) pair, shape ``[n]``, float32."""
        passages = self._scorer.store.vectors(self._scorer.encoder, "passage", list(texts))
        return dot_products(self._anchors, passages, rows, np.arange(len(texts)))


def open_scorer(teacher: Teacher, corpus: Corpus, store: EmbeddingStore) -> Scorer:
    """Return a teacher with one corpus, ready to score."""
    if isinstance(teacher, Ranker):
        return teacher.scorer(corpus, store.derived / "bm25")
    if isinstance(teacher, Encoder):
        return DenseScorer(teacher, corpus, store)
    raise TypeError(f"Expected an Encoder or a Ranker, got {type(teacher).__name__}.")


def dot_products(anchors: Floats, passages: Floats, rows: Ids, ids: Ids) -> Floats:
    """Return the product of ``anchors[rows[i]]`` and ``passages[ids[i]]`` for every i, shape ``[n]``, float32."""
    products = np.empty(len(rows), dtype=np.float32)
    over_rows(lambda begin, end: _dot_products(anchors, passages, rows, ids, products, begin, end), len(rows))
    return products


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _dot_products(
    anchors: Any,
    passages: Any,
    rows: Any,
    ids: Any,
    products: npt.NDArray[np.float32],
    begin: int,
    end: int,
) -> None:
    for number in range(begin, end):
        anchor, passage = anchors[rows[number]], passages[ids[number]]
        total = 0.0
        for component in range(anchor.shape[0]):
            total += np.float64(anchor[component]) * np.float64(passage[component])
        products[number] = np.float32(total)


@contextlib.contextmanager
def _float32_products() -> Iterator[None]:
    """Keep matrix products in float32 where the user has allowed TF32 or bfloat16: the slack counts on it."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
