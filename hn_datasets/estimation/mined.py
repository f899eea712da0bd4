"""Estimating the false negatives of what is mined already: by relevance labels, a cross-encoder or a judge."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from datasets import Dataset, DatasetDict

from hn_datasets.batches import check_columns
from hn_datasets.columns import READ_ROWS, check_texts, splits_of
from hn_datasets.errors import ArgumentError
from hn_datasets.estimation.calibration import FEWEST_ANCHORS, HIDDEN_ANCHORS, JUDGED_ANCHORS
from hn_datasets.estimation.hiding import draw_anchors
from hn_datasets.estimation.judging import CrossEncoderJudge, Judge, ask
from hn_datasets.estimation.rates import check_confidence, count_labelled, estimate_rate_of_rows
from hn_datasets.estimation.results import FalseNegativeEstimate, setting_of
from hn_datasets.recipe import Recipe
from hn_datasets.texts import digest_texts

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


def estimate_mined(
    mined: Dataset | DatasetDict,
    recipe: Recipe,
    *,
    relevant_column_name: str | None = None,
    cross_encoder: CrossEncoder | str | None = None,
    judge: Judge | None = None,
    num_anchors: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> FalseNegativeEstimate:
    """Estimate which share of the negatives of a mined dataset is false; nothing is mined again.

    Args:
        mined: what ``map`` returned, or splits of it.
        recipe: of the miner.
        relevant_column_name: a column with all right answers of each anchor, one text or a list; rows without any tell
            nothing. Texts are the same as in ``normalise``.
        cross_encoder: in its place: a negative that it scores at least as high as the row's positive, the lowest of
            several, is a right answer.
        judge: in its place: says which negatives are right answers; see ``Judge``.
        num_anchors: how many anchors are looked at, at most; 2,000 by labels, else 200, if None.
        confidence: of the interval.
        seed: of the sample of anchors.

    Raises:
        ArgumentError: none or several of the three are given; an argument is out of range; there are too few anchors;
            the judge gives no usable answers, or the cross-encoder has several labels.
        ColumnError: a column is missing, or holds no texts.
        TeacherError: the cross-encoder cannot be loaded.
        VectorError: one of its scores is NaN or infinite.
    """
    sources = {"relevant_column_name": relevant_column_name, "cross_encoder": cross_encoder, "judge": judge}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        raise ArgumentError(
            f"Expected one of {', '.join(sources)}, got {' and '.join(given) or 'none'}; pass the one that says which "
            "negatives are right answers."
        )
    check_confidence(confidence)
    if num_anchors is not None and num_anchors < FEWEST_ANCHORS:
        raise ArgumentError(f"Expected num_anchors of at least {FEWEST_ANCHORS}, got {num_anchors}; raise it.")
    wanted = num_anchors or (JUDGED_ANCHORS if relevant_column_name is None else HIDDEN_ANCHORS)
    rows = _sample(mined, recipe, relevant_column_name, wanted, seed)
    if relevant_column_name is not None:
        false, source = [float(count_labelled(row.negatives, row.relevant)) for row in rows], "relevance labels"
    elif judge is not None:
        false, source = _ask(judge, rows), "judge"
    else:
        pairs = [(row.anchor, positive) for row in rows for positive in row.positives]
        reranker = CrossEncoderJudge(cast("CrossEncoder | str", cross_encoder), *zip(*pairs, strict=True))
        false, source = _ask(reranker, rows), "cross-encoder"
    rate = estimate_rate_of_rows([row.anchor for row in rows], false, [len(row.negatives) for row in rows], confidence)
    return FalseNegativeEstimate(rate, source, setting_of(recipe), seed)


class _Row(NamedTuple):
    anchor: str
    positives: Sequence[str]
    negatives: Sequence[str]
    relevant: Sequence[str]


def _sample(
    mined: Dataset | DatasetDict, recipe: Recipe, relevant: str | None, num_anchors: int, seed: int
) -> list[_Row]:
    """Return all rows, with negatives and if asked for with labels, of anchors that are drawn by their texts."""
    digests = [digest_texts([row.anchor for row in block]) for block in _read(mined, recipe, relevant)]
    anchors = np.unique(np.concatenate([digest_texts([]), *digests]))
    if len(anchors) < FEWEST_ANCHORS:
        labels = "" if relevant is None else f" and with texts in column {relevant!r}"
        raise ArgumentError(
            f"Expected at least {FEWEST_ANCHORS} anchors with negatives{labels} to tell the rate, got {len(anchors)}; "
            "give more rows."
        )
    drawn = anchors[draw_anchors(anchors, num_anchors, seed)]
    inside = (np.isin(part, drawn) for part in digests)
    blocks = zip(_read(mined, recipe, relevant), inside, strict=True)
    return [row for block, kept in blocks for row, keep in zip(block, kept, strict=True) if keep]


def _read(mined: Dataset | DatasetDict, recipe: Recipe, relevant: str | None) -> Iterator[list[_Row]]:
    """Yield the rows that tell something, in blocks."""
    names = [recipe.anchor_column_name, recipe.positive_column_name, "negatives"]
    names += [] if relevant is None else [relevant]
    for split in splits_of(mined).values():
        check_columns(split.column_names or (), names[:3])
        check_texts(split, names[3:])
        for batch in cast(Dataset, split).select_columns(names).with_format(None).iter(READ_ROWS):
            columns = (map(_listed, batch[name]) for name in names[1:])
            labels = () if relevant is not None else (repeat(()),)
            rows = [_Row(*row) for row in zip(batch[names[0]], *columns, *labels, strict=False)]
            yield [row for row in rows if row.negatives and (relevant is None or row.relevant)]


def _listed(texts: str | Sequence[str] | None) -> Sequence[str]:
    return [texts] if isinstance(texts, str) else [text for text in texts or () if text is not None]


def _ask(judge: Judge, rows: Sequence[_Row]) -> list[float]:
    """Return how many negatives of each row a judge takes for right answers; each pair is asked for once."""
    pairs = sorted({(row.anchor, text) for row in rows for text in row.negatives})
    answers = ask(judge, [anchor for anchor, _ in pairs], [text for _, text in pairs])
    known = dict(zip(pairs, answers.tolist(), strict=True))
    return [math.fsum(known[row.anchor, text] for text in row.negatives) for row in rows]
