"""Rates with intervals: which share of negatives is false, how far two mined sets overlap.

The negatives of one anchor are not independent: where one is false, the others often are. So anchors are what is
counted, and an interval is as wide as their number allows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from hn_datasets.errors import ArgumentError
from hn_datasets.texts import normalise

INTERVAL = "Wilson interval of the effective sample size, for the rate of as many other anchors"

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """A share of negatives, with the interval in which that of other anchors is to be expected.

    Attributes:
        rate: 0 to 1.
        low: lower end of the interval.
        high: upper end.
        confidence: how often such an interval holds, 0 to 1.
        num_anchors: anchors that were looked at.
        num_negatives: their negatives.
        num_false: how many of these are false; not whole where a judge gives probabilities.
    """

    rate: float
    low: float
    high: float
    confidence: float
    num_anchors: int
    num_negatives: int
    num_false: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rate:
        """Return the rate whose ``to_dict`` this is."""
        return cls(**data)

    def __str__(self) -> str:
        return f"{self.rate:.1%} ({self.low:.1%} to {self.high:.1%})"


def estimate_rate(num_false: npt.ArrayLike, num_negatives: npt.ArrayLike, confidence: float = 0.95) -> Rate:
    """Return the share of false negatives, with an interval for the rate of at least as many other anchors.

    The variance is that of a ratio over anchors (Cochran, Sampling Techniques, chapter 6). The effective sample size
    is the number of independent negatives that would have that variance (Kish, Survey Sampling); it is halved, because
    other anchors vary as much as these. The interval is Wilson's (JASA 1927) for a sample of that size, which holds
    for small rates too and never leaves 0 to 1. Where none or all are false, there is no variance to be seen, and
    each anchor counts as one.

    Args:
        num_false: shape ``[n]``, false negatives of each anchor, between 0 and ``num_negatives``.
        num_negatives: shape ``[n]``, negatives of each anchor.
        confidence: above 0, below 1.

    Raises:
        ArgumentError: there are no negatives, or ``confidence`` is out of range.
    """
    check_confidence(confidence)
    counts = np.asarray(num_negatives, dtype=np.float64)
    false = np.asarray(num_false, dtype=np.float64)[counts > 0]
    counts = counts[counts > 0]
    total = math.fsum(counts)
    if not total:
        raise ArgumentError("Expected negatives to estimate a rate from, got none; mine with a higher ceiling.")
    rate = math.fsum(false) / total
    low, high = wilson_interval(rate, effective_size(false, counts, rate) / 2, confidence)
    return Rate(rate, low, high, confidence, len(counts), int(total), math.fsum(false))


def check_confidence(confidence: float) -> None:
    """Raise ``ArgumentError`` where a confidence is not above 0 and below 1."""
    if not 0 < confidence < 1:
        raise ArgumentError(f"Expected a confidence between 0 and 1, got {confidence!r}; 0.95 is usual.")


def estimate_rate_of_rows(
    anchors: Sequence[str], num_false: Sequence[float], num_negatives: Sequence[int], confidence: float = 0.95
) -> Rate:
    """Do what ``estimate_rate`` does for rows, those of the same anchor as one.

    Args:
        anchors: n texts.
        num_false: false negatives of each row.
        num_negatives: negatives of each row.
        confidence: above 0, below 1.

    Raises:
        ArgumentError: there are no negatives, or ``confidence`` is out of range.
    """
    false, counts = defaultdict[str, float](float), defaultdict[str, int](int)
    for anchor, wrong, number in zip(anchors, num_false, num_negatives, strict=True):
        false[anchor] += wrong
        counts[anchor] += number
    return estimate_rate([false[anchor] for anchor in counts], list(counts.values()), confidence)


def count_labelled(negatives: Sequence[str], relevant: Sequence[str]) -> int:
    """Return how many negatives of a row equal one of its right answers after ``normalise``."""
    right = set(map(normalise, relevant))
    return sum(normalise(text) in right for text in negatives)


def effective_size(num_false: Doubles, num_negatives: Doubles, rate: float) -> float:
    """Return how many independent negatives would tell as much as those of n anchors do (shape ``[n]`` each)."""
    num_anchors = len(num_negatives)
    squares = math.fsum((num_false - rate * num_negatives) ** 2)
    if num_anchors < 2 or squares == 0:
        return float(num_anchors)
    total = math.fsum(num_negatives)
    variance = squares * num_anchors / (num_anchors - 1) / total**2
    return min(total, rate * (1 - rate) / variance)


def wilson_interval(rate: float, size: float, confidence: float) -> tuple[float, float]:
    """Return the ends of Wilson's score interval for a share ``rate`` of ``size`` independent trials."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    scale = 1 + z * z / size
    center = (rate + z * z / (2 * size)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / size + z * z / (4 * size * size))
    return max(0.0, min(rate, center - half)), min(1.0, max(rate, center + half))


def pool_rising(values: Sequence[float], weights: Sequence[float]) -> Doubles:
    """Return the never falling sequence that is closest to ``values`` by weighted squares (shape ``[n]`` each).

    Neighbours that fall are replaced by their weighted mean (Ayer and others, Annals of Mathematical Statistics 1955).
    """
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        block = (float(value), float(weight), 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, mass, number = blocks.pop()
            both = mass + block[1]
            block = ((mean * mass + block[0] * block[1]) / both, both, number + block[2])
        blocks.append(block)
    return np.repeat([block[0] for block in blocks], [block[2] for block in blocks])


def jaccard(common: float, first: float, second: float) -> float | None:
    """Return the Jaccard index of two sets of ``first`` and ``second`` members, ``common`` of them in both.

    None where both are empty.
    """
    together = first + second - common
    return common / together if together else None
