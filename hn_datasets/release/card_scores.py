"""What the scores of a release say: statistics, short rows and example rows, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hn_datasets.diagnosis import piles_up
from hn_datasets.distributions import ScoreDistribution
from hn_datasets.markdown import code, escape, shorten
from hn_datasets.methods import TopKMarginPos, TopKPercPos
from hn_datasets.release.card_choices import has_no_ceiling
from hn_datasets.release.card_data import ConfigFiles
from hn_datasets.statistics import MiningStatistics

if TYPE_CHECKING:
    from hn_datasets.record import MiningRecord

DIGITS = 4
"""Of the largest score of a table; the others are rounded at the same place."""

_NONE = "–"


def count_decimals(scores: Iterable[float | None]) -> int:
    """Return how many decimals show four digits of the largest score: 4 for cosines, 2 for scores such as 33.82."""
    largest = max((abs(score) for score in scores if score is not None and math.isfinite(score)), default=0.0)
    if largest < 1.0005:  # a cosine of 1 may be rounded up
        return DIGITS
    return max(0, DIGITS - 1 - math.floor(math.log10(largest)))


def decimals_of(statistics: MiningStatistics) -> int:
    """Return the decimals of all scores of a card, so that they can be compared at a glance."""
    scores = (statistics.positive_score, statistics.negative_score, statistics.difference)
    return count_decimals(bound for column in scores for bound in (column.minimum, column.maximum))


def format_score(score: float | None, decimals: int) -> str:
    """Return a score with so many decimals, a dash where there is none."""
    return _NONE if score is None or not math.isfinite(score) else f"{score:.{decimals}f}"


def format_share(share: float | None) -> str | None:
    """Return a share from 0 to 1 as a percentage; what is not 0 and not 1 is never rounded to them."""
    if share is None:
        return None
    text = f"{share:.1%}"
    if text == "0.0%" and share > 0:
        return "under 0.1%"
    return "over 99.9%" if text == "100.0%" and share < 1 else text


def describe_statistics(record: MiningRecord) -> dict[str, Any]:
    """Return the sentences and the table."""
    statistics = record.statistics
    not_best = statistics.positive_not_best
    return {
        "rows": list(_rows(statistics)),
        "lead": _lead(statistics),
        "not_best": format_share(not_best) if not_best else None,
        "always_best": not_best == 0,
        "ceiling_below_positive": isinstance(record.recipe.method, (TopKMarginPos, TopKPercPos)),
        "diagnoses": [escape(sentence) for sentence in statistics.diagnoses],
        "by_teacher": [(code(name), f"{number:,}") for name, number in statistics.negatives_per_teacher.items()],
        "any": bool(statistics.positive_score.count),
        "piled_up": any(map(piles_up, (statistics.positive_score, statistics.negative_score, statistics.difference))),
    }


def _rows(statistics: MiningStatistics) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of the table; those of special values only where there are any."""
    columns = (statistics.positive_score, statistics.negative_score, statistics.difference)
    decimals = decimals_of(statistics)
    yield "Count", [f"{column.count:,}" for column in columns]
    for label, values in _metrics(columns):
        yield label, [format_score(value, decimals) for value in values]
    if any(column.at_most_zero for column in columns):
        yield "0 or below", [_part(column.at_most_zero, column.count) for column in columns]
    if any(map(piles_up, columns)):
        yield "Most frequent", [_most_common(column, decimals) for column in columns]


def _metrics(columns: Sequence[ScoreDistribution]) -> Iterator[tuple[str, list[float | None]]]:
    yield "Mean", [column.mean for column in columns]
    yield "Standard deviation", [column.standard_deviation for column in columns]
    yield "Minimum", [column.minimum for column in columns]
    for place, label in enumerate(("25%", "Median", "75%")):
        yield label, [column.quartiles[place] if column.quartiles else None for column in columns]
    yield "Maximum", [column.maximum for column in columns]


