"""The statistics of mined data as a measurement of the ``evaluate`` library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
from datasets import Features, List, Value

from hn_datasets.errors import ColumnError
from hn_datasets.statistics import compute_statistics

_DESCRIPTION = "Distribution of the scores of positives and mined hard negatives, with signs of degenerate scores."
_INPUTS = """
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


class HardNegativeStatistics(evaluate.Measurement):  # type: ignore[misc]
    """``compute_statistics`` on inputs that arrive as lists, all at once or by ``add`` and ``add_batch``.

    Inputs wait in a file of evaluate's own cache until they are computed. It works offline.
    """

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=Features({"positive_score": Value("float32"), "negative_scores": List(Value("float32"))}),
        )

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
