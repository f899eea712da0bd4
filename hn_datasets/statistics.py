"""Statistics of mined data: a pure function of the numeric columns, and of the names of an ensemble's teachers.

The result is the same to the last bit for any row order and any sharding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hn_datasets.batches import find_skipped
from hn_datasets.diagnosis import NOT_BEST_SHARE, SHORT_SHARE, diagnose
from hn_datasets.distributions import (
    QUARTILES,
    ScoreCounts,
    ScoreDistribution,
    bin_edges,
    describe_scores,
    lists_to_tuples,
    tuples_to_lists,
)
from hn_datasets.errors import ArgumentError
from hn_datasets.score_columns import MinedColumns, ScoreColumns


@dataclass(frozen=True)
class MiningStatistics:
    """What the columns of mined data say about it.

    Attributes:
        rows: all rows, skipped ones too.
        skipped_rows: rows that the miner skipped as empty.
        short_rows: other rows with fewer than ``num_negatives`` negatives.
        num_negatives: what a full row has.
        negatives: all negatives; those that ``format_dataset`` filled in are counted here, but have no score.
        negatives_per_row: entry k is the number of rows, skipped ones left out, that have k negatives.
        positive_score: of rows that were not skipped.
        negative_score: of all negatives; shares its histogram edges with ``positive_score``.
        difference: the row's positive score minus the score of each of its negatives.
        positive_not_best: share, 0 to 1, of rows whose positive is not the best passage (``top_score`` is higher);
            None where the column is missing or no row was mined.
        negatives_per_teacher: of an ensemble, how many negatives each teacher gave, by its name; else empty.
        guard_removals: how many passages each guard took out, in all rows; empty where there are no guards.
        failed_texts: texts that made the teacher fail and were left out, with the rows that need them.
        diagnoses: one sentence for each sign of degenerate scores: what was found, and what to do.
    """

    rows: int
    skipped_rows: int
    short_rows: int
    num_negatives: int
    negatives: int
    negatives_per_row: tuple[int, ...]
    positive_score: ScoreDistribution
    negative_score: ScoreDistribution
    difference: ScoreDistribution
    positive_not_best: float | None
    negatives_per_teacher: dict[str, int] = field(default_factory=dict, hash=False)
    guard_removals: tuple[int, ...] = ()
    failed_texts: int = 0
    diagnoses: tuple[str, ...] = ()

    @property
    def mined_rows(self) -> int:
        """Rows that were not skipped."""
        return self.rows - self.skipped_rows

    @property
    def short_share(self) -> float:
        """Share, 0 to 1, of short rows among those that were not skipped."""
        return self.short_rows / self.mined_rows if self.mined_rows else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: numbers, strings, lists and None, never NaN."""
        data: dict[str, Any] = tuples_to_lists(asdict(self))
        if not self.failed_texts:  # only a run that may go on has any
            del data["failed_texts"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MiningStatistics:
        """Return the statistics whose ``to_dict`` gave ``data``."""
        scores = {name: ScoreDistribution.from_dict(data[name]) for name in _SCORES}
        return cls(**lists_to_tuples({**data, **scores}))

    def __str__(self) -> str:
        return self.to_table()

    def to_table(self, guards: Sequence[str] = ()) -> str:
        """Return the table that ``mine_hard_negatives`` of sentence-transformers prints, then plain sentences.

        Of an even number of values, "Median" is halfway between the middle two; there it is the lower one.

        Args:
            guards: names for the guards (``Recipe.guard_names``), which are numbered otherwise.
        """
        columns = [getattr(self, name) for name in _SCORES]
        lines = [_line("Metric", *(name.removesuffix("_score").capitalize() for name in _SCORES))]
        lines.append(_line("Count", *(f"{column.count:,}" for column in columns[:2]), ""))
        for label, values in _metrics(columns):
            lines.append(_line(label, *("-" if value is None else f"{value:.4f}" for value in values)))
        return "\n".join([*lines, *self._sentences(guards)])

    def _sentences(self, guards: Sequence[str]) -> Iterator[str]:
        yield f"{self.rows:,} rows have {self.negatives:,} negatives."
        if self.negatives_per_teacher:
            yield f"By teacher: {', '.join(f'{name} {n:,}' for name, n in self.negatives_per_teacher.items())}."
        if self.short_rows and self.short_share <= SHORT_SHARE:  # above, a diagnosis says it
            yield (
                f"{self.short_rows:,} of them ({self.short_rows / self.rows:.2%}) have fewer than "
                f"{self.num_negatives} negatives."
            )
        if self.skipped_rows:
            yield f"{self.skipped_rows:,} of them were skipped as empty."
        if self.failed_texts:
            yield f"{self.failed_texts:,} texts made the teacher fail and were left out, with the rows that need them."
        if (
            self.positive_not_best is not None and self.positive_not_best <= NOT_BEST_SHARE
        ):  # above, a diagnosis says it
            yield f"In {self.positive_not_best:.2%} of rows another passage scores higher than the positive."
        if self.guard_removals:
            names = guards if len(guards) == len(self.guard_removals) else range(1, len(self.guard_removals) + 1)
            counts = ", ".join(f"{name} {count:,}" for name, count in zip(names, self.guard_removals, strict=True))
            yield f"Passages that guards took out: {counts}."
        yield from self.diagnoses


_SCORES = ("positive_score", "negative_score", "difference")


def compute_statistics(
    mined: MinedColumns,
    *,
    num_negatives: int | None = None,
    num_bins: int = 50,
) -> MiningStatistics:
    """Compute the statistics of mined data; texts are never read.

    Args:
        mined: a mined dataset, all splits of one together, its columns by name, or several tables of such columns:
            ``positive_score`` (``[n]``, taken as float32), ``negative_scores`` (n lists of float32) and maybe
            ``top_score`` (``[n]``), ``negative_teachers`` (n lists of names) and ``guard_removals`` (n lists of int).
        num_negatives: what a full row has, at least 1; default: those of the longest row. No negative is left out.
        num_bins: bins of each histogram, at least 1.

    Raises:
        ArgumentError: ``num_negatives`` or ``num_bins`` is below 1.
        ColumnError: ``positive_score`` or ``negative_scores`` is missing.
    """
    for name, number in (("num_negatives", num_negatives), ("num_bins", num_bins)):
        if number is not None and number < 1:
            raise ArgumentError(f"Expected {name} >= 1, got {number}; leave it out for the default.")
    return merge_statistics([count_scores(mined)], num_negatives=num_negatives, num_bins=num_bins)


MERGED_PARTS = 16
"""How many parts are merged at a time: equal scores are kept once then, and 100,000 rows would take 40 MB otherwise."""


@dataclass(frozen=True)
class PartialStatistics:
    """What some rows add to the statistics of all; see ``MiningStatistics``.

    Attributes:
        rows: all rows, skipped ones too.
        skipped_rows: those that the miner skipped as empty.
        longest: negatives of the longest row.
        negatives: all negatives.
        negatives_per_row: entry k is the number of rows, skipped ones left out, that have k negatives.
        positive: scores of positives.
        negative: scores of negatives.
        difference: of the row's positive and each of its negatives.
        positive_not_best: how many rows whose positive is not the best passage; None where the column is missing.
        teachers: how many negatives each teacher gave.
        guard_removals: sums over the rows; empty where the column is missing.
    """

    rows: int
    skipped_rows: int
    longest: int
    negatives: int
    negatives_per_row: tuple[int, ...]
    positive: ScoreCounts
    negative: ScoreCounts
    difference: ScoreCounts
    positive_not_best: int | None
    teachers: Mapping[str, int]
    guard_removals: tuple[int, ...]

    @classmethod
    def merge(cls, parts: Sequence[PartialStatistics]) -> PartialStatistics:
        """Return what the rows of several parts add together."""
        if len(parts) == 1:
            return parts[0]
        per_row = np.zeros(max(len(part.negatives_per_row) for part in parts), dtype=np.int64)
        teachers: Counter[str] = Counter()
        for part in parts:
            per_row[: len(part.negatives_per_row)] += np.array(part.negatives_per_row, dtype=np.int64)
            teachers.update(part.teachers)
        not_best = [part.positive_not_best for part in parts]
        known = [count for count in not_best if count is not None]
        return cls(
            rows=sum(part.rows for part in parts),
            skipped_rows=sum(part.skipped_rows for part in parts),
            longest=max(part.longest for part in parts),
            negatives=sum(part.negatives for part in parts),
            negatives_per_row=tuple(per_row.tolist()),
            positive=ScoreCounts.merge([part.positive for part in parts]),
            negative=ScoreCounts.merge([part.negative for part in parts]),
            difference=ScoreCounts.merge([part.difference for part in parts]),
            positive_not_best=sum(known) if len(known) == len(parts) else None,
            teachers=teachers,
            guard_removals=tuple(map(sum, zip(*(part.guard_removals for part in parts if part.rows), strict=False))),
        )

    @classmethod
    def collect(cls, parts: Iterable[PartialStatistics]) -> PartialStatistics | None:
        """Return what many parts add together, of which only some are held at a time; None for no part."""
        held: list[PartialStatistics] = []
        for part in parts:
            held.append(part)
            if len(held) == MERGED_PARTS:
                held = [cls.merge(held)]
        return cls.merge(held) if held else None


def count_scores(
    mined: MinedColumns,
) -> PartialStatistics:
    """Return what rows add to the statistics of all; arguments and errors are those of ``compute_statistics``."""
    columns = ScoreColumns.collect(mined)
    skipped = find_skipped(columns.positive_scores, columns.counts)
    difference, not_best = ScoreCounts.of(columns.differences()), columns.positive_not_best(~skipped)
    return PartialStatistics(
        rows=len(skipped),
        skipped_rows=int(skipped.sum()),
        longest=int(columns.counts.max(initial=0)),
        negatives=int(columns.counts.sum()),
        negatives_per_row=tuple(np.bincount(columns.counts[~skipped]).tolist()),
        positive=ScoreCounts.of(columns.positive_scores),
        negative=ScoreCounts.of(columns.negative_scores),
        difference=difference,
        positive_not_best=not_best,
        teachers=columns.teachers,
        guard_removals=columns.guard_removals,
    )


def merge_statistics(
    parts: Sequence[PartialStatistics], *, num_negatives: int | None = None, num_bins: int = 50
) -> MiningStatistics:
    """Return the statistics of all rows from those of parts; see ``compute_statistics``."""
    whole = PartialStatistics.merge(parts)
    num_negatives = num_negatives or max(1, whole.longest)
    per_row = np.zeros(max(num_negatives, whole.longest) + 1, dtype=np.int64)
    per_row[: len(whole.negatives_per_row)] = whole.negatives_per_row
    edges = bin_edges([whole.positive.values, whole.negative.values], num_bins)
    positive, negative = describe_scores(whole.positive, edges), describe_scores(whole.negative, edges)
    mined, not_best = whole.rows - whole.skipped_rows, whole.positive_not_best
    share = not_best / mined if not_best is not None and mined else None
    counts = {"short_rows": int(per_row[:num_negatives].sum()), "num_negatives": num_negatives}
    return MiningStatistics(
        rows=whole.rows,
        skipped_rows=whole.skipped_rows,
        **counts,
        negatives=whole.negatives,
        negatives_per_row=tuple(per_row.tolist()),
        positive_score=positive,
        negative_score=negative,
        difference=describe_scores(whole.difference, bin_edges([whole.difference.values], num_bins)),
        positive_not_best=share,
        negatives_per_teacher=dict(sorted(whole.teachers.items())),
        guard_removals=whole.guard_removals,
        diagnoses=tuple(diagnose(positive, negative, positive_not_best=share, mined_rows=mined, **counts)),
    )


def _metrics(columns: Sequence[ScoreDistribution]) -> Iterator[tuple[str, list[float | None]]]:
    """Yield the rows of the table below its counts."""
    yield "Mean", [column.mean for column in columns]
    yield "Median", [column.median for column in columns]
    yield "Std", [column.standard_deviation for column in columns]
    yield "Min", [column.minimum for column in columns]
    for place, share in enumerate(QUARTILES):
        yield f"{share:.0%}", [column.quartiles[place] if column.quartiles else None for column in columns]
    yield "Max", [column.maximum for column in columns]


def _line(label: str, *cells: str) -> str:
    return f"{label:<6} " + " ".join(f"{cell:>14}" for cell in cells).rstrip()