def _most_common(column: ScoreDistribution, decimals: int) -> str:
    if not piles_up(column):
        return _NONE
    return f"{format_score(column.most_common, decimals)}: {_part(column.most_common_count, column.count)}"


def _lead(statistics: MiningStatistics) -> str:
    positive, negative, margin = (
        None if column.mean is None else format_score(column.mean, max(1, decimals_of(statistics) - 1))
        for column in (statistics.positive_score, statistics.negative_score, statistics.difference)
    )
    if positive is None:
        return "No row was mined: there are no scores."
    if negative is None:
        return f"On average a positive scores {positive}; there are no negatives."
    return (
        f"On average a positive scores {positive} and a negative {negative}; a negative lies {margin} below the "
        "positive of its row."
    )


def _part(part: int, whole: int) -> str:
    return f"{part:,} ({format_share(part / whole)})" if whole else _NONE


def describe_short_rows(record: MiningRecord, configs: Sequence[ConfigFiles]) -> dict[str, Any]:
    """Return which rows have fewer negatives than asked for, and why."""
    statistics = record.statistics
    counts = enumerate(statistics.negatives_per_row[: statistics.num_negatives])
    without_ceiling = has_no_ceiling(record.recipe.method)
    zeros = 0 if without_ceiling or record.recipe.teacher.get("type") != "bm25" else statistics.positive_score.zeros
    tuples = next((config for config in configs if config.layout == "n-tuple"), None)
    kept = sum(tuples.num_examples.values()) if tuples else statistics.mined_rows
    return {
        "any": bool(statistics.short_rows),
        "rows": f"{_rows_of(statistics.short_rows)} ({format_share(statistics.short_share)}) "
        + ("has" if statistics.short_rows == 1 else "have"),
        "num_negatives": statistics.num_negatives,
        "counts": [(f"{number} negative{'s' * (number != 1)}", _rows_of(rows)) for number, rows in counts if rows],
        "why": _why_short(without_ceiling, bool(record.recipe.guards)),
        "zero_positives": f"{zeros:,}" if zeros else None,
        "skipped": _rows_of(statistics.skipped_rows) if statistics.skipped_rows else None,
        "tuples": _rows_of(kept) if kept < statistics.mined_rows else None,
    }


def _why_short(without_ceiling: bool, guarded: bool) -> str:
    if without_ceiling:
        return "the corpus has too few other passages" + " that the guards let pass" * guarded
    return "too few passages score below the ceiling" + " and pass the guards" * guarded


def _rows_of(number: int) -> str:
    return f"{number:,} row{'s' * (number != 1)}"


def describe_example(row: Mapping[str, Any], record: MiningRecord) -> list[tuple[str, str, str]]:
    """Return the lines of one row: what it is, its score, its text; the ceiling stands where it cuts.

    Args:
        row: of the mined dataset.
        record: names its columns.
    """
    recipe, decimals = record.recipe, decimals_of(record.statistics)
    positives = row[recipe.positive_column_name]
    positives = [positives] if isinstance(positives, str) else list(positives or ())
    positive_score = ("≥ " if len(positives) > 1 else "") + format_score(row["positive_score"], decimals)
    lines = [("**anchor**", "", escape(shorten(row[recipe.anchor_column_name] or "")))]
    lines += [("**positive**", positive_score, escape(shorten(text or ""))) for text in positives]
    ceiling = row.get("ceiling")
    if ceiling is not None and math.isfinite(ceiling):
        lines.append(("*ceiling*", f"*{format_score(ceiling, decimals)}*", "*every negative scores below*"))
    teachers = row.get("negative_teachers") or [None] * len(row["negatives"])
    negatives = zip(row["negatives"], row["negative_scores"], teachers, strict=True)
    lines += [
        (
            f"negative {number}" + (f" by {code(name)}" if name else ""),
            format_score(score, decimals),
            escape(shorten(text)),
        )
        for number, (text, score, name) in enumerate(negatives, 1)
    ]
    return lines if row["negatives"] else [*lines, ("*no negative*", "", "*no passage of the corpus qualifies*")]
