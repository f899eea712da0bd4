"""Brute force: what mining has to return, written as plainly as possible and without a line of the package."""

import hashlib
import math
import unicodedata

import numpy as np


def canonical(texts):
    """Distinct texts in the order of their digests, which is the order of ids."""
    return sorted(set(texts), key=lambda text: hashlib.blake2b(text.encode(), digest_size=16).digest())


def folded(text):
    once = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", once).split())


def ceiling_of(method, p):
    name, setting = method
    return {
        "topk": math.inf,
        "topk-shifted": math.inf,
        "topk-abs": setting,
        "topk-marginpos": p - (setting or 0),
        "topk-percpos": p - abs(p) * (1 - (setting or 0)),
    }[name]


def mine(rows, extra, score, method, num_negatives):
    """Mine every row.

    ``rows``: pairs (anchor, list of positives). ``score(anchor, text)``: a float32. ``method``: (name, setting).
    Returns, per row: ids, texts, scores, positive score, ceiling, top score.
    """
    corpus = canonical([text for _, positives in rows for text in positives] + list(extra))
    known = {}
    for anchor, positives in rows:
        known.setdefault(anchor, set()).update(positives)
    mined = []
    for anchor, positives in rows:
        forbidden = {folded(text) for text in (anchor, *known[anchor])}
        lowest = min(score(anchor, text) for text in known[anchor])
        ceiling = ceiling_of(method, float(lowest))
        ranking = [(-float(score(anchor, text)), i) for i, text in enumerate(corpus) if folded(text) not in forbidden]
        ranking.sort()
        below = [(i, -negated) for negated, i in ranking if -negated < ceiling]
        skip = method[1] if method[0] == "topk-shifted" else 0
        chosen = below[skip : skip + num_negatives]
        mined.append(
            {
                "negative_ids": [i for i, _ in chosen],
                "negatives": [corpus[i] for i, _ in chosen],
                "negative_scores": [s for _, s in chosen],
                "positive_score": float(min(score(anchor, text) for text in positives)),
                "ceiling": ceiling,
                "top_score": -ranking[0][0] if ranking else math.nan,
            }
        )
    return mined


def assert_same(mined, expected):
    """Compare a mined dataset (or the columns of one batch) with the oracle's rows, to the last bit."""
    for column in ("negative_ids", "negatives", "negative_scores", "positive_score", "ceiling", "top_score"):
        for number, (got, want) in enumerate(zip(mined[column], [row[column] for row in expected], strict=True)):
            assert np.array_equal(np.asarray(got), np.asarray(want), equal_nan=column not in ("negatives",)), (
                f"row {number}, {column}: got {got}, expected {want}"
            )
