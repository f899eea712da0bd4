"""Sums of vectors that do not depend on the order, nor on how a corpus is cut."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from hn_datasets.teachers.base import Floats

UNIT = 2.0**-36
"""Components are added as multiples of this, far below what float32 tells apart; they have to stay below 8,192."""

BLOCK_ROWS = 16_384


def column_sums(vectors: Floats) -> tuple[int, ...]:
    """Return the sum of each component of vectors (``[n, d]``), in units of ``UNIT``; exact, so any order gives it."""
    totals = np.zeros(vectors.shape[1], dtype=object)
    for start in range(0, len(vectors), BLOCK_ROWS):
        sums = np.zeros(vectors.shape[1], dtype=np.int64)
        _add_rows(vectors[start : start + BLOCK_ROWS], sums)
        totals = totals + sums
    return tuple(map(int, totals))


def mean_vector(sums: tuple[int, ...], num_vectors: int) -> npt.NDArray[np.float64]:
    """Return the mean of so many vectors from ``column_sums``, shape ``[d]``, float64."""
    return np.array([total / num_vectors for total in sums]) * UNIT


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_rows(vectors: Any, sums: Any) -> None:
    for row in range(vectors.shape[0]):
        for column in range(vectors.shape[1]):
            sums[column] += np.int64(np.rint(np.float64(vectors[row, column]) * (1 / UNIT)))
