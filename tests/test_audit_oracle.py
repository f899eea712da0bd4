"""The audit counts what a slow and obvious reading of its rules counts, on random small datasets."""

import math
import unicodedata

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value

from hn_datasets import TopKMarginPos, compute_statistics
from hn_datasets.inspection import blocks
from hn_datasets.inspection.audit import audit_dataset
from hn_datasets.mined_columns import MINED_FEATURES
from hn_datasets.recipe import Recipe
from hn_datasets.record import MiningRecord

TEXTS = ["a", "A", " a", "ａ", "b", "B", "c", "C ", "d", "e", "ß", "SS"]
EMPTY = ["", " \n", None]
NAN, INF = float("nan"), float("inf")
MARGIN, PASSAGES = 0.25, 9


def form(text):
    """The form in which texts count as the same."""
    folded = unicodedata.normalize("NFKC", text or "").casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


class Count:
    """How often each rule is broken, and where first."""

    def __init__(self):
        self.counts, self.first = {}, {}

    def add(self, rule, row, times=1):
        for _ in range(int(times)):
            self.counts[rule] = self.counts.get(rule, 0) + 1
            self.first.setdefault(rule, (row["split"], row["number"]))


def same(one, other):
    return (one or "") == (other or "")


def is_finite(value):
    return value is not None and math.isfinite(value)


def is_nan(value):
    return value is None or math.isnan(value)


def is_skipped(row):
    return "positive_score" in row and is_nan(row["positive_score"]) and not row["negatives"]


def count_texts(rows, count, *, pairs):
    """Apply the rules for texts."""
    seen = []
    for row in rows:
        before = []
        for text in row["negatives"]:
            if same(text, row["anchor"]):
                count.add("anchor-among-negatives", row)
            elif form(text) == form(row["anchor"]):
                count.add("anchor-among-negatives-normalised", row)
            others = [other for other in rows if same(other["anchor"], row["anchor"])]
            similar = [other for other in rows if form(other["anchor"]) == form(row["anchor"])]
            if any(same(text, positive) for positive in row["positives"]):
                count.add("positive-among-negatives", row)
            elif form(text) in map(form, row["positives"]):
                count.add("positive-among-negatives-normalised", row)
            elif any(form(text) in map(form, other["positives"]) for other in others):
                count.add("positive-elsewhere", row)
            elif any(form(text) in map(form, other["positives"]) for other in similar):
                count.add("positive-of-similar-anchor", row)
            if pairs:
                count.add("repeated-pair", row, (row["anchor"] or "", text or "") in seen)
                seen.append((row["anchor"] or "", text or ""))
            elif any(same(text, other) for other in before):
                count.add("duplicate-negative", row)
            elif form(text) in map(form, before):
                count.add("similar-negative", row)
            before.append(text)
            count.add("empty-negative", row, not form(text))
        if not is_skipped(row):
            count.add("empty-anchor", row, not form(row["anchor"]))
            lacks = not row["positives"] and not pairs
            count.add("empty-positive", row, lacks or any(not form(text) for text in row["positives"]))


def count_numbers(rows, count, passages):
    """Apply the rules for the numbers of mined rows; ``passages`` is None without a record."""
    texts = {}
    for row in rows:
        skipped = is_skipped(row)
        count.add("skipped-row", row, skipped)
        broken = not is_finite(row["positive_score"]) and not skipped
        broken |= is_nan(row["ceiling"]) and not skipped
        broken |= row["top_score"] is not None and math.isinf(row["top_score"])
        count.add("row-score-not-finite", row, broken)
        if not len(row["negatives"]) == len(row["ids"]) == len(row["scores"]):
            count.add("uneven-lists", row)
            continue
        ceiling = row["ceiling"] if not is_nan(row["ceiling"]) else INF
        if passages is not None and not is_nan(row["positive_score"]):
            ceiling = min(ceiling, row["positive_score"] - MARGIN)
        last = NAN
        for text, number, score in zip(row["negatives"], row["ids"], row["scores"], strict=True):
            if number == -1 and is_nan(score):
                count.add("filled-negative", row)
                continue
            count.add("score-not-finite", row, not is_finite(score))
            value = NAN if score is None else score
            count.add("scores-not-falling", row, value > last)
            count.add("at-or-above-ceiling", row, value >= ceiling)
            last = value
            if number is None or number < 0:
                count.add("id-below-0", row)
                continue
            count.add("id-beyond-corpus", row, passages is not None and number >= passages)
            count.add("id-of-two-texts", row, not same(texts.setdefault(number, text), text))


