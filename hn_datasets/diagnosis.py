"""Signs of degenerate scores, in sentences: what was found, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

from hn_datasets.distributions import ScoreDistribution

ZERO_SHARE = 0.01
"""Products of dense vectors are practically never exactly 0, so one in a hundred already means a lexical teacher."""
PILE_UP_SHARE = 0.05
"""Continuous scores hardly ever coincide; one value in twenty is a bound or a clip, not chance."""
PILE_UP_COUNT = 3
"""Fewer equal values than this are no pile-up: of ten scores, each has a share of a tenth."""
AT_MOST_ZERO_SHARE = 0.01
"""A pair that belongs together scores above 0 under any useful teacher; one in a hundred is more than stray noise."""
NOT_BEST_SHARE = 0.4
"""Good teachers still rank another passage first for a third of the anchors or so; for more, the ceiling is unsafe."""
ENDS_SHARE, END_SHARE = 0.25, 0.05
"""Scores of both ends together, and of each: of an even distribution over ten bins, both ends hold a fifth."""
END_BINS = 10
"""Fewer bins than this from the lowest to the highest score are too wide to be its ends."""
SHORT_SHARE = 0.05
"""``n-tuple`` drops short rows; losing more than one row in twenty changes the training data."""


def diagnose(
    positive: ScoreDistribution,
    negative: ScoreDistribution,
    *,
    positive_not_best: float | None,
    short_rows: int,
    mined_rows: int,
    num_negatives: int,
) -> Iterator[str]:
    """Yield a sentence for each sign of degenerate scores; arguments are as in ``MiningStatistics``."""
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
            "common between them and their anchors; check the column names, the teacher's prompts and its language, "
            "and shorten passages that are long or of many topics (logits of a cross-encoder may be negative)."
        )
    if positive_not_best is not None and positive_not_best > NOT_BEST_SHARE:
        yield (
            f"In {positive_not_best:.1%} of rows another passage scores higher than the positive, as with "
            "long or diverse passages: many of them may be right answers; keep a ceiling relative to the positive, "
            "shorten the passages, or use a stronger teacher."
        )
    if mined_rows and short_rows / mined_rows > SHORT_SHARE:
        yield (
            f"{_part(short_rows, mined_rows)} rows have fewer than {num_negatives} negatives: add passages to the "
            "corpus, raise the ceiling, or lower num_negatives."
        )


def piles_up(scores: ScoreDistribution) -> bool:
    """Return whether so many values are the same that it is not chance."""
    return scores.most_common_count >= PILE_UP_COUNT and scores.most_common_count > PILE_UP_SHARE * scores.count


def _find_pile_up(kind: str, scores: ScoreDistribution) -> Iterator[str]:
    if scores.constant:
        yield (
            f"All {scores.count:,} {kind} scores are {scores.minimum:g}: the teacher tells nothing apart; check its "
            "prompts and that the texts are not cut to the same beginning."
        )
    elif (ends := _ends(scores)) is not None:
        (low, low_until), (high, high_from) = ends
        yield (
            f"{_part(low, scores.count)} {kind} scores lie at the lower end, up to {low_until:.3g}, and "
            f"{_part(high, scores.count)} at the upper, from {high_from:.3g}, as after a sigmoid or min-max "
            "normalisation: a ceiling separates little there; mine with the raw scores."
        )
    elif scores.most_common != 0 and piles_up(scores):  # 0 has its own sentences
        yield (
            f"{_part(scores.most_common_count, scores.count)} {kind} scores are exactly {scores.most_common:g}, as "
            "after min-max normalisation or clipping: a ceiling cannot separate equal scores; mine with the raw scores."
        )


def _ends(scores: ScoreDistribution) -> tuple[tuple[int, float], tuple[int, float]] | None:
    """Return how many scores lie in the lowest and in the highest bin, and where these end; None if no piles are there.

    A pile is thrice as high as the bin beside it.
    """
    filled = [number for number, count in enumerate(scores.bin_counts) if count]
    if not filled or filled[-1] - filled[0] + 1 < END_BINS:
        return None
    first, last = filled[0], filled[-1]
    low, high = scores.bin_counts[first], scores.bin_counts[last]
    beside = ((low, scores.bin_counts[first + 1]), (high, scores.bin_counts[last - 1]))
    if low + high < ENDS_SHARE * scores.count or any(
        end < max(PILE_UP_COUNT, END_SHARE * scores.count, 3 * next_one) for end, next_one in beside
    ):
        return None
    return (low, scores.edges[first + 1]), (high, scores.edges[last])


def _part(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / whole:.1%})"
