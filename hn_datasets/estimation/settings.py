"""Which numbers of a method are tried: from strict to loose, in steps that suit the scores at hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hn_datasets.errors import ArgumentError
from hn_datasets.methods import Method, RandomNegatives, TopK, TopKAbs, TopKMarginPos, TopKPercPos, TopKShifted

SHIFTS = (100, 50, 30, 20, 15, 10, 7, 5, 3, 2, 1)
SURVEYED_SHIFTS = (30, 10, 3)
SURVEYED_PERCENTAGES = (0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


def list_settings(kind: type[Method], typical_score: float, step: float) -> tuple[Method, ...]:
    """Return settings of a method, the strictest first.

    A margin and a cap are steps of the typical positive score, rounded to two digits, because scores of teachers have
    different scales: cosines stay below 1, those of BM25 reach 50.

    Args:
        kind: the method.
        typical_score: the median score of the positives, any sign.
        step: of percentages; margins and caps step by as large a part of the typical score.

    Raises:
        ArgumentError: the method has no number.
    """
    if kind is TopKShifted:
        return tuple(TopKShifted(n) for n in SHIFTS)
    shares = np.arange(round(0.3 / step), round(1 / step) + 1) * step
    size = abs(typical_score)
    if kind is TopKPercPos:
        return tuple(TopKPercPos(round(float(share), 4)) for share in shares)
    if kind is TopKMarginPos:
        margins = dict.fromkeys(_round(size * (1 - share)) for share in shares)
        return tuple(TopKMarginPos(margin) for margin in margins)
    if kind is TopKAbs:
        caps = np.arange(round(0.3 / step), round(1.4 / step) + 1) * step
        # From far below to above the typical score, whatever its sign.
        return tuple(map(TopKAbs, dict.fromkeys(_round(typical_score + (cap - 1) * size) for cap in caps)))
    raise ArgumentError(f"Expected a method with a number, got {kind.__name__}; choose TopKPercPos, for instance.")


def settings_of(kind: type[Method], numbers: Sequence[float]) -> tuple[Method, ...]:
    """Return a method with each of these numbers, the strictest first.

    Raises:
        ArgumentError: there is none, or one is out of range.
    """
    if kind.setting is None or not len(numbers):
        raise ArgumentError(
            f"Expected a method with a number and settings for it, got {kind.__name__} and {list(numbers)!r}."
        )
    rising = kind not in (TopKMarginPos, TopKShifted)
    ordered = sorted(dict.fromkeys(numbers), reverse=not rising)
    return tuple(kind(**{kind.setting: number}) for number in ordered)


def survey_settings(typical_score: float) -> tuple[Method, ...]:
    """Return settings of all methods, method by method, each from strict to loose."""
    margins, caps = (list_settings(kind, typical_score, 0.1) for kind in (TopKMarginPos, TopKAbs))
    return (
        *map(TopKPercPos, SURVEYED_PERCENTAGES),
        *margins[2:],
        *caps[2:],
        *map(TopKShifted, SURVEYED_SHIFTS),
        TopK(),
        RandomNegatives(),
    )


def number_of(method: Method) -> float | None:
    """Return the one number that a method has, None if it has none."""
    return None if method.setting is None else float(getattr(method, method.setting))


def show(method: Method) -> str:
    """Return a method as it is written in Python."""
    number = number_of(method)
    return f"{type(method).__name__}({'' if number is None else f'{number:g}'})"


def _round(value: float) -> float:
    """Round to two digits."""
    return float(f"{value:.2g}")
