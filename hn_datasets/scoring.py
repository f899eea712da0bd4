"""Dense scores: products of stored vectors, fast in tiles and exact in pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

from hn_datasets.files import is_intact, write_checked
from hn_datasets.store import EmbeddingStore
from hn_datasets.teachers.base import Encoder, Floats, Ids, Ranker, Scorer, Teacher
from hn_datasets.texts import Corpus, digest_of
from hn_datasets.threads import is_forked, over_rows

FLOAT32_ROUNDING = 2.0**-24
NORM_ROWS = 16_384
TINY = 1e-30
"""More than is lost where a processor takes the smallest numbers for 0."""


class DenseScorer:
    """An encoder with one corpus, whose vectors lie in one memory-mapped matrix.

    Args:
        encoder: the teacher; asked only for vectors that the store lacks.
        corpus: the passages; all of them have to be in the store.
        store: where the vectors are.
        device: where the products are computed; CUDA if there is one, else the CPU, if None.
        precision: of the products in tiles; bfloat16 on a CPU that multiplies it directly, else float32, if None.

    Raises:
        StoreError: the matrix cannot be written.
    """

    def __init__(
        self,
        encoder: Encoder,
        corpus: Corpus,
        store: EmbeddingStore,
        device: str | torch.device | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        self.encoder = encoder
        self.store = store
        self.num_passages = len(corpus)
        self.passages = store.matrix(encoder, corpus)
        cuda = torch.cuda.is_available() and not is_forked()
        self.device = torch.device(device if device is not None else "cuda" if cuda else "cpu")
        fast = torch.bfloat16 if self.device.type == "cpu" and _has_fast_bfloat16() else torch.float32
        self.precision = precision or fast
        path = Path(str(getattr(self.passages, "filename")))  # noqa: B009 - an ndarray, for the type checker
        if self.precision == torch.bfloat16:
            path = _write_rounded(self.passages, digest_of(path.name, "bfloat16"), path.parent)
        # Private pages, because torch wants memory that it may write to; it never does.
        matrix = torch.from_numpy(np.load(path, mmap_mode="c"))
        self.matrix = matrix.view(torch.bfloat16) if self.precision == torch.bfloat16 else matrix

    def scores(self, anchors: Sequence[str]) -> DenseScores:
        """Return the scores of these anchors against the corpus."""
        if is_forked() and torch.get_num_threads() > 1:
            torch.set_num_threads(1)  # the threads of the parent did not come along, and waiting for them never ends
        return DenseScores(self, self.store.vectors(self.encoder, "anchor", list(anchors)))

    @cached_property
    def largest(self) -> tuple[float, float]:
        """Upper bounds of a passage's length, and of the length of what rounding to ``precision`` takes from it."""
        lengths, losses = 0.0, 0.0
        for start in range(0, self.num_passages, NORM_ROWS):
            rows = slice(start, start + NORM_ROWS)
            length, loss = _lengths(self.passages[rows], self.matrix[rows]).max(axis=1).tolist()
            lengths, losses = max(lengths, length), max(losses, loss)
        return lengths, losses


class DenseScores:
    """The scores of a block of anchors; see ``teachers.base.Scores``.

    ``pairs`` and ``of_texts`` sum float64 products in one order and round once to float32. ``tile`` may be off by what
    rounding the vectors changes: for a' = a - e and b' = b - f, a'b' differs from ab by at most |e||b| + |a'||f|
    (Cauchy and Schwarz), with e and f measured. Adding up d float32 products takes at most d / 2**24 times the lengths
    of both vectors in float32 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), and at most twice
    that in instructions that add pairs of bfloat16 products.
    """

    def __init__(self, scorer: DenseScorer, anchors: Floats) -> None:
        self._scorer = scorer
        self.num_passages = scorer.num_passages
        self.anchors = anchors
        self._block = torch.from_numpy(anchors).to(scorer.device, scorer.precision)
        lengths, losses = _lengths(anchors, self._block.cpu())
        largest_length, largest_loss = scorer.largest
        adding = 2 * (anchors.shape[1] + 2) * FLOAT32_ROUNDING
        slack = losses * largest_length + (lengths + losses) * (largest_loss + 1.01 * adding * largest_length)
        self.slack: Floats = (slack + TINY).astype(np.float32)

    def of_rows(self, rows: Ids) -> DenseScores:
        """Return the scores of some of the anchors."""
        return DenseScores(self._scorer, self.anchors[rows])

    def tile(self, start: int, stop: int) -> Floats | torch.Tensor:
        """Return ``[num_anchors, stop - start]``: a float32 array, or a tensor for bfloat16 or another device."""
        passages = self._scorer.matrix[start:stop].to(self._scorer.device).T
        with float32_products():
            if self._scorer.device.type != "cpu":
                return self._block @ passages
            tile = torch.empty(len(self._block), stop - start, dtype=self._scorer.precision)
            over_rows(lambda begin, end: _multiply(self._block[begin:end], passages, tile[begin:end]), len(tile))
        return tile.numpy() if tile.dtype == torch.float32 else tile

    def pairs(self, rows: Ids, ids: Ids) -> Floats:
        """Return the score of each (anchor row, passage id) pair, shape ``[n]``, float32."""
        return dot_products(self.anchors, self._scorer.passages, rows, ids)

    def of_texts(self, rows: Ids, texts: Sequence[str]) -> Floats:
        """Return the score of each (anchor row, text) pair, shape ``[n]``, float32."""
        passages = self._scorer.store.vectors(self._scorer.encoder, "passage", list(texts))
        return dot_products(self.anchors, passages, rows, np.arange(len(texts)))


def open_scorer(teacher: Teacher, corpus: Corpus, store: EmbeddingStore) -> Scorer:
    """Return a teacher with one corpus, ready to score."""
    if isinstance(teacher, Ranker):
        return teacher.scorer(corpus, store.derived / "bm25")
    if isinstance(teacher, Encoder):
        return DenseScorer(teacher, corpus, store)
    raise TypeError(f"Expected an Encoder or a Ranker, got {type(teacher).__name__}.")


def _multiply(anchors: torch.Tensor, passages: torch.Tensor, tile: torch.Tensor) -> None:
    torch.mm(anchors, passages, out=tile)


def _has_fast_bfloat16() -> bool:
    """Return whether this processor has instructions for products of bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _write_rounded(passages: Floats, key: str, directory: Path) -> Path:
    """Write vectors as bfloat16 (numpy knows it only as 16 bits), unless the file is there; return its path."""
    for path in directory.glob(f"{key}-*.npy"):
        if is_intact(path, f"{key}-"):
            return path
        path.unlink(missing_ok=True)
    return write_checked(directory, f"{key}-", ".npy", _rounded_bytes(passages))


def _rounded_bytes(passages: Floats) -> Iterator[bytes]:
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i2", "fortran_order": False, "shape": passages.shape})
    yield header.getvalue()
    for start in range(0, len(passages), NORM_ROWS):
        block = torch.from_numpy(np.array(passages[start : start + NORM_ROWS]))
        yield block.bfloat16().view(torch.int16).numpy().tobytes()


def _lengths(vectors: Floats, rounded: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return upper bounds of the lengths of vectors, and of what rounding took from them, shape ``[2, n]``, float64."""
    losses = vectors - rounded.float().numpy()
    squares = [np.einsum("ij,ij->i", rows, rows).astype(np.float64) for rows in (vectors, losses)]
    return np.sqrt(squares) * 1.001


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
def float32_products() -> Iterator[None]:
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
