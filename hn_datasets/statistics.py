"""Statistics of mined data: a pure function of the numeric columns, and of the names of an ensemble's teachers.

The result is the same to the last bit for any row order and any sharding: values are sorted, sums are exact
(``math.fsum``) before they are rounded once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, IterableDataset

from hn_datasets.batches import check_columns, count_items, find_skipped
from hn_datasets.errors import ArgumentError

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Chunk: TypeAlias = "Mapping[str, Any] | pa.Table"
"""Some rows: arrays or lists under the column names ``positive_score``, ``negative_scores``, maybe ``top_score`` and
``negative_teachers``, ``guard_removals``."""

QUARTILES = (0.25, 0.5, 0.75)

ZERO_SHARE = 0.01
"""Products of dense vectors are practically never exactly 0, so one in a hundred already means a lexical teacher."""
PILE_UP_SHARE = 0.05
"""Continuous scores hardly ever coincide; one value in twenty is a bound or a clip, not chance."""
PILE_UP_COUNT = 3
"""Fewer equal values than this are no pile-up: of ten scores, each has a share of a tenth."""
AT_MOST_ZERO_SHARE = 0.01
"""A pair that belongs together scores above 0 under any useful teacher; one in a hundred is more than stray noise."""
NOT_BEST_SHARE = 0.5
"""Good teachers still rank another passage first for a third of the anchors or so; for half, the ceiling is unsafe."""
SHORT_SHARE = 0.05
"""``n-tuple`` drops short rows; losing more than one row in twenty changes the training data."""

_ROWS = 10_000  # read at once
_BLOCK = 1_000_000  # numbers turned into float64 at once


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
        return cls(**_lists_to_tuples(data))


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
        data: dict[str, Any] = _tuples_to_lists(asdict(self))
        if not self.failed_texts:  # only a run that may go on has any
            del data["failed_texts"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MiningStatistics:
        """Return the statistics whose ``to_dict`` gave ``data``."""
        scores = {name: ScoreDistribution.from_dict(data[name]) for name in _SCORES}
        return cls(**_lists_to_tuples({**data, **scores}))

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
        if self.short_rows:
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
    mined: Dataset | DatasetDict | IterableDataset | Chunk | Iterable[Chunk],
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
            guard_removals=tuple(map(sum, zip(*(part.guard_removals for part in parts), strict=True))),
        )


def count_scores(
    mined: Dataset | DatasetDict | IterableDataset | Chunk | Iterable[Chunk],
) -> PartialStatistics:
    """Return what rows add to the statistics of all; arguments and errors are those of ``compute_statistics``."""
    columns = _Columns.collect(_chunks(mined))
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
    positive, negative, difference = whole.positive, whole.negative, whole.difference
    edges = _edges([positive.values, negative.values], num_bins)
    mined, not_best = whole.rows - whole.skipped_rows, whole.positive_not_best
    statistics = MiningStatistics(
        rows=whole.rows,
        skipped_rows=whole.skipped_rows,
        short_rows=int(per_row[:num_negatives].sum()),
        num_negatives=num_negatives,
        negatives=whole.negatives,
        negatives_per_row=tuple(per_row.tolist()),
        positive_score=_describe(positive, edges),
        negative_score=_describe(negative, edges),
        difference=_describe(difference, _edges([difference.values], num_bins)),
        positive_not_best=not_best / mined if not_best is not None and mined else None,
        negatives_per_teacher=dict(sorted(whole.teachers.items())),
        guard_removals=whole.guard_removals,
    )
    return replace(statistics, diagnoses=tuple(_diagnose(statistics)))


@dataclass(frozen=True)
class _Columns:
    """The numeric columns of n rows with m negatives.

    Attributes:
        positive_scores: shape ``[n]``, float32.
        counts: shape ``[n]``, int64, negatives of each row.
        negative_scores: shape ``[m]``, float32, row after row.
        top_scores: shape ``[n]``, float32; None where a chunk has none.
        teachers: how many negatives each teacher of an ensemble gave.
        guard_removals: sums over the rows, one for each guard; empty where a chunk has none.
    """

    positive_scores: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    negative_scores: npt.NDArray[np.float32]
    top_scores: npt.NDArray[np.float32] | None
    teachers: Counter[str]
    guard_removals: tuple[int, ...]

    @classmethod
    def collect(cls, chunks: Iterable[Chunk]) -> _Columns:
        positives, counts, negatives, tops = [], [], [], []
        complete, teachers = True, Counter[str]()
        guarded, removals = True, np.zeros(0, dtype=np.int64)
        for chunk in chunks:
            names = chunk.column_names if isinstance(chunk, pa.Table) else list(chunk)
            check_columns(names, ("positive_score", "negative_scores"))
            lists = _as_lists(chunk["negative_scores"])
            positives.append(_as_floats(chunk["positive_score"]))
            counts.append(count_items(lists))
            negatives.append(_as_floats(lists.flatten()))
            complete = complete and "top_score" in names
            tops.append(_as_floats(chunk["top_score"] if complete else []))
            if "negative_teachers" in names:
                teachers.update(count_names(_as_lists(chunk["negative_teachers"], pa.string())))
            guarded = guarded and "guard_removals" in names
            removals = _add_lists(removals, chunk["guard_removals"]) if guarded else removals
        none = np.zeros(0, dtype=np.float32)
        return cls(
            np.concatenate([none, *positives]),
            np.concatenate([none.astype(np.int64), *counts]),
            np.concatenate([none, *negatives]),
            np.concatenate([none, *tops]) if complete else None,
            teachers,
            tuple(removals.tolist()) if guarded else (),
        )

    def differences(self) -> npt.NDArray[np.float64]:
        """Return each row's positive score minus the score of each of its negatives, shape ``[m]``, float64."""
        differences = np.repeat(self.positive_scores.astype(np.float64), self.counts)
        differences -= self.negative_scores
        return differences

    def positive_not_best(self, rows: npt.NDArray[np.bool_]) -> int | None:
        """Return in how many of ``rows`` another passage scores higher; a missing top score (NaN) is not higher."""
        if self.top_scores is None:
            return None
        return int((self.top_scores > self.positive_scores)[rows].sum())


