"""The methods: each is a ceiling on the score of a negative, and a number of ranks to skip.

The formulas are those of NV-Retriever (arXiv 2407.15831) and of the practices that it compares with.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hn_datasets.errors import ArgumentError


@dataclass(frozen=True)
class Method:
    """What all methods share: ``ceiling(positive_scores)``, ``skip`` and a JSON form."""

    name: ClassVar[str]
    formula: ClassVar[str]
    setting: ClassVar[str | None] = None
    """Name of the one field that sets the method's strength (``--margin`` on the command line)."""

    def ceiling(self, positive_scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the score that a negative must stay strictly below.

        Args:
            positive_scores: shape ``[n]``, the lowest score among the positives of each anchor.

        Returns:
            Shape ``[n]``, float64; ``inf`` where there is no ceiling.
        """
        return np.full(np.shape(positive_scores), np.inf)

    @property
    def skip(self) -> int:
        """How many of the best passages to leave out, positives not counted."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: the name and every field."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class TopK(Method):
    """Naive top-k: the best passages that are not positives."""

    name: ClassVar[str] = "topk"
    formula: ClassVar[str] = "none"


@dataclass(frozen=True)
class TopKShifted(Method):
    """Top-k shifted by n: the n best passages that are not positives are left out.

    Raises:
        ArgumentError: ``n`` is not a whole number of at least 1.
    """

    n: int = 10
    name: ClassVar[str] = "topk-shifted"
    formula: ClassVar[str] = "none, the n best are skipped"
    setting: ClassVar[str | None] = "n"

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or isinstance(self.n, bool) or self.n < 1:
            raise ArgumentError(f"TopKShifted needs a whole number n >= 1, got {self.n!r}; use TopK() for no shift.")

    @property
    def skip(self) -> int:
        """How many of the best passages to leave out, positives not counted."""
        return self.n


@dataclass(frozen=True)
class TopKAbs(Method):
    """Top-k with an absolute cap on the score.

    Raises:
        ArgumentError: ``max_score`` is not a finite number.
    """

    max_score: float = 0.7
    name: ClassVar[str] = "topk-abs"
    formula: ClassVar[str] = "max_score"
    setting: ClassVar[str | None] = "max_score"

    def __post_init__(self) -> None:
        if not _is_finite(self.max_score):
            raise ArgumentError(f"TopKAbs needs a finite max_score, got {self.max_score!r}; use TopK() for no cap.")

    def ceiling(self, positive_scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return ``max_score`` for every anchor (shape ``[n]``, float64)."""
        return np.full(np.shape(positive_scores), float(self.max_score))


@dataclass(frozen=True)
class TopKMarginPos(Method):
    """TopK-MarginPos: at least ``margin`` below the positive score (arXiv 2407.15831).

    Raises:
        ArgumentError: ``margin`` is negative or not finite.
    """

    margin: float = 0.05
    name: ClassVar[str] = "topk-marginpos"
    formula: ClassVar[str] = "p - margin"
    setting: ClassVar[str | None] = "margin"

    def __post_init__(self) -> None:
        if not _is_finite(self.margin) or self.margin < 0:
            raise ArgumentError(f"TopKMarginPos needs a margin >= 0, got {self.margin!r}; 0.05 is the paper's.")

    def ceiling(self, positive_scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return ``p - margin`` (shape ``[n]``, float64)."""
        return np.asarray(positive_scores, dtype=np.float64) - self.margin


@dataclass(frozen=True)
class TopKPercPos(Method):
    """TopK-PercPos: below a percentage of the positive score (arXiv 2407.15831); the default.

    ``p - |p| * (1 - percentage)`` equals ``p * percentage`` for p > 0 and stays below p for p < 0.

    Raises:
        ArgumentError: ``percentage`` is outside (0, 1].
    """

    percentage: float = 0.95
    name: ClassVar[str] = "topk-percpos"
    formula: ClassVar[str] = "p - |p| * (1 - percentage)"
    setting: ClassVar[str | None] = "percentage"

    def __post_init__(self) -> None:
        if not _is_finite(self.percentage) or not 0 < self.percentage <= 1:
            raise ArgumentError(
                f"TopKPercPos needs a percentage in (0, 1], got {self.percentage!r}; write 95 % as 0.95."
            )

    def ceiling(self, positive_scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return ``p - |p| * (1 - percentage)`` (shape ``[n]``, float64)."""
        scores = np.asarray(positive_scores, dtype=np.float64)
        return scores - np.abs(scores) * (1 - self.percentage)


@dataclass(frozen=True)
class RandomNegatives(Method):
    """Baseline: passages drawn uniformly from the corpus, positives and guarded passages left out."""

    name: ClassVar[str] = "random"
    formula: ClassVar[str] = "none, drawn uniformly"


METHODS: dict[str, type[Method]] = {
    method.name: method for method in (TopK, TopKShifted, TopKAbs, TopKMarginPos, TopKPercPos, RandomNegatives)
}


def method_from_name(name: str, setting: float | None = None) -> Method:
    """Return the method called ``name``, with its one setting where it has one.

    Args:
        name: a key of ``METHODS``, for instance ``"topk-percpos"``.
        setting: the percentage, margin, cap or shift; the method's default if None.

    Raises:
        ArgumentError: the name is unknown, or a setting is given to a method that has none.
    """
    if name not in METHODS:
        raise ArgumentError(f"Unknown method {name!r}; choose one of {', '.join(METHODS)}.")
    method = METHODS[name]
    if setting is None:
        return method()
    if method.setting is None:
        raise ArgumentError(f"Method {name!r} has no margin, got {setting!r}; leave it out or choose another method.")
    whole = float(setting).is_integer() and method is TopKShifted
    return method(**{method.setting: int(setting) if whole else setting})


def method_from_dict(data: dict[str, Any]) -> Method:
    """Return the method whose ``to_dict`` gave ``data``.

    Raises:
        ArgumentError: the name or a field is unknown, or a value is out of range.
    """
    fields = dict(data)
    name = fields.pop("name", None)
    if name not in METHODS:
        raise ArgumentError(f"Unknown method {name!r}; choose one of {', '.join(METHODS)}.")
    try:
        return METHODS[name](**fields)
    except TypeError:
        known = METHODS[name].setting
        raise ArgumentError(
            f"Method {name!r} takes {known or 'no field'}, got {', '.join(fields)}; remove what it does not know."
        ) from None


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))
