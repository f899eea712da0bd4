"""Rates and their intervals, against known figures and by trying them out on dependent data."""

import math

import numpy as np
import pytest

from hn_datasets.errors import ArgumentError
from hn_datasets.estimation.rates import Rate, estimate_rate, jaccard, pool_rising, wilson_interval


def test_wilson_gives_the_textbook_figures():
    assert wilson_interval(0.8, 10, 0.95) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = wilson_interval(0.0, 20, 0.95)
    assert low == 0 and high == pytest.approx(0.1611, abs=1e-4)


def test_the_rate_counts_negatives_and_the_interval_anchors():
    """Anchors whose negatives all go together tell as little as one negative each, and half of that of others."""
    together = estimate_rate([4, 4] + [0] * 38, [4] * 40)
    apart = estimate_rate([1] * 8 + [0] * 32, [4] * 40)
    assert together.rate == apart.rate == 8 / 160
    assert (together.num_false, together.num_negatives, together.num_anchors) == (8, 160, 40)
    shares = np.array([1, 1] + [0] * 38)
    size = 0.05 * 0.95 / (((shares - 0.05) ** 2).sum() / 39 / 40)
    assert (together.low, together.high) == pytest.approx(wilson_interval(0.05, size / 2, 0.95))
    assert apart.high < together.high


@pytest.mark.parametrize("shares", [0.02, 0.05, 0.3])
def test_the_rate_of_other_anchors_lies_within(shares):
    """In 400 trials with strongly dependent negatives; 95 % are promised, the interval is an approximation."""
    random = np.random.default_rng(7)
    hits = 0
    for _ in range(400):
        own = random.beta(0.5, 0.5 * (1 - shares) / shares, size=(2, 80))
        false = random.binomial(4, own)
        estimate = estimate_rate(false[0], [4] * 80)
        hits += estimate.low <= false[1].sum() / 320 <= estimate.high
    assert hits >= 360


def test_nothing_false_is_no_proof_of_none():
    estimate = estimate_rate([0] * 50, [4] * 50)
    assert estimate.rate == estimate.low == 0
    assert 0.1 < estimate.high < 0.15
    assert estimate_rate([4] * 50, [4] * 50).low == pytest.approx(1 - estimate.high)


def test_anchors_without_negatives_do_not_count():
    assert estimate_rate([1, 0, 0], [2, 2, 0]) == estimate_rate([1, 0], [2, 2])
    with pytest.raises(ArgumentError, match="got none; mine with a higher ceiling"):
        estimate_rate([0], [0])
    for confidence in (0, 1, 95, -0.5):
        with pytest.raises(ArgumentError, match=f"confidence between 0 and 1, got {confidence}"):
            estimate_rate([0], [1], confidence=confidence)


def test_a_rate_survives_json_and_reads_as_a_percentage():
    rate = estimate_rate([0.5, 0, 0.25], [2, 2, 2])
    assert Rate.from_dict(rate.to_dict()) == rate
    assert str(rate).startswith("12.5% (")


def test_pooling_gives_the_closest_rising_sequence():
    values, weights = np.array([1.0, 3, 2, 0, 5, 4]), np.array([1.0, 1, 2, 1, 1, 3])
    pooled = pool_rising(values, weights)
    assert (np.diff(pooled) >= 0).all()
    best = (weights * (pooled - values) ** 2).sum()
    random = np.random.default_rng(0)
    for _ in range(2000):  # no other rising sequence is closer
        other = np.sort(pooled + random.normal(scale=0.3, size=6))
        assert (weights * (other - values) ** 2).sum() >= best - 1e-12
    assert pool_rising([1, 2], [1, 1]).tolist() == [1, 2]


def test_jaccard():
    assert jaccard(1, 2, 3) == 0.25
    assert jaccard(0, 0, 0) is None
    assert math.isclose(jaccard(2, 2, 2), 1)
