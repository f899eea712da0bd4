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


def mine_ensemble(rows, extra, scores, method, num_negatives, mode, num_ranked=50, refuses=None):
    """Mine every row with several teachers; as ``mine``, with ``negative_teachers`` as numbers.

    ``scores``: one function of (anchor, text) for each teacher; the first gives all scores that come out.
    ``refuses``: a guard's function of (positives of the anchor, text).
    """
    corpus = canonical([text for _, positives in rows for text in positives] + list(extra))
    known = {}
    for anchor, positives in rows:
        known.setdefault(anchor, set()).update(positives)
    mined = []
    for anchor, positives in rows:
        forbidden = {folded(text) for text in (anchor, *known[anchor])}
        free = [i for i, text in enumerate(corpus) if folded(text) not in forbidden]
        table = [[float(score(anchor, text)) for text in corpus] for score in scores]
        ceilings = [ceiling_of(method, float(min(score(anchor, text) for text in known[anchor]))) for score in scores]
        allowed = [i for i in free if refuses is None or not refuses(known[anchor], corpus[i])]
        below = [{i for i in allowed if table[m][i] < ceilings[m]} for m in range(len(scores))]
        silent = [m for m in range(1, len(scores)) if all(table[m][i] >= ceilings[m] for i in free)]
        everybody = set.intersection(*(own for m, own in enumerate(below) if m not in silent))
        skip = method[1] if method[0] == "topk-shifted" else 0
        best_first = lambda m, ids: sorted(ids, key=lambda i: (-table[m][i], i))  # noqa: B023, E731
        if mode == "agree":
            chosen = [(i, 0) for i in best_first(0, everybody)[:num_negatives]]
        elif mode == "intra-sample":
            queues = [best_first(m, below[m] & below[0])[skip:] for m in range(len(scores))]
            chosen, turn = [], 0
            while len(chosen) < num_negatives and any(set(queue) - {i for i, _ in chosen} for queue in queues):
                left = [i for i in queues[turn % len(queues)] if i not in {i for i, _ in chosen}]
                if left:
                    chosen.append((left[0], turn % len(queues)))
                turn += 1
        else:
            lists = [best_first(m, everybody & below[m])[:num_ranked] for m in range(len(scores))]
            rank = lambda i, one: one.index(i) + 1 if i in one else num_ranked + 1  # noqa: E731
            ranks = {i: [rank(i, one) for one in lists] for i in set().union(*lists)}
            fused = sorted(ranks, key=lambda i: (sum(ranks[i]) / len(lists), i))[skip : skip + num_negatives]
            chosen = [(i, ranks[i].index(min(ranks[i]))) for i in fused]
        chosen.sort(key=lambda pair: (-table[0][pair[0]], pair[0]))
        mined.append(
            {
                "negative_ids": [i for i, _ in chosen],
                "negatives": [corpus[i] for i, _ in chosen],
                "negative_scores": [table[0][i] for i, _ in chosen],
                "positive_score": float(min(scores[0](anchor, text) for text in positives)),
                "ceiling": ceilings[0],
                "top_score": max((table[0][i] for i in free), default=math.nan),
                "negative_teachers": [m for _, m in chosen],
            }
        )
    return mined
