"""Inverted lists: the passages of a corpus around centroids, so that a search reads only the lists near an anchor.

They are an ordinary FAISS index file; FAISS chose the centroids and coded the passages. It is read memory-mapped, and
searched by products of our own: a search of FAISS knows no ceiling, and its threads do not survive a fork.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hn_datasets.errors import ArgumentError
from hn_datasets.teachers.base import Floats, Ids
from hn_datasets.threads import is_forked

WHOLE_LENGTH = 4000
"""Length of a vector in whole numbers: sums of products of two such stay below 2**24, where float32 is exact."""


@dataclass(frozen=True)
class Stage:
    """One stage of the search.

    Attributes:
        num_lists: lists that are read for each anchor.
        reach: so many of the best passages, ceiling or not, lie in these lists almost completely.
    """

    num_lists: int
    reach: int


@dataclass(frozen=True)
class Measured:
    """What was measured on lists once they were filled.

    Attributes:
        lists: name of the FAISS index file.
        largest_length: upper bound of the length of a row of ``InvertedLists.block``.
        largest_loss: upper bound of the distance of a passage's vector from the one that its row stands for.
        stages: from few lists to more.
    """

    lists: str
    largest_length: float
    largest_loss: float
    stages: tuple[Stage, ...]


class InvertedLists:
    """The lists of one corpus. A passage's vector is about ``scale * row + shift``, with its row of ``block``.

    Args:
        path: a FAISS index of inverted lists.
        measured: what is known of it; nothing while it is being measured.

    Attributes:
        num_lists: how many there are.
        sizes: shape ``[num_lists]``, int64, passages of each list.
        scale: shape ``[dimension]``, float32.
        shift: shape ``[dimension]``, float32.
    """

    def __init__(self, path: Path, measured: Measured | None = None) -> None:
        faiss = load_faiss()
        self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        self.measured = measured or Measured(path.name, np.inf, np.inf, ())
        self.num_lists: int = self._index.nlist
        self.scale, self.shift = row_transform(self._index)
        self._centroids = _whole_numbers(self._index.quantizer.reconstruct_n(0, self.num_lists)[None])[0]
        lists = self._index.invlists
        self.sizes = np.array([lists.list_size(number) for number in range(self.num_lists)], dtype=np.int64)
        filled = np.flatnonzero(self.sizes).tolist()
        self._offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        self._ids: Ids = np.concatenate(
            [faiss.rev_swig_ptr(lists.get_ids(number), int(self.sizes[number])) for number in filled]
        )
        self._codes = {number: self._view(number) for number in filled}

    def ids(self, number: int) -> Ids:
        """Return the passages of a list, shape ``[sizes[number]]``, rising."""
        return self._ids[self._offsets[number] : self._offsets[number + 1]]

    def block(self, number: int, precision: torch.dtype) -> torch.Tensor:
        """Return the rows of a list that is not empty, shape ``[sizes[number], dimension]``."""
        return rows_of(self._codes[number], precision)

    def nearest(self, anchors: Floats, count: int) -> Ids:
        """Return the lists whose centroids have the highest products with each anchor, shape ``[n, count]``, int64.

        The products are sums of whole numbers that float32 adds without rounding, so that the lists of an anchor do
        not depend on the other anchors.
        """
        products = _whole_numbers(anchors[:, None])[:, 0] @ self._centroids.T
        if count >= self.num_lists:
            return np.argsort(-products, axis=1, kind="stable")
        return np.argpartition(-products, count - 1, axis=1)[:, :count]

    def _view(self, number: int) -> npt.NDArray[Any]:
        index, size = self._index, int(self.sizes[number])
        codes = load_faiss().rev_swig_ptr(index.invlists.get_codes(number), size * index.code_size)
        return view_codes(index, codes.reshape(size, index.code_size))


def load_faiss() -> Any:
    """Return the module ``faiss``; in a forked process it gets one thread, because those of its parent never answer.

    Raises:
        ArgumentError: it cannot be imported.
    """
    try:
        faiss = importlib.import_module("faiss")
    except ImportError as error:
        raise ArgumentError(
            f"Expected faiss for approximate search, which cannot be imported ({error}); run: "
            'pip install "hn-datasets[faiss]", or leave index out.'
        ) from error
    if is_forked():
        faiss.omp_set_num_threads(1)
    return faiss


def view_codes(index: Any, codes: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Return codes of a FAISS index as numbers, shape ``[n, dimension]``; bfloat16, which numpy lacks, as int16."""
    quantizers = load_faiss().ScalarQuantizer
    kinds = {quantizers.QT_8bit: np.uint8, quantizers.QT_fp16: np.float16, quantizers.QT_bf16: np.int16}
    return codes.view(kinds[index.sq.qtype] if hasattr(index, "sq") else np.float32)


def row_transform(index: Any) -> tuple[Floats, Floats]:
    """Return ``scale`` and ``shift`` of a FAISS index, shape ``[dimension]`` each, float32."""
    if index.code_size != index.d:
        return np.ones(index.d, np.float32), np.zeros(index.d, np.float32)
    lowest, spread = load_faiss().vector_to_array(index.sq.trained).reshape(2, index.d)
    return spread / np.float32(255), lowest + spread * np.float32(128.5 / 255)


def rows_of(codes: npt.NDArray[Any], precision: torch.dtype) -> torch.Tensor:
    """Return the rows that codes stand for; those of SQ8 are whole numbers from -128 to 127, exact in any precision."""
    if codes.dtype == np.uint8:
        return torch.from_numpy(codes).to(precision).sub_(128)
    if codes.dtype == np.int16:
        return torch.from_numpy(codes).view(torch.bfloat16).to(precision)
    return torch.from_numpy(np.require(codes, requirements="A")).to(precision)


def _whole_numbers(vectors: Floats) -> Floats:
    """Round groups of vectors, shape ``[groups, n, dimension]``, each scaled so that its longest has WHOLE_LENGTH."""
    longest = np.linalg.norm(vectors, axis=2, keepdims=True).max(axis=1, keepdims=True)
    whole: Floats = np.rint(vectors * (WHOLE_LENGTH / np.maximum(longest, np.float32(1e-30))))
    return whole