def _chunks(mined: Dataset | DatasetDict | IterableDataset | Chunk | Iterable[Chunk]) -> Iterator[Chunk]:
    if isinstance(mined, DatasetDict):
        yield from chain.from_iterable(map(_chunks, mined.values()))
    elif isinstance(mined, Dataset):
        known = ("positive_score", "negative_scores", "top_score", "negative_teachers", "guard_removals")
        names = [name for name in known if name in mined.column_names]
        check_columns(names, ("positive_score", "negative_scores"))
        yield from mined.select_columns(names).with_format("arrow").iter(_ROWS)
    elif isinstance(mined, IterableDataset):
        yield from mined.iter(_ROWS)
    elif isinstance(mined, (Mapping, pa.Table)):
        yield mined
    else:
        yield from mined


def count_names(lists: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    """Return how often each name stands in a column of lists; null, which filled negatives have, is no name."""
    counts = pc.value_counts(pc.list_flatten(lists)).to_pylist()
    return {entry["values"]: entry["counts"] for entry in counts if entry["values"] is not None}


def _as_lists(values: Any, kind: pa.DataType | None = None) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pa.array(list(values), type=pa.list_(kind or pa.float32()))


def _add_lists(sums: npt.NDArray[np.int64], values: Any) -> npt.NDArray[np.int64]:
    """Return the sums of what stands at each place of lists, added to those so far."""
    lists = _as_lists(values, pa.int64())
    counts = count_items(lists)
    places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    added = np.zeros(max(len(sums), int(counts.max(initial=0))), dtype=np.int64)
    added[: len(sums)] = sums
    np.add.at(added, places, np.asarray(lists.flatten().fill_null(0)).astype(np.int64))
    return added


def _as_floats(values: Any) -> npt.NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)


def _sort_finite(values: Floats) -> Floats:
    """Sort ``values`` in place and return the finite ones; -0.0 becomes 0.0, so that equal values are the same bits."""
    values += 0.0
    values.sort()
    bounds = np.array([-np.inf, np.inf], dtype=values.dtype)
    return values[np.searchsorted(values, bounds[0], "right") : np.searchsorted(values, bounds[1], "left")]


def _edges(columns: Sequence[Floats], num_bins: int) -> npt.NDArray[np.float64]:
    """Return equal bins from the lowest to the highest value of sorted columns, one wide where these are equal."""
    filled = [column for column in columns if len(column)]
    if not filled:
        return np.zeros(0)
    low, high = (float(bound) for bound in (min(c[0] for c in filled), max(c[-1] for c in filled)))
    return np.linspace(low - 0.5, high + 0.5, num_bins + 1) if low == high else np.linspace(low, high, num_bins + 1)


def _describe(scores: ScoreCounts, edges: npt.NDArray[np.float64]) -> ScoreDistribution:
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


def _diagnose(statistics: MiningStatistics) -> Iterator[str]:
    """Yield a sentence for each sign of degenerate scores."""
    positive, negative = statistics.positive_score, statistics.negative_score
    if negative.zeros > ZERO_SHARE * negative.count:
        yield (
            f"{_part(negative.zeros, negative.count)} negatives score exactly 0: with BM25 they share no word with the "
            "anchor and are no harder than random ones; lower num_negatives, or use a dense teacher."
        )
    yield from _find_pile_up("positive", positive)
    yield from _find_pile_up("negative", negative)
    if positive.at_most_zero > AT_MOST_ZERO_SHARE * positive.count:
        yield (
            f"{_part(positive.at_most_zero, positive.count)} positives score 0 or below: the teacher sees nothing in "
            "common between them and their anchors; check the column names, the teacher's prompts and its language "
            "(logits of a cross-encoder may be negative)."
        )
    if statistics.positive_not_best is not None and statistics.positive_not_best > NOT_BEST_SHARE:
        yield (
            f"In {statistics.positive_not_best:.1%} of rows another passage scores higher than the positive, as with "
            "long or diverse passages: many of them may be right answers; keep a ceiling relative to the positive, "
            "shorten the passages, or use a stronger teacher."
        )
    if statistics.short_share > SHORT_SHARE:
        yield (
            f"{_part(statistics.short_rows, statistics.mined_rows)} rows have fewer than {statistics.num_negatives} "
            "negatives: add passages to the corpus, raise the ceiling, or lower num_negatives."
        )


def _find_pile_up(kind: str, scores: ScoreDistribution) -> Iterator[str]:
    if scores.constant:
        yield (
            f"All {scores.count:,} {kind} scores are {scores.minimum:g}: the teacher tells nothing apart; check its "
            "prompts and that the texts are not cut to the same beginning."
        )
    elif (
        scores.most_common != 0  # has its own sentences
        and scores.most_common_count >= PILE_UP_COUNT
        and scores.most_common_count > PILE_UP_SHARE * scores.count
    ):
        yield (
            f"{_part(scores.most_common_count, scores.count)} {kind} scores are exactly {scores.most_common:g}, as "
            "after min-max normalisation or clipping: a ceiling cannot separate equal scores; mine with the raw scores."
        )


def _part(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / whole:.1%})"


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


def _tuples_to_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples_to_lists(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _lists_to_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
