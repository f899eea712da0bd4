"""Inverted lists: the passages of a corpus around centroids, so that a search reads only the lists near an anchor.

They are an ordinary FAISS index of 8-bit codes: FAISS chose the centroids and assigned the passages. Its codes are the
integers of ``quantized``, and are multiplied as in exact search: FAISS's own search knows no ceiling, takes one anchor
after the other, and has threads that do not survive a fork.
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
from hn_datasets.quantized import LEVELS, multiplies_int8, round_to_int8
from hn_datasets.teachers.base import Ids
from hn_datasets.texts import Ragged
from hn_datasets.threads import is_forked

Int8s = npt.NDArray[np.int8]


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
class Remainders:
    """What rounding took from the passages, rounded to integers itself.

    Attributes:
        integers: shape ``[num_passages, d]``, int8, in the order of the lists.
        unit: what 1 stands for.
        most_lost: upper bound of the length of what even the remainder leaves out.
    """

    integers: Int8s
    unit: float
    most_lost: float


class InvertedLists:
    """The lists of one corpus, memory-mapped.

    Args:
        path: a FAISS index of inverted lists with 8-bit codes.
        remainders: of its passages.
        stages: how it is searched, from few lists to more.

    Attributes:
        remainders: of the passages.
        stages: how they are searched.
        num_lists: how many there are.
        sizes: shape ``[num_lists]``, int64, passages of each list.
    """

    def __init__(self, path: Path, remainders: Remainders, stages: tuple[Stage, ...] = ()) -> None:
        faiss = load_faiss()
        self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        self.remainders = remainders
        self.stages = stages
        self.num_lists: int = self._index.nlist
        centroids = self._index.quantizer.reconstruct_n(0, self.num_lists).astype(np.float64)
        self._centroids = round_to_int8(centroids, float(np.abs(centroids).max()) / LEVELS).integers
        self._members = members_of(self._index)
        self.sizes = self._members.counts
        width = self._index.code_size
        self._codes: dict[int, npt.NDArray[np.uint8]] = {
            number: faiss.rev_swig_ptr(self._index.invlists.get_codes(number), size * width).reshape(size, width)
            for number, size in enumerate(self.sizes.tolist())
            if size
        }

    def ids(self, number: int) -> Ids:
        """Return the passages of a list, shape ``[sizes[number]]``, rising."""
        return self._members[number]

    def integers(self, number: int) -> Int8s:
        """Return the vectors of a list that is not empty as integers, shape ``[sizes[number], d]``."""
        return (self._codes[number] - np.uint8(LEVELS)).view(np.int8)

    def remainders_of(self, number: int) -> Int8s:
        """Return the remainders of the passages of a list, shape ``[sizes[number], d]``."""
        offsets = self._members.offsets
        return self.remainders.integers[offsets[number] : offsets[number + 1]]

    def nearest(self, anchors: Int8s, count: int) -> Ids:
        """Return the lists whose centroids have the highest products with each anchor, shape ``[n, count]``, int64.

        They come in any order, but all of them with the nearest first. Products of integers are exact, so that the
        lists of an anchor do not depend on the other anchors.
        """
        falling = -multiply(anchors, self._centroids)
        if count >= self.num_lists:
            return np.argsort(falling, axis=1, kind="stable")
        return np.argpartition(falling, count - 1, axis=1)[:, :count]


def members_of(index: Any) -> Ragged:
    """Return the passages of each list of a FAISS index."""
    lists, faiss = index.invlists, load_faiss()
    sizes = [lists.list_size(number) for number in range(index.nlist)]
    ids = [faiss.rev_swig_ptr(lists.get_ids(number), size) for number, size in enumerate(sizes) if size]
    return Ragged(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), np.concatenate(ids))


def multiply(some: Int8s, others: Int8s) -> npt.NDArray[Any]:
    """Return the products of all pairs of rows (``[n, d]`` and ``[m, d]``), without an error, shape ``[n, m]``."""
    left, right = torch.from_numpy(some), torch.from_numpy(others)
    if multiplies_int8(some.shape[1]):
        return torch._int_mm(left, right.T).numpy()
    kind = torch.float32 if some.shape[1] * LEVELS**2 < 2**24 else torch.float64
    return (left.to(kind) @ right.to(kind).T).numpy()


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
            'pip install "hn-datasets[faiss]", or leave it out.'
        ) from error
    if is_forked():
        faiss.omp_set_num_threads(1)
    return faiss