def count_ceilings(rows, count):
    """Apply the rule for ceilings of rows with a record, whose method is a margin."""
    known = [row for row in rows if not is_nan(row["positive_score"]) and not is_nan(row["ceiling"])]
    pairs = [(row["ceiling"], row["positive_score"] - MARGIN) for row in known]
    equal = [math.isclose(ceiling, expected, rel_tol=1e-6) for ceiling, expected in pairs]
    for row, (ceiling, expected), same_ceiling in zip(known, pairs, equal, strict=True):
        above = ceiling > expected and not same_ceiling
        count.add("ceiling-of-another-method", row, above or not any(equal))


def count_long(rows, count, num_negatives):
    for row in rows:
        marks = [*zip(row["ids"], row["scores"], strict=False)]
        even = len(row["negatives"]) == len(row["ids"]) == len(row["scores"])
        filled = sum(number == -1 and is_nan(score) for number, score in marks) if even else 0
        count.add("long-row", row, len(row["negatives"]) - filled > num_negatives)


def count_short(rows, count, num_negatives):
    longest = num_negatives or max(len(row["negatives"]) for row in rows)
    for row in rows:
        count.add("short-row", row, len(row["negatives"]) < longest and not is_skipped(row))


def draw_rows(rng, split, size, ceiling):
    """Draw rows of texts and numbers; most are sound, and every rule is broken somewhere."""

    def text():
        return EMPTY[rng.integers(3)] if rng.random() < 0.04 else TEXTS[rng.integers(len(TEXTS))]

    def number(usual, *odd):
        return odd[rng.integers(len(odd))] if rng.random() < 0.06 else float(usual)

    for row in range(size):
        k = int(rng.integers(0, 4))
        scores = [
            number(score, NAN, INF, -INF, None, 0.6) for score in -np.sort(-rng.choice([0.0, 0.25, 0.5, 0.75], k))
        ]
        ids = [int(number(rng.integers(0, 9), -1, -2, 9, 12)) for _ in scores]
        if k and rng.random() < 0.1:
            ids[-1], scores[-1] = -1, NAN
        yield {
            "split": split,
            "number": row,
            "anchor": text(),
            "positives": [text() for _ in range(rng.integers(1 if rng.random() < 0.95 else 0, 3))],
            "negatives": [text() for _ in range(k)],
            "ids": ids[rng.random() < 0.05 :],
            "scores": scores[rng.random() < 0.05 :],
            "positive_score": number(1.0, NAN, INF, None, 0.5),
            "ceiling": number(ceiling, NAN, INF, None, 0.5),
            "top_score": number(0.5, NAN, INF, -INF, None),
        }


