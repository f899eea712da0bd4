"""Products of float32 vectors: exact ones of pairs, and matrix products that keep float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

from hn_datasets.threads import over_rows

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

LANES = 32
"""Partial sums of a product of two vectors."""


def dot_products(anchors: Floats, passages: Floats, rows: Ids, ids: Ids) -> Floats:
    """Return the product of ``anchors[rows[i]]`` and ``passages[ids[i]]`` for every i, shape ``[n]``, float32."""
    products = np.empty(len(rows), dtype=np.float32)
    over_rows(lambda begin, end: _dot_products(anchors, passages, rows, ids, products, begin, end), len(rows))
    return products


# Rows are named by their numbers, and not cut out: a slice counts its references, which costs more than the product.


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def dot(some: Any, row: int, others: Any, other: int, lanes: npt.NDArray[np.float64]) -> Any:
    """Return the product of ``some[row]`` and ``others[other]`` as float32.

    Products of float32 are exact in float64, and the sums stand in one order, so every processor gives the same bits.
    ``lanes`` is ``LANES`` float64 to work in.
    """
    width = some.shape[1]
    whole = width - width % LANES
    lanes[:] = 0.0
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += np.float64(some[row, start + lane]) * np.float64(others[other, start + lane])
    for place in range(whole, width):
        lanes[place - whole] += np.float64(some[row, place]) * np.float64(others[other, place])
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    return np.float32(total)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def rough_dot(some: Any, row: int, others: Any, other: int) -> Any:
    """Return the product of two rows in any order of summation, float32, and how far it may be from that of ``dot``.

    A fourth of the time of ``dot``. The bound is that of any order of summation (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1), doubled for what it rounds itself.
    """
    total, sizes = np.float32(0), np.float32(0)
    for place in range(some.shape[1]):
        product = some[row, place] * others[other, place]
        total += product
        sizes += abs(product)
    return total, sizes * np.float32((some.shape[1] + 8) * 2.0**-23) + np.float32(1e-30)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _dot_products(anchors: Any, passages: Any, rows: Any, ids: Any, products: Any, begin: int, end: int) -> None:
    lanes = np.empty(LANES)
    for number in range(begin, end):
        products[number] = dot(anchors, rows[number], passages, ids[number], lanes)


@contextlib.contextmanager
def float32_products() -> Iterator[None]:
    """Keep matrix products of torch in float32 where the user has allowed TF32 or bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
