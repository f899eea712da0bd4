"""What estimates and calibrations come out as: frozen objects with a JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hn_datasets.estimation.rates import INTERVAL, Rate
from hn_datasets.estimation.settings import show
from hn_datasets.methods import Method
from hn_datasets.recipe import Recipe

_HOW = {
    "hidden positives": (
        "{anchors} anchors have several known positives. All of these but one were hidden, and {false} of the "
        "{negatives} negatives that came out were hidden ones. Labels are seldom complete, so the true share may be "
        "higher; anchors with a single right answer may have fewer."
    ),
    "relevance labels": (
        "Labels call {false} of the {negatives} negatives of {anchors} labelled anchors right answers. They are seldom "
        "complete, so the true share may be higher."
    ),
    "cross-encoder": (
        "A cross-encoder scored {false} of the {negatives} negatives of {anchors} anchors at least as high as the "
        "positive."
    ),
    "judge": "A judge looked at the {negatives} negatives of {anchors} anchors and took {false} for right answers.",
}


@dataclass(frozen=True)
class FalseNegativeEstimate:
    """How many negatives of one recipe are false.

    Attributes:
        rate: with its interval.
        source: who says that a negative is false: ``"hidden positives"``, ``"relevance labels"``,
            ``"cross-encoder"`` or ``"judge"``.
        setting: what decided which negatives came out, as in the recipe: method, number, sampling and guards.
        seed: of the sample.
        interval: the name of the interval.
    """

    rate: Rate
    source: str
    setting: dict[str, Any]
    seed: int
    interval: str = INTERVAL

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**vars(self), "rate": self.rate.to_dict()}

    def describe(self) -> str:
        """Return what was estimated, and how, in plain sentences."""
        rate = self.rate
        false = f"{rate.num_false:,.0f}" if float(rate.num_false).is_integer() else f"{rate.num_false:,.1f}"
        how = _HOW[self.source].format(
            anchors=f"{rate.num_anchors:,}", negatives=f"{rate.num_negatives:,}", false=false
        )
        return (
            f"About {rate.rate:.1%} of the negatives are estimated to be right answers; with {rate.confidence:.0%} "
            f"confidence between {rate.low:.1%} and {rate.high:.1%} ({self.interval}). {how}"
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FalseNegativeEstimate:
        """Return the estimate whose ``to_dict`` this is."""
        return cls(**{**data, "rate": Rate.from_dict(data["rate"])})


@dataclass(frozen=True)
class CurvePoint:
    """What one setting gives.

    Attributes:
        method: with its number.
        rate: of false negatives.
        pooled_rate: the rate after pooling with its neighbours, so that it never falls as settings get looser.
        mean_negative_score: of the teacher.
        full_rows: share of the rows that have as many negatives as asked for.
    """

    method: Method
    rate: Rate
    pooled_rate: float
    mean_negative_score: float
    full_rows: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**vars(self), "method": self.method.to_dict(), "rate": self.rate.to_dict()}


@dataclass(frozen=True)
class Calibration:
    """The chosen setting, and all that were tried.

    Attributes:
        method: the loosest one that keeps to the target.
        estimate: of its false negatives.
        target: the rate that was asked for.
        curve: all settings that gave negatives, from strict to loose.
        num_available: anchors that could be used; ``estimate.rate.num_anchors`` of them were.
        num_judged: pairs that a judge was asked for.
    """

    method: Method
    estimate: FalseNegativeEstimate
    target: float
    curve: tuple[CurvePoint, ...]
    num_available: int
    num_judged: int

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            **vars(self),
            "method": self.method.to_dict(),
            "estimate": self.estimate.to_dict(),
            "curve": [point.to_dict() for point in self.curve],
        }

    def __str__(self) -> str:
        return self.to_table()

    def to_table(self) -> str:
        """Return a line for each setting, the chosen one marked, and a sentence."""
        rate = self.estimate.rate
        lines = [f"  {'Setting':<24}{'False negatives':>24}{'Mean score':>12}{'Full rows':>11}"]
        for point in self.curve:
            mark = ">" if point.method == self.method else " "
            lines.append(
                f"{mark} {show(point.method):<24}{point.rate!s:>24}{point.mean_negative_score:>12.4f}"
                f"{point.full_rows:>11.1%}"
            )
        lines.append(
            f"{show(self.method)}: {rate} of the negatives are false, by {self.estimate.source}, with "
            f"{rate.num_anchors:,} of {self.num_available:,} anchors; at {rate.confidence:.0%} confidence."
        )
        return "\n".join(lines)


def setting_of(recipe: Recipe) -> dict[str, Any]:
    """Return the part of a recipe that an estimate is made for: all but the teacher, the columns and the seed."""
    names = ("method", "num_negatives", "sampling", "pool", "temperature", "guards")
    data = recipe.to_dict()
    return {name: data[name] for name in names}