def draw(seed):
    """Return three splits of rows, of which the one in the middle is empty, and all rows."""
    rng = np.random.default_rng(seed)
    ceiling = 1 - MARGIN + (0.125, 0, -0.125)[seed // 2 % 3]
    splits = {
        name: list(draw_rows(rng, name, size, ceiling)) for name, size in (("train", 18), ("none", 0), ("test", 12))
    }
    return splits, [row for rows in splits.values() for row in rows]


def as_dataset(splits, columns, features):
    return DatasetDict(
        {
            name: Dataset.from_dict({column: [get(row) for row in rows] for column, get in columns.items()}, features)
            for name, rows in splits.items()
        }
    )


def check(dataset, count, **options):
    """Compare counts, and the first example, of all rules; return the rules that were broken."""
    report = audit_dataset(dataset, **options)
    found = [finding for finding in report.findings if finding.row is not None]
    assert {finding.name: finding.count for finding in found} == count.counts
    assert {finding.name: (finding.where, finding.row) for finding in found} == count.first
    return set(count.counts)


STRING, STRINGS = Value("string"), List(Value("string"))
SEEDS = range(12)


def check_mined(seed):
    splits, rows = draw(seed)
    names = {"negatives": "negatives", "negative_ids": "ids", "negative_scores": "scores"}
    columns = {"query": lambda row: row["anchor"], "pos": lambda row: row["positives"]}
    for column in MINED_FEATURES:
        columns[column] = lambda row, column=column: row[names.get(column, column)]
    dataset = as_dataset(splits, columns, Features({"query": STRING, "pos": STRINGS, **MINED_FEATURES}))
    record = None
    if seed % 2:
        recipe = Recipe({"type": "precomputed"}, TopKMarginPos(MARGIN), 2, anchor_column_name="query",
                        positive_column_name="pos")  # fmt: skip
        # The statistics need not be those of the rows: only findings about rows are looked at.
        sound = Dataset.from_dict({"positive_score": [1.0], "negative_scores": [[0.5]]})
        record = MiningRecord(recipe, {"train": 12}, {"passages": PASSAGES}, compute_statistics(sound))
    count = Count()
    count_texts(rows, count, pairs=False)
    count_numbers(rows, count, PASSAGES if record else None)
    count_short(rows, count, 2 if record else None)
    if record:
        count_ceilings(rows, count)
        count_long(rows, count, 2)
    return check(dataset, count, record=record)


def check_columns(seed):
    splits, rows = draw(seed)
    columns = {"a": lambda row: row["anchor"], "b": lambda row: (row["positives"] or [None])[0]}
    for rank in range(3):
        columns[f"negative_{rank + 1}"] = lambda row, rank=rank: dict(enumerate(row["negatives"])).get(rank)
    count = Count()
    for row in rows:
        del row["positive_score"]
        row["positives"] = (row["positives"] or [None])[:1]
        row["negatives"] = [text for text in row["negatives"] if text is not None]
    count_texts(rows, count, pairs=False)
    count_short(rows, count, None)
    return check(as_dataset(splits, columns, Features(dict.fromkeys(columns, STRING))), count)


def passages_of(row):
    """Return the passages of a row and their labels, mixed."""
    labeled = [(text, 1) for text in row["positives"]] + [(text, 0) for text in row["negatives"]]
    return sorted(labeled, key=lambda one: (row["number"] + len(one[0] or "")) % 2)


def check_labeled_lists(seed):
    splits, rows = draw(seed)
    columns = {
        "question": lambda row: row["anchor"],
        "docs": lambda row: [text for text, _ in passages_of(row)],
        "labels": lambda row: [label for _, label in passages_of(row)],
    }
    features = Features({"question": STRING, "docs": STRINGS, "labels": List(Value("int64"))})
    count = Count()
    for row in rows:
        del row["positive_score"]
        for name, label in (("positives", 1), ("negatives", 0)):
            row[f"own {name}"] = [text for text, own in passages_of(row) if own == label]
    dataset = as_dataset(splits, columns, features)
    rows = [{**row, "positives": row["own positives"], "negatives": row["own negatives"]} for row in rows]
    count_texts(rows, count, pairs=False)
    count_short(rows, count, None)
    return check(dataset, count)


def check_labeled_pairs(seed):
    splits, _ = draw(seed)
    pairs = {
        name: [
            {"anchor": row["anchor"], "text": text, "label": label} for row in rows for text, label in passages_of(row)
        ]
        for name, rows in splits.items()
    }
    for rows in pairs.values():
        np.random.default_rng(seed).shuffle(rows)
    columns = {
        "query": lambda row: row["anchor"],
        "passage": lambda row: row["text"],
        "label": lambda row: row["label"],
    }
    features = Features({"query": STRING, "passage": STRING, "label": Value("float64")})
    flat = [
        {
            "split": split,
            "number": number,
            "anchor": pair["anchor"],
            "positives": [pair["text"]] * pair["label"],
            "negatives": [pair["text"]] * (1 - pair["label"]),
        }
        for split, rows in pairs.items()
        for number, pair in enumerate(rows)
    ]
    count = Count()
    count_texts(flat, count, pairs=True)
    return check(as_dataset(pairs, columns, features), count)


OF_TEXTS = {
    *("anchor-among-negatives", "anchor-among-negatives-normalised", "positive-elsewhere"),
    *("positive-of-similar-anchor", "empty-anchor", "empty-positive", "empty-negative"),
}
OF_ROWS = OF_TEXTS | {
    *("positive-among-negatives", "positive-among-negatives-normalised"),
    *("duplicate-negative", "similar-negative", "short-row"),
}
OF_NUMBERS = {
    *("uneven-lists", "score-not-finite", "row-score-not-finite", "scores-not-falling", "at-or-above-ceiling"),
    *("id-below-0", "id-beyond-corpus", "id-of-two-texts", "skipped-row", "filled-negative"),
    *("ceiling-of-another-method", "long-row"),
}


@pytest.mark.parametrize(
    ("check_one", "rules"),
    [
        (check_mined, OF_ROWS | OF_NUMBERS),
        (check_columns, OF_ROWS),
        (check_labeled_lists, OF_ROWS),
        (check_labeled_pairs, OF_TEXTS | {"repeated-pair"}),
    ],
    ids=["mined", "columns", "labeled lists", "labeled pairs"],
)
def test_every_rule_counts_what_an_obvious_reading_counts(monkeypatch, check_one, rules):
    monkeypatch.setattr(blocks, "READ_ROWS", 3)
    met = set().union(*(check_one(seed) for seed in SEEDS))
    assert met == rules, "every rule is broken by some of the random rows"
