"""What can be measured of mined data, as measurements of the ``evaluate`` library.

They take plain lists, so they measure other people's negatives too. All of them work offline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Features, List, Value

from hn_datasets.errors import ColumnError
from hn_datasets.estimation.rates import count_labelled, estimate_rate_of_rows, jaccard
from hn_datasets.statistics import compute_statistics

SCORES = Features({"positive_score": Value("float32"), "negative_scores": List(Value("float32"))})
TEXTS = List(Value("string"))


class _Measurement(evaluate.Measurement):  # type: ignore[misc]
    """What all of them tell ``evaluate``: in one sentence what is measured, by which inputs, and their types."""

    about: ClassVar[str]
    inputs: ClassVar[str]
    columns: ClassVar[Features]

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description=self.about, citation="", inputs_description=self.inputs, features=self.columns
        )


class HardNegativeStatistics(_Measurement):
    """``compute_statistics`` on inputs that arrive as lists, all at once or by ``add`` and ``add_batch``.

    Inputs wait in a file of evaluate's own cache until they are computed. It works offline.
    """

    about = "Distribution of the scores of positives and mined hard negatives, with signs of degenerate scores."
    inputs = """
Args:
    positive_score: one number for each row, the lowest score of the row's positives; NaN where it was skipped.
    negative_scores: one list of numbers for each row, the scores of its negatives.
    top_score: only for ``compute``, one number for each row of all batches, the highest score of any passage that is
        not a positive; default: none.
    num_negatives: only for ``compute``, what a full row has; default: those of the longest row.
    num_bins: only for ``compute``, bins of each histogram; default: 50.

Returns:
    The dictionary of ``hn_datasets.statistics.MiningStatistics.to_dict``.
"""
    columns = SCORES

    def _compute(
        self,
        *,
        positive_score: Sequence[float],
        negative_scores: Sequence[Sequence[float]],
        top_score: Sequence[float] | None = None,
        num_negatives: int | None = None,
        num_bins: int = 50,
    ) -> dict[str, Any]:
        """Return the statistics as a dictionary.

        Raises:
            ColumnError: ``top_score`` does not have one number for each row.
            ArgumentError: ``num_negatives`` or ``num_bins`` is below 1.
        """
        columns: dict[str, Any] = {"positive_score": positive_score, "negative_scores": negative_scores}
        if top_score is not None:
            if len(top_score) != len(positive_score):
                raise ColumnError(
                    f"Expected top_score for each of {len(positive_score):,} rows, got {len(top_score):,}; give all "
                    "of them to compute, since add and add_batch cannot take them."
                )
            columns["top_score"] = top_score
        return compute_statistics(columns, num_negatives=num_negatives, num_bins=num_bins).to_dict()


class NegativeHardness(_Measurement):
    """How close negatives are to their anchors, by scores of one model.

    Compare sets of negatives by the scores of the same model, and not by those that each was mined with.
    """

    about = "Mean score of the negatives, and how far below the positive of their row they lie."
    inputs = """
Args:
    positive_score: one number for each row.
    negative_scores: one list of numbers for each row, the scores of its negatives.

Returns:
    hardness: mean score of all negatives.
    hardest: mean, over rows, of the best negative's score.
    margin: mean, over negatives, of the positive's score minus the negative's.
    above_positive: share of the negatives that score at least as high as the positive of their row.
    num_negatives: how many negatives there are; where there is none, the others are None.
"""
    columns = SCORES

    def _compute(
        self, *, positive_score: Sequence[float], negative_scores: Sequence[Sequence[float]]
    ) -> dict[str, Any]:
        """Return the means.

        Raises:
            ColumnError: a score is not a finite number.
        """
        counts = [len(row) for row in negative_scores]
        scores = np.asarray([score for row in negative_scores for score in row], dtype=np.float64)
        positives = np.repeat(np.asarray(positive_score, dtype=np.float64), counts)
        if not np.isfinite(scores).all() or not np.isfinite(positives).all():
            raise ColumnError(
                "Expected finite scores of negatives and of the positives of their rows, got NaN or infinity; leave "
                "such rows out."
            )
        if not len(scores):
            return {"hardness": None, "hardest": None, "margin": None, "above_positive": None, "num_negatives": 0}
        return {
            "hardness": float(scores.mean()),
            "hardest": float(np.mean([max(row) for row in negative_scores if len(row)])),
            "margin": float((positives - scores).mean()),
            "above_positive": float((scores >= positives).mean()),
            "num_negatives": len(scores),
        }


class FalseNegativeRate(_Measurement):
    """Which share of the negatives are labelled as right answers, with an interval.

    Texts, or ids as strings, are the same where they differ only in case, white space or Unicode form (NFKC).
    """

    about = "Share of negatives that relevance labels call right answers."
    inputs = """
Args:
    anchor: one text for each row; rows of the same anchor count as one in the interval.
    negatives: one list of texts for each row.
    relevant: one list of texts for each row, all right answers of its anchor.
    confidence: only for compute, of the interval; default: 0.95.

Returns:
    rate, low, high, confidence, num_anchors, num_negatives and num_false, as in ``hn_datasets.estimation.rates.Rate``.
"""
    columns = Features({"anchor": Value("string"), "negatives": TEXTS, "relevant": TEXTS})

    def _compute(
        self,
        *,
        anchor: Sequence[str],
        negatives: Sequence[Sequence[str]],
        relevant: Sequence[Sequence[str]],
        confidence: float = 0.95,
    ) -> dict[str, Any]:
        """Return the rate and its interval.

        Raises:
            ArgumentError: there is no negative, or ``confidence`` is out of range.
        """
        false = [count_labelled(row, labels) for row, labels in zip(negatives, relevant, strict=True)]
        return estimate_rate_of_rows(anchor, false, [len(row) for row in negatives], confidence).to_dict()


class NegativeOverlap(_Measurement):
    """How many negatives two mined sets of the same rows have in common."""

    about = "Jaccard index of two sets of (row, negative) pairs."
    inputs = """
Args:
    first: one list of texts, or of ids as strings, for each row.
    second: one list for each row, the negatives of the same row in the other set.

Returns:
    jaccard: pairs of a row and a negative in both sets, as a share of those in any; None where there is no negative.
    same_rows: share of the rows with the same negatives in any order; None where there is no row.
    num_common, num_first, num_second: numbers of pairs.
"""
    columns = Features({"first": TEXTS, "second": TEXTS})

    def _compute(self, *, first: Sequence[Sequence[str]], second: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Return the overlap."""
        pairs = [(set(row), set(other)) for row, other in zip(first, second, strict=True)]
        common, ones, others = (
            sum(len(part) for part in parts)
            for parts in ([a & b for a, b in pairs], [a for a, _ in pairs], [b for _, b in pairs])
        )
        return {
            "jaccard": jaccard(common, ones, others),
            "same_rows": sum(a == b for a, b in pairs) / len(pairs) if pairs else None,
            "num_common": common,
            "num_first": ones,
            "num_second": others,
        }
