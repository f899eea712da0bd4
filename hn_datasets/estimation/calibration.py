"""Choosing a method's number by what it does to the false negatives, and estimating their rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from hn_datasets.columns import AnyDataset
from hn_datasets.errors import ArgumentError
from hn_datasets.estimation.hiding import Trial, hide_positives, show_positives
from hn_datasets.estimation.judging import CrossEncoderJudge, HiddenPositives, Judge, Judged, Verdicts
from hn_datasets.estimation.rates import estimate_rate, pool_rising
from hn_datasets.estimation.results import Calibration, CurvePoint, FalseNegativeEstimate, setting_of
from hn_datasets.estimation.settings import list_settings, settings_of, show
from hn_datasets.methods import Method
from hn_datasets.miner import HardNegativeMiner

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

FEWEST_ANCHORS = 30
EXPECTED_FALSE = 5
"""A rate can be told from others where at least so many false negatives are to be expected: the usual rule for the
normal approximation of a share."""

HIDDEN_ANCHORS = 2000
JUDGED_ANCHORS = 200
"""Default numbers of anchors: hiding costs a search, a judge is asked for each negative."""

FINE_STEP, COARSE_STEP = 0.02, 0.1


def calibrate(
    miner: HardNegativeMiner,
    dataset: AnyDataset,
    *,
    target_false_negative_rate: float = 0.05,
    method: type[Method] | None = None,
    settings: Sequence[float] | None = None,
    judge: Judge | None = None,
    cross_encoder: CrossEncoder | str | None = None,
    num_anchors: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Calibration:
    """Choose the number of a method so that at most a target share of the negatives is false.

    Without a judge, anchors that have several known positives show it: all of these but one are hidden, and those
    that come back among the negatives are false. Labels are rarely complete, so the true rate may be higher; and
    anchors with one right answer have fewer that could come back. The settings are mined as the miner would, with its
    guards and its sampling. The loosest one is chosen whose rate, pooled with its neighbours so that it never falls
    from strict to loose, keeps to the target.

    Args:
        miner: gives teacher, corpus, number of negatives, sampling and guards.
        dataset: what it mines, or rows of it.
        target_false_negative_rate: above 0, below 1.
        method: whose number is chosen; that of the miner if None.
        settings: the numbers to try; if None, a grid that suits the scores.
        judge: says which passages are right answers; see ``Judge``.
        cross_encoder: in its place: a passage that it scores at least as high as the positive is a right answer.
        num_anchors: how many anchors are used at most; 2,000, or 200 with a judge or a cross-encoder, if None.
        confidence: of the intervals.
        seed: of the sample, and of which positive is shown.

    Raises:
        ArgumentError: an argument is out of range; there are too few anchors with several positives, or with a judge
            too few anchors; no setting keeps to the target; the judge gives no usable answers, or the cross-encoder has
            several labels.
        TeacherError: the cross-encoder cannot be loaded.
        VectorError: one of its scores is NaN or infinite.
    """
    if not 0 < target_false_negative_rate < 1:
        raise ArgumentError(
            f"Expected a target_false_negative_rate between 0 and 1, got {target_false_negative_rate!r}; 0.05 is 5 %."
        )
    kind = method or type(miner.recipe.method)
    chosen = None if settings is None else settings_of(kind, settings)
    needed = count_needed(target_false_negative_rate, miner.recipe.num_negatives)
    trial, verdicts = _open_trial(miner, dataset, judge, cross_encoder, num_anchors, seed, needed)
    if chosen is None:
        step = FINE_STEP if isinstance(verdicts, HiddenPositives) else COARSE_STEP
        chosen = list_settings(kind, typical_score(miner.mine_anew(trial.batch)["positive_score"]), step)
    curve = _draw_curve(miner, trial, verdicts, chosen, confidence)
    best = _choose(curve, target_false_negative_rate)
    estimate = FalseNegativeEstimate(
        best.rate, verdicts.source, setting_of(replace(miner.recipe, method=best.method)), seed
    )
    return Calibration(
        best.method, estimate, target_false_negative_rate, curve, trial.num_available, verdicts.num_judged
    )


def estimate_false_negatives(
    miner: HardNegativeMiner,
    dataset: AnyDataset,
    *,
    judge: Judge | None = None,
    cross_encoder: CrossEncoder | str | None = None,
    num_anchors: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> FalseNegativeEstimate:
    """Estimate which share of a miner's negatives is false; ``publish(..., estimate=...)`` puts it into the card.

    Arguments are those of ``calibrate``.

    Raises:
        ArgumentError: too few anchors have several positives, or no negative was found; see ``calibrate``.
    """
    trial, verdicts = _open_trial(miner, dataset, judge, cross_encoder, num_anchors, seed, FEWEST_ANCHORS)
    (point,) = _draw_curve(miner, trial, verdicts, (miner.recipe.method,), confidence) or (None,)
    if point is None:
        raise ArgumentError("Expected negatives to estimate a rate from, got none; mine with a higher ceiling.")
    return FalseNegativeEstimate(point.rate, verdicts.source, setting_of(miner.recipe), seed)


def count_needed(target: float, num_negatives: int) -> int:
    """Return how many anchors can tell a rate of ``target`` from others, with so many negatives each."""
    return max(FEWEST_ANCHORS, math.ceil(EXPECTED_FALSE / (target * num_negatives)))


def typical_score(positive_scores: Sequence[float]) -> float:
    """Return the median of positive scores; 1 where there is none."""
    scores = np.asarray(positive_scores, dtype=np.float64)
    scores = scores[np.isfinite(scores)]
    return float(np.median(scores)) if len(scores) else 1.0


def _open_trial(
    miner: HardNegativeMiner,
    dataset: AnyDataset,
    judge: Judge | None,
    cross_encoder: CrossEncoder | str | None,
    num_anchors: int | None,
    seed: int,
    needed: int,
) -> tuple[Trial, Verdicts]:
    """Return the rows to try, and who says what is false."""
    if judge is not None and cross_encoder is not None:
        raise ArgumentError("Expected a judge or a cross_encoder, got both; pass one.")
    if judge is None and cross_encoder is None:
        wanted = _check_number(num_anchors, HIDDEN_ANCHORS, needed)
        trial = hide_positives(miner, dataset, num_anchors=wanted, seed=seed)
        _check_available(trial, needed, "anchors with several known positives", "pass a judge or a cross_encoder")
        return trial, HiddenPositives(trial)
    wanted = _check_number(num_anchors, JUDGED_ANCHORS, needed)
    trial = show_positives(miner, dataset, num_anchors=wanted, seed=seed)
    _check_available(trial, needed, "anchors", "give more rows")
    if cross_encoder is not None:
        judge = CrossEncoderJudge(cross_encoder, trial.anchors, trial.shown)
        return trial, Judged(judge, trial, miner.corpus, "cross-encoder")
    return trial, Judged(cast(Judge, judge), trial, miner.corpus, "judge")


def _check_number(num_anchors: int | None, default: int, needed: int) -> int:
    wanted = max(default, needed) if num_anchors is None else num_anchors
    if wanted < needed:
        raise ArgumentError(f"Expected num_anchors of at least {needed:,} to tell the rate, got {wanted:,}; raise it.")
    return wanted


def _check_available(trial: Trial, needed: int, what: str, help_: str) -> None:
    if trial.num_available < needed:
        raise ArgumentError(
            f"Expected at least {needed:,} {what} to tell the rate, got {trial.num_available:,}; {help_}, or raise the "
            "target."
        )


def _draw_curve(
    miner: HardNegativeMiner, trial: Trial, verdicts: Verdicts, settings: Sequence[Method], confidence: float
) -> tuple[CurvePoint, ...]:
    """Mine the trial with every setting and count what is false; settings without negatives are left out."""
    points = []
    for method in settings:
        tried = miner.with_method(method, forget_positives=isinstance(verdicts, HiddenPositives))
        mined = tried.mine_anew(trial.batch)
        counts = np.array([len(ids) for ids in mined["negative_ids"]], dtype=np.int64)
        if not counts.sum():
            continue
        rows = np.repeat(np.arange(len(counts)), counts)
        false = verdicts.of(rows, np.concatenate(mined["negative_ids"]))
        points.append(
            CurvePoint(
                method=method,
                rate=estimate_rate(np.bincount(rows, false, len(counts)), counts, confidence),
                pooled_rate=0.0,
                mean_negative_score=float(np.concatenate(mined["negative_scores"]).mean(dtype=np.float64)),
                full_rows=float((counts == miner.recipe.num_negatives).mean()),
            )
        )
    pooled = pool_rising([point.rate.rate for point in points], [point.rate.num_negatives for point in points])
    return tuple(replace(point, pooled_rate=float(rate)) for point, rate in zip(points, pooled, strict=True))


def _choose(curve: Sequence[CurvePoint], target: float) -> CurvePoint:
    """Return the loosest setting that keeps to the target."""
    kept = [point for point in curve if point.pooled_rate <= target]
    if kept:
        return kept[-1]
    strictest = f", got {curve[0].rate} with {show(curve[0].method)}" if curve else ", got no negatives from any"
    raise ArgumentError(
        f"Expected a setting with at most {target:.1%} false negatives{strictest}; raise the target, give stricter "
        "settings, add a guard such as SimilarToPositive() or take another method."
    )
