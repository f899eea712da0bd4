"""Dense scores: products of stored vectors, fast in tiles and exact in pairs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hn_datasets.files import atomic_write, is_intact, write_checked
from hn_datasets.products import dot_products
from hn_datasets.quantized import LEVELS, MOST_LOST, Doubles, Rounded, multiplies_int8, rotate, round_to_int8, slack_of
from hn_datasets.store import EmbeddingStore
from hn_datasets.sums import column_sums, mean_vector
from hn_datasets.teachers.base import NO_CROWD, Encoder, Exact, Floats, Ids, Ranker, Scorer, Teacher, Tile
from hn_datasets.texts import Corpus, digest_of
from hn_datasets.threads import is_forked, leave_parents_threads

ROUNDED_VERSION = 1
"""Part of the name of every file of rounded vectors; raise it with any change of what is in them."""

BLOCK_ROWS = 16_384
TILE_SCORES = {"cpu": 1 << 20, "accelerator": 1 << 25}
"""Scores of a tile: 4 MiB, which a core writes and scans fastest, and 128 MiB."""

CROWD = 256
"""Candidates of a row that are no crowd yet; most rows have fewer in the whole corpus."""

SMALLEST_TILE, LARGEST_TILE = 1024, 1 << 16
"""Passages of a tile."""


@dataclass(frozen=True)
class Corpus8:
    """The passages as 8-bit integers.

    Attributes:
        integers: shape ``[num_passages, d]``, int8.
        unit: what 1 stands for.
        longest: upper bound of the length of a passage.
        most_lost: upper bound of the length of what rounding took from a passage.
    """

    integers: torch.Tensor
    unit: float
    longest: float
    most_lost: float


class DenseScorer:
    """An encoder with one corpus, whose vectors lie in one memory-mapped matrix.

    Args:
        encoder: the teacher; asked only for vectors that the store lacks.
        corpus: the passages; all of them have to be in the store.
        store: where the vectors are.
        device: where the products are computed; CUDA if there is one, else the CPU, if None.
        integers: whether tiles are products of 8-bit integers; on processors that are fast at them if None.

    Raises:
        StoreError: a matrix cannot be written.
    """

    def __init__(
        self,
        encoder: Encoder,
        corpus: Corpus,
        store: EmbeddingStore,
        device: str | torch.device | None = None,
        integers: bool | None = None,
    ) -> None:
        leave_parents_threads()
        self.encoder = encoder
        self.store = store
        self.num_passages = len(corpus)
        self.passages = store.matrix(encoder, corpus)
        cuda = torch.cuda.is_available() and not is_forked()
        self.device = torch.device(device if device is not None else "cuda" if cuda else "cpu")
        dimension = self.passages.shape[1]
        wanted = self.device.type == "cpu" and multiplies_int8(dimension) if integers is None else integers
        path = Path(str(getattr(self.passages, "filename")))  # noqa: B009 - an ndarray, for the type checker
        self.corpus8 = open_rounded(self.passages, path) if wanted else None
        # Private pages, because torch wants memory that it may write to; it never does.
        self.matrix = torch.from_numpy(np.load(path, mmap_mode="c"))
        if self.device.type == "cuda" and self.matrix.nbytes < 0.5 * torch.cuda.mem_get_info(self.device)[0]:
            self.matrix = self.matrix.to(self.device)

    def scores(self, anchors: Sequence[str]) -> DenseScores:
        """Return the scores of these anchors against the corpus."""
        leave_parents_threads()
        return DenseScores(self, self.store.vectors(self.encoder, "anchor", list(anchors)))

    @cached_property
    def longest(self) -> float:
        """Upper bound of the length of a passage."""
        return max(float(_lengths(block).max()) for block in self._blocks())

    @cached_property
    def mean_passage(self) -> npt.NDArray[np.float64]:
        """Mean vector of the passages, shape ``[d]``, float64."""
        return mean_vector(column_sums(self.passages), self.num_passages)

    def _blocks(self) -> Iterator[Floats]:
        return (self.passages[start : start + BLOCK_ROWS] for start in range(0, self.num_passages, BLOCK_ROWS))


class DenseScores:
    """The scores of a block of anchors; see ``teachers.base.Scores``; of 8-bit integers only where the corpus is too.

    Exact scores sum float64 products in one order and round once to float32. A tile of integers is off by what
    ``quantized.slack_of`` says; one of float32 by at most d / 2**24 times the lengths of both vectors (Higham, Accuracy
    and Stability of Numerical Algorithms, section 3.1).

    Attributes:
        rotated: the anchors in other axes, shape ``[num_anchors, d]``, float64, and
        rounded: as integers; both None where tiles are of float32.
    """

    def __init__(self, scorer: DenseScorer, anchors: Floats, *, integers: bool = True) -> None:
        self._scorer = scorer
        self._corpus8 = corpus8 = scorer.corpus8 if integers else None
        self.num_passages = scorer.num_passages
        self.exact = Exact(anchors, scorer.passages)
        self.on_accelerator = scorer.device.type != "cpu"
        self.crowd = NO_CROWD if corpus8 is None else CROWD
        self.rotated: Doubles | None = None
        self.rounded: Rounded | None = None
        if corpus8 is not None:
            self.rotated = rotate(anchors)
            self.rounded = rounded = round_to_int8(self.rotated)
            self._block = torch.from_numpy(rounded.integers)
            self.units = rounded.units * corpus8.unit
            self.slack = slack_of(rounded, corpus8.longest, corpus8.most_lost)
        else:
            self._block = torch.from_numpy(anchors).to(scorer.device)
            self.units = np.ones(len(anchors))
            self.slack = _lengths(anchors) * scorer.longest * (anchors.shape[1] + 8) * 2.0**-23 + 1e-30

    def tiles(self, begin: int, end: int) -> Iterator[tuple[int, Tile]]:
        """Yield the first passage of each tile, and the tile: ``[end - begin, m]``, int32, float32 or a tensor."""
        num_scores = TILE_SCORES["accelerator" if self.on_accelerator else "cpu"]
        width = min(max(SMALLEST_TILE, num_scores // max(1, end - begin)), LARGEST_TILE, self.num_passages)
        block, corpus8 = self._block[begin:end], self._corpus8
        buffer = torch.empty((end - begin) * width, dtype=torch.float32 if corpus8 is None else torch.int32)
        for start in range(0, self.num_passages, width):
            stop = min(start + width, self.num_passages)
            if self.on_accelerator:
                yield start, block @ self._scorer.matrix[start:stop].to(block.device).T
                continue
            tile = buffer[: (end - begin) * (stop - start)].view(end - begin, stop - start)
            if corpus8 is not None:
                torch._int_mm(block, corpus8.integers[start:stop].T, out=tile)
            else:
                torch.mm(block, self._scorer.matrix[start:stop].T, out=tile)
            yield start, tile.numpy()

    def narrower(self, rows: Ids) -> DenseScores:
        """Return the scores of some anchors (shape ``[n]``) as float32 products."""
        return DenseScores(self._scorer, self.exact.anchors[rows], integers=False)

    def pairs(self, rows: Ids, ids: Ids) -> Floats:
        """Return the score of each (anchor row, passage id) pair, shape ``[n]``, float32."""
        return dot_products(self.exact.anchors, self.exact.passages, rows, ids)

    def of_texts(self, rows: Ids, texts: Sequence[str]) -> Floats:
        """Return the score of each (anchor row, text) pair, shape ``[n]``, float32."""
        return dot_products(self.exact.anchors, self.passage_vectors(texts), rows, np.arange(len(texts)))

    @property
    def mean_passage(self) -> npt.NDArray[np.float64]:
        """Mean vector of the passages, shape ``[d]``, float64."""
        return self._scorer.mean_passage

    def stored(self, ids: Ids) -> Floats:
        """Return the vectors of passages of the corpus, shape ``[len(ids), d]``, float32."""
        return self.exact.passages[ids]

    def similarities(self, ids: Ids, others: Ids) -> Floats:
        """Return the product of the vectors of each pair of passages, shape ``[len(ids)]``, float32."""
        return dot_products(self.exact.passages, self.exact.passages, ids, others)

    def passage_vectors(self, texts: Sequence[str]) -> Floats:
        """Return the vectors of texts as passages, shape ``[len(texts), d]``, float32."""
        return self._scorer.store.vectors(self._scorer.encoder, "passage", list(texts))


def open_scorer(teacher: Teacher, corpus: Corpus, store: EmbeddingStore) -> Scorer:
    """Return a teacher with one corpus, ready to score."""
    if isinstance(teacher, Ranker):
        return teacher.scorer(corpus, store.derived / "bm25")
    if isinstance(teacher, Encoder):
        return DenseScorer(teacher, corpus, store)
    raise TypeError(f"Expected an Encoder or a Ranker, got {type(teacher).__name__}.")


def _lengths(vectors: Floats) -> npt.NDArray[np.float64]:
    """Return upper bounds of the lengths of vectors, shape ``[n]``, float64."""
    lengths: npt.NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors).astype(np.float64)) * 1.001
    return lengths


def open_rounded(passages: Floats, matrix: Path) -> Corpus8 | None:
    """Return the passages as 8-bit integers, from the files beside their matrix, which are made if missing.

    None where rounding would take too much from a typical vector.
    """
    key = digest_of(matrix.name, "int8", str(ROUNDED_VERSION))
    bounds = matrix.with_name(f"{key}.json")
    if not bounds.exists():
        unit, typical = _unit_of(passages)
        lost = unit * np.sqrt(passages.shape[1] / 12)  # what rounding to multiples of a unit takes on average
        if lost > MOST_LOST * typical:
            found: dict[str, Any] = {"path": None}
        else:
            longest, most_lost = [0.0], [0.0]
            chunks = _rounded_chunks(passages, unit, longest, most_lost)
            path = write_checked(matrix.parent, f"{key}-", ".npy", chunks)
            found = {"path": path.name, "unit": unit, "longest": max(longest), "most_lost": max(most_lost)}
        with atomic_write(bounds) as file:
            file.write(json.dumps(found).encode())
    found = json.loads(bounds.read_text(encoding="utf-8"))
    if found["path"] is None:
        return None
    path = matrix.with_name(found["path"])
    if not path.exists() or not is_intact(path, f"{key}-"):
        for broken in (path, bounds):
            broken.unlink(missing_ok=True)
        return open_rounded(passages, matrix)
    integers = torch.from_numpy(np.load(path, mmap_mode="c"))
    return Corpus8(integers, found["unit"], found["longest"], found["most_lost"])


def _unit_of(passages: Floats) -> tuple[float, float]:
    """Return the unit in which the largest component of any rotated passage is 127, and a typical length."""
    largest, squares = 0.0, 0.0
    for start in range(0, len(passages), BLOCK_ROWS):
        rotated = rotate(passages[start : start + BLOCK_ROWS], np.float32)
        largest = max(largest, float(np.abs(rotated).max()))
        squares += float(np.einsum("ij,ij->", rotated, rotated))
    return largest / LEVELS or 1.0, float(np.sqrt(squares / len(passages)))


def _rounded_chunks(passages: Floats, unit: float, longest: list[float], most_lost: list[float]) -> Iterator[bytes]:
    """Return a ``.npy`` file of integers in pieces; what each piece is long and lost is appended to the lists."""
    yield int8_header(passages.shape)
    for start in range(0, len(passages), BLOCK_ROWS):
        rounded = round_to_int8(rotate(passages[start : start + BLOCK_ROWS]), unit)
        longest.append(float(rounded.lengths.max()))
        most_lost.append(float(rounded.losses.max()))
        yield rounded.integers.tobytes()


def int8_header(shape: tuple[int, ...]) -> bytes:
    """Return the beginning of a ``.npy`` file of 8-bit integers."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|i1", "fortran_order": False, "shape": shape})
    return header.getvalue()
