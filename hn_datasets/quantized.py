"""Vectors as 8-bit integers, with a proven bound on what that takes from a score.

A processor multiplies 8-bit integers twice as fast as bfloat16 and five times as fast as float32, and adds them without
an error. Vectors are rotated first: a rotation changes no product, and evens out components, so that a model with a few
large ones loses no more than another. What rounding takes from each vector is measured, not estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

from hn_datasets.teachers.base import Floats
from hn_datasets.threads import over_rows

LEVELS = 127
MOST_LOST = 0.05
"""Rounding that takes a larger share of a typical vector than this, as where a few vectors are far longer than all
others, leaves too many candidates: then the products are computed in float32."""

DEVIATIONS = 4.0
"""Standard deviations of a product of integers that count as likely."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rounded:
    """Integers that stand for vectors: ``integers * units[:, None]`` is what remains of the rotated vectors.

    Attributes:
        integers: shape ``[n, d]``, int8.
        units: shape ``[n]``, float64, above 0.
        lengths: shape ``[n]``, float64: upper bounds of the lengths of the vectors.
        losses: shape ``[n]``, float64: upper bounds of the lengths of what rounding took.
    """

    integers: npt.NDArray[np.int8]
    units: Doubles
    lengths: Doubles
    losses: Doubles


def rotate(vectors: Floats, dtype: type[np.floating[Any]] = np.float64) -> npt.NDArray[Any]:
    """Return the vectors in other axes, shape ``[n, d]``; products stay the same, in float64 to 1e-13.

    By threads of our own: those of numpy's products keep a core busy for tens of milliseconds after each.
    """
    rotation, rotated = torch.from_numpy(_rotation(vectors.shape[1]).astype(dtype)), np.empty(vectors.shape, dtype)

    def rotate_rows(begin: int, end: int) -> None:
        torch.mm(torch.from_numpy(vectors[begin:end].astype(dtype)), rotation, out=torch.from_numpy(rotated[begin:end]))

    over_rows(rotate_rows, len(vectors))
    return rotated


def round_to_int8(rotated: Doubles, unit: float | None = None) -> Rounded:
    """Round rotated vectors (``[n, d]``, float64) to multiples of ``unit``, or of one unit each if None."""
    integers, (units, lengths, losses) = np.empty(rotated.shape, np.int8), np.empty((3, len(rotated)))
    units[:] = unit if unit is not None else 0.0
    over_rows(lambda begin, end: _round_rows(rotated, integers, units, lengths, losses, begin, end), len(rotated))
    return Rounded(integers, units, lengths, losses)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _round_rows(rotated: Any, integers: Any, units: Any, lengths: Any, losses: Any, begin: int, end: int) -> None:
    """Round some rows; a unit of 0 stands for the one in which the largest component of the row is 127."""
    for row in range(begin, end):
        if units[row] == 0:
            units[row] = np.abs(rotated[row]).max() / LEVELS if rotated.shape[1] else 0.0
        if units[row] == 0:
            units[row] = 1.0
        length, loss = 0.0, 0.0
        for place in range(rotated.shape[1]):
            number = min(max(np.rint(rotated[row, place] / units[row]), -LEVELS), LEVELS)
            integers[row, place] = np.int8(number)
            length += rotated[row, place] ** 2
            loss += (rotated[row, place] - number * units[row]) ** 2
        lengths[row], losses[row] = np.sqrt(length) * (1 + 1e-9), np.sqrt(loss) * (1 + 1e-9)


def slack_of(anchors: Rounded, longest: float, most_lost: float) -> Doubles:
    """Return how far products of integers may be from exact scores, shape ``[n]``, float64.

    For a' = a - e and b' = b - f, a'b' differs from ab by at most |e||b| + |a'||f| (Cauchy and Schwarz). The last term
    covers what comparisons in float32 round.

    Args:
        anchors: n rounded anchors.
        longest: upper bound of the length of a passage.
        most_lost: upper bound of the length of what rounding took from a passage.
    """
    kept = anchors.lengths + anchors.losses
    slack: Doubles = anchors.losses * longest + kept * most_lost + kept * longest * 2.0**-20
    return slack


def likely_slack_of(anchors: Rounded, longest: float, most_lost: float) -> Doubles:
    """Return how far products of integers hardly ever are from exact scores: once in 16,000; shape ``[n]``, float64.

    Rotated vectors have no preferred direction, so what rounding took from one has a product with the other of a
    deviation of 1 / sqrt(d) of what ``slack_of`` allows for; ``DEVIATIONS`` of them, or ``slack_of`` where it is less.
    """
    dimension = anchors.integers.shape[1]
    kept = anchors.lengths + anchors.losses
    deviation = np.hypot(anchors.losses * longest, kept * most_lost) / np.sqrt(max(1, dimension))
    slack: Doubles = np.minimum(
        DEVIATIONS * deviation + kept * longest * 2.0**-20, slack_of(anchors, longest, most_lost)
    )
    return slack


@lru_cache(maxsize=64)
def multiplies_int8(dimension: int) -> bool:
    """Return whether this processor has instructions for products of 8-bit integers, and torch adds them exactly.

    Not those of vectors of one component: torch 2.13 gets them wrong.
    """
    if dimension < 2 or not (torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    extreme = torch.full((64, dimension), LEVELS, dtype=torch.int8)
    return bool((torch._int_mm(extreme, -extreme.T) == -dimension * LEVELS**2).all())


@lru_cache(maxsize=4)
def _rotation(dimension: int) -> Doubles:
    drawn = np.random.default_rng(0).standard_normal((dimension, dimension))
    rotation, triangle = np.linalg.qr(drawn)
    signed: Doubles = rotation * np.sign(np.diag(triangle))  # which makes it the same on every machine
    return signed
