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


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def dot(some: Any, other: Any, lanes: npt.NDArray[np.float64]) -> Any:
    """Return the product of two vectors as float32.

    Products of float32 are exact in float64, and the sums stand in one order, so every processor gives the same bits.
    ``lanes`` is ``LANES`` float64 to work in.
    """
    whole = len(some) - len(some) % LANES
    lanes[:] = 0.0
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += np.float64(some[start + lane]) * np.float64(other[start + lane])
    for place in range(whole, len(some)):
        lanes[place - whole] += np.float64(some[place]) * np.float64(other[place])
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    return np.float32(total)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def rough_dot(some: Any, other: Any) -> Any:
    """Return the product of two vectors as float32 in any order, and how far it may be from that of ``dot``.

    A third of the time of ``dot``. The bound is that of any order of summation (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1), doubled for what it rounds itself.
    """
    total, sizes = np.float32(0), np.float32(0)
    for place in range(len(some)):
        product = some[place] * other[place]
        total += product
        sizes += abs(product)
    return total, sizes * np.float32((len(some) + 8) * 2.0**-23) + np.float32(1e-30)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _dot_products(anchors: Any, passages: Any, rows: Any, ids: Any, products: Any, begin: int, end: int) -> None:
    lanes = np.empty(LANES)
    for number in range(begin, end):
        products[number] = dot(anchors[rows[number]], passages[ids[number]], lanes)


@contextlib.contextmanager
def float32_products() -> Iterator[None]:
    """Keep matrix products of torch in float32 where the user has allowed TF32 or bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
