"""How scores are distributed: a summary of numbers, the same to the last bit in whatever order they come.

Values are counted, and sums are exact (``math.fsum``) before they are rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
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


@dataclass(frozen=True)
class ScoreCounts:
    """Scores of some rows: how often each value comes; so those of other rows can be added, and nothing is lost.

    Attributes:
        values: finite, rising, each once, float32 or float64.
        counts: of each value, int64.
    """

    values: Floats
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: Floats) -> ScoreCounts:
        """Return the counts of finite ones among ``values``, which are sorted in place."""
        found: tuple[Any, ...] = np.unique(_sort_finite(values), return_counts=True)
        return cls(found[0], found[1].astype(np.int64))

    @classmethod
    def merge(cls, parts: Sequence[ScoreCounts]) -> ScoreCounts:
        """Return the counts of several parts together."""
        if len(parts) == 1:
            return parts[0]
        values: Floats
        values, places = np.unique(np.concatenate([part.values for part in parts]), return_inverse=True)
        counts = np.zeros(len(values), dtype=np.int64)
        np.add.at(counts, places, np.concatenate([part.counts for part in parts]))
        return cls(values, counts)


def _sort_finite(values: Floats) -> Floats:
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


def describe_scores(scores: ScoreCounts, edges: npt.NDArray[np.float64]) -> ScoreDistribution:
    """Describe scores; the edges are those of the histogram."""
    values, counts = scores.values, scores.counts
    count = int(counts.sum())
    if not count:
        nothing = np.zeros(max(0, len(edges) - 1), dtype=np.int64)
        return ScoreDistribution(
            0, None, None, None, None, None, None, 0, 0, 0, tuple(edges.tolist()), tuple(nothing.tolist())
        )
    mean = _exact_sum(scores) / count
    ends = np.cumsum(counts)
    place = int(counts.argmax())
    below, at_most = (int(counts[: np.searchsorted(values, 0.0, side)].sum()) for side in ("left", "right"))
    return ScoreDistribution(
        count=count,
        mean=mean,
        standard_deviation=math.sqrt(_exact_sum(scores, mean) / (count - 1)) if count > 1 else None,
        minimum=float(values[0]),
        quartiles=tuple(_quantile(values, ends, share) for share in QUARTILES),
        maximum=float(values[-1]),
        most_common=float(values[place]),
        most_common_count=int(counts[place]),
        zeros=at_most - below,
        at_most_zero=at_most,
        edges=tuple(edges.tolist()),
        bin_counts=tuple(np.histogram(values, bins=edges, weights=counts)[0].tolist()),
    )


def _exact_sum(scores: ScoreCounts, mean: float | None = None) -> float:
    """Return the sum of all values, or of their squared distances to ``mean``, rounded once."""
    return math.fsum(chain.from_iterable(block.data for block in _iter_terms(scores, mean)))


def _iter_terms(scores: ScoreCounts, mean: float | None) -> Iterator[npt.NDArray[np.float64]]:
    """Yield each value as often as it comes, in blocks of about ``_BLOCK``, or its squared distance to ``mean``."""
    starts = np.searchsorted(np.cumsum(scores.counts), np.arange(0, int(scores.counts.sum()), _BLOCK), side="right")
    for begin, end in pairwise([*np.unique(starts).tolist(), len(scores.values)]):
        block = np.repeat(scores.values[begin:end].astype(np.float64), scores.counts[begin:end])
        yield block if mean is None else (block - mean) ** 2


def _quantile(values: Floats, ends: npt.NDArray[np.int64], share: float) -> float:
    """Return the value at ``share`` of all, interpolated linearly as in ``numpy.quantile``.

    Args:
        values: rising, each once.
        ends: how many of all are at most each value.
        share: 0 to 1.
    """
    place = share * (int(ends[-1]) - 1)
    low = math.floor(place)
    first, second = (
        float(values[np.searchsorted(ends, number, side="right")]) for number in (low, min(low + 1, int(ends[-1]) - 1))
    )
    return first + (second - first) * (place - low)


def tuples_to_lists(value: Any) -> Any:
    """Return what dictionaries and tuples hold with lists in the place of tuples, as JSON has them."""
    if isinstance(value, dict):
        return {key: tuples_to_lists(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def lists_to_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a frozen object from its JSON form."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
