"""How scores are distributed: a summary of numbers, the same to the last bit in whatever order they come.

Values are sorted, and sums are exact (``math.fsum``) before they are rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]

QUARTILES = (0.25, 0.5, 0.75)

_BLOCK = 1_000_000
"""Numbers that are turned into float64 at once."""


@dataclass(frozen=True)
class ScoreDistribution:
    """How one kind of score is distributed; values that are not finite are left out.

    Attributes:
        count: number of values; where it is 0, every other number is None or 0.
        standard_deviation: of a sample (divided by ``count - 1``); None for fewer than two values.
        quartiles: the values at 25 %, 50 % and 75 %, interpolated linearly.
        most_common: the value that most others equal; the lowest of several.
        most_common_count: how many values equal it.
        zeros: how many values are exactly 0.
        at_most_zero: how many values are 0 or below.
        edges: the ``num_bins + 1`` rising edges of the histogram.
        bin_counts: values in each bin, its right edge left out, the last bin's taken in.
    """

    count: int
    mean: float | None
    standard_deviation: float | None
    minimum: float | None
    quartiles: tuple[float, ...] | None
    maximum: float | None
    most_common: float | None
    most_common_count: int
    zeros: int
    at_most_zero: int
    edges: tuple[float, ...]
    bin_counts: tuple[int, ...]

    @property
    def median(self) -> float | None:
        """The value at 50 %."""
        return self.quartiles[1] if self.quartiles else None

    @property
    def constant(self) -> bool:
        """Whether there are at least two values and all are equal."""
        return self.count > 1 and self.minimum == self.maximum

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScoreDistribution:
        """Return the distribution whose JSON form is ``data``."""
        return cls(**lists_to_tuples(data))


def sort_finite(values: Floats) -> Floats:
    """Sort ``values`` in place and return the finite ones; -0.0 becomes 0.0, so that equal values are the same bits."""
    values += 0.0
    values.sort()
    bounds = np.array([-np.inf, np.inf], dtype=values.dtype)
    return values[np.searchsorted(values, bounds[0], "right") : np.searchsorted(values, bounds[1], "left")]


def bin_edges(columns: Sequence[Floats], num_bins: int) -> npt.NDArray[np.float64]:
    """Return equal bins from the lowest to the highest value of sorted columns, one wide where these are equal."""
    filled = [column for column in columns if len(column)]
    if not filled:
        return np.zeros(0)
    low, high = (float(bound) for bound in (min(c[0] for c in filled), max(c[-1] for c in filled)))
    return np.linspace(low - 0.5, high + 0.5, num_bins + 1) if low == high else np.linspace(low, high, num_bins + 1)


def describe_scores(values: Floats, edges: npt.NDArray[np.float64]) -> ScoreDistribution:
    """Describe finite values in rising order."""
    count = len(values)
    if not count:
        nothing = np.zeros(max(0, len(edges) - 1), dtype=np.int64)
        return ScoreDistribution(
            0, None, None, None, None, None, None, 0, 0, 0, tuple(edges.tolist()), tuple(nothing.tolist())
        )
    mean = _exact_sum(values) / count
    start, length = _longest_run(values)
    below, at_most = (int(np.searchsorted(values, values.dtype.type(0), side)) for side in ("left", "right"))
    return ScoreDistribution(
        count=count,
        mean=mean,
        standard_deviation=math.sqrt(_exact_sum(values, mean) / (count - 1)) if count > 1 else None,
        minimum=float(values[0]),
        quartiles=tuple(_quantile(values, share) for share in QUARTILES),
        maximum=float(values[-1]),
        most_common=float(values[start]),
        most_common_count=length,
        zeros=at_most - below,
        at_most_zero=at_most,
        edges=tuple(edges.tolist()),
        bin_counts=tuple(np.histogram(values, bins=edges)[0].tolist()),
    )


def _longest_run(values: Floats) -> tuple[int, int]:
    """Return where the longest run of equal values starts in sorted values, the first of several, and its length.

    A run of length r holds runs of every smaller length, so r is found by bisection, with one flag per value in memory.
    """

    def ends(length: int) -> npt.NDArray[np.bool_]:
        same: npt.NDArray[np.bool_] = values[length - 1 :] == values[: len(values) - length + 1]
        return same

    shortest, longest = 1, len(values)
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        if ends(middle).any():
            shortest = middle
        else:
            longest = middle - 1
    return int(ends(longest).argmax()), longest


def _exact_sum(values: Floats, mean: float | None = None) -> float:
    """Return the sum of all values, or of their squared distances to ``mean``, rounded once."""
    blocks = (values[start : start + _BLOCK].astype(np.float64) for start in range(0, len(values), _BLOCK))
    terms = blocks if mean is None else ((block - mean) ** 2 for block in blocks)
    return math.fsum(chain.from_iterable(term.data for term in terms))


def _quantile(values: Floats, share: float) -> float:
    """Return the value at ``share`` of sorted values, interpolated linearly as in ``numpy.quantile``."""
    place = share * (len(values) - 1)
    low = math.floor(place)
    first, second = float(values[low]), float(values[min(low + 1, len(values) - 1)])
    return first + (second - first) * (place - low)


def tuples_to_lists(value: Any) -> Any:
    """Return what dictionaries and tuples hold with lists in the place of tuples, as JSON has them."""
    if isinstance(value, dict):
        return {key: tuples_to_lists(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def lists_to_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a frozen object from its JSON form."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
