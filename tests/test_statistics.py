import json
import math
import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, List, Value
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives

from hn_datasets.errors import ArgumentError, ColumnError
from hn_datasets.formats import format_dataset
from hn_datasets.measurement import HardNegativeStatistics
from hn_datasets.statistics import (
    MiningStatistics,
    PartialStatistics,
    compute_statistics,
    count_scores,
    merge_statistics,
)

NAN = float("nan")
SCORES = ("positive_score", "negative_score", "difference")
FEATURES = Features(
    {"positive_score": Value("float32"), "negative_scores": List(Value("float32")), "top_score": Value("float32")}
)


def make_columns(num_rows, seed=0, num_negatives=4):
    """Random columns with short rows, skipped rows, equal scores and both zeros."""
    rng = np.random.default_rng(seed)
    positives = rng.normal(0.7, 0.1, num_rows).astype(np.float32)
    counts = rng.choice([0, 1, num_negatives], num_rows, p=[0.1, 0.1, 0.8])
    negatives = [np.sort(rng.normal(0.4, 0.2, count)).astype(np.float32)[::-1].round(3) for count in counts]
    for row in range(0, num_rows, 7):
        negatives[row] = np.array([0.0, -0.0], dtype=np.float32)
    skipped = np.flatnonzero(counts == 0)[::2]
    positives[[row for row in skipped if not len(negatives[row])]] = np.nan
    tops = np.where(np.isnan(positives), np.nan, rng.normal(0.6, 0.1, num_rows)).astype(np.float32)
    lists = [row.tolist() for row in negatives]
    return {"positive_score": positives.tolist(), "negative_scores": lists, "top_score": tops.tolist()}


def as_dataset(columns):
    return Dataset.from_dict(columns, features=Features({name: FEATURES[name] for name in columns}))


def statistics_of(positives, negatives, tops=None, **options):
    columns = {"positive_score": positives, "negative_scores": negatives}
    return compute_statistics(columns if tops is None else {**columns, "top_score": tops}, **options)


# The numbers.


def test_numbers_equal_those_of_torch():
    columns = make_columns(500)
    statistics = compute_statistics(as_dataset(columns))
    positives = torch.tensor(columns["positive_score"])
    negatives = torch.tensor([score for row in columns["negative_scores"] for score in row])
    counts = torch.tensor([len(row) for row in columns["negative_scores"]])
    values = (positives[~positives.isnan()], negatives, positives.repeat_interleave(counts) - negatives)
    for name, scores in zip(SCORES, values, strict=True):
        found = getattr(statistics, name)
        assert found.count == len(scores)
        assert found.mean == pytest.approx(scores.mean().item(), abs=1e-6)
        assert found.standard_deviation == pytest.approx(scores.std().item(), abs=1e-6)
        assert (found.minimum, found.maximum) == pytest.approx((scores.min().item(), scores.max().item()), abs=1e-7)
        assert found.quartiles == pytest.approx(scores.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist(), abs=1e-6)
        assert found.median == found.quartiles[1]


def test_sums_are_rounded_once():
    scores = [0.1, 1e7, -1e7, 0.3, 3e-8]
    exact = [float(np.float32(score)) for score in scores]
    statistics = statistics_of(scores, [[]] * 5)
    assert statistics.positive_score.mean == math.fsum(exact) / 5
    mean = math.fsum(exact) / 5
    assert statistics.positive_score.standard_deviation == math.sqrt(math.fsum((x - mean) ** 2 for x in exact) / 4)


def test_differences_are_exact():
    statistics = statistics_of([1.0], [[2.0**-24 * 3, 0.1]])
    assert statistics.difference.maximum == 1 - 2.0**-24 * 3  # float32 has no such number
    assert statistics.difference.minimum == 1 - float(np.float32(0.1))


def test_histograms_share_their_edges_and_lose_nothing():
    statistics = compute_statistics(make_columns(300), num_bins=20)
    positive, negative = statistics.positive_score, statistics.negative_score
    assert positive.edges == negative.edges
    assert len(positive.edges) == 21
    assert positive.edges[0] == min(positive.minimum, negative.minimum)
    assert positive.edges[-1] == max(positive.maximum, negative.maximum)
    for name in SCORES:
        scores = getattr(statistics, name)
        assert sum(scores.bin_counts) == scores.count
    assert statistics.difference.edges[0] == statistics.difference.minimum


def test_equal_scores_have_a_histogram():
    statistics = statistics_of([0.5, 0.5], [[0.5], [0.5]], num_bins=3)
    assert statistics.positive_score.bin_counts == (0, 2, 0)
    assert statistics.difference.edges[0] < 0 < statistics.difference.edges[-1]


def test_rows_are_counted():
    statistics = statistics_of([0.9, 0.8, NAN, 0.7, NAN], [[0.5, 0.4, 0.3], [0.5], [], [], []])
    assert (statistics.rows, statistics.skipped_rows, statistics.mined_rows) == (5, 2, 3)
    assert (statistics.short_rows, statistics.num_negatives, statistics.negatives) == (2, 3, 4)
    assert statistics.negatives_per_row == (1, 1, 0, 1)
    assert statistics.short_share == 2 / 3
    wider = statistics_of([0.9, 0.8], [[0.5, 0.4], [0.5]], num_negatives=4)
    assert (wider.short_rows, wider.num_negatives, wider.negatives_per_row) == (2, 4, (0, 1, 1, 0, 0))
    narrower = statistics_of([0.9, 0.8], [[0.5, 0.4], [0.5]], num_negatives=1)
    assert (narrower.short_rows, narrower.negatives, narrower.negatives_per_row) == (0, 3, (0, 1, 1))


def test_what_guards_took_out_is_summed():
    columns = {"positive_score": [0.9, 0.8, NAN], "negative_scores": [[0.5], [0.5], []]}
    removals = {"guard_removals": [[2, 0], [1, 1200], [0, 0]]}
    statistics = compute_statistics({**columns, **removals})
    assert statistics.guard_removals == (3, 1200)
    assert statistics == compute_statistics(Dataset.from_dict({**columns, **removals}))
    halves = [
        {name: values[part] for name, values in {**columns, **removals}.items()} for part in (slice(2), slice(2, 3))
    ]
    assert compute_statistics(halves).guard_removals == (3, 1200)
    assert compute_statistics([halves[0], {name: values[2:] for name, values in columns.items()}]).guard_removals == ()
    assert MiningStatistics.from_dict(json.loads(json.dumps(statistics.to_dict()))) == statistics
    assert "Passages that guards took out: 1 3, 2 1,200." in statistics.to_table()
    assert "guards took out: held-out 3, same-group day 1,200." in statistics.to_table(["held-out", "same-group day"])
    assert "guards" not in compute_statistics(columns).to_table()


def test_most_common_value_and_zeros_are_counted():
    scores = statistics_of([1.0] * 4, [[0.5, 0.0], [0.5, -0.0], [0.5, 0.25], [-1.0]]).negative_score
    assert (scores.most_common, scores.most_common_count) == (0.5, 3)
    assert (scores.zeros, scores.at_most_zero) == (2, 3)
    assert math.copysign(1, statistics_of([1.0], [[-0.0]]).negative_score.minimum) == 1


def test_values_that_are_not_finite_are_left_out():
    scores = statistics_of([0.9, math.inf], [[math.inf, 0.5, 0.25, -math.inf, NAN], [0.5]])
    assert (scores.negative_score.count, scores.negative_score.minimum, scores.negative_score.maximum) == (3, 0.25, 0.5)
    assert (scores.positive_score.count, scores.difference.count, scores.negatives) == (1, 2, 6)


def test_positive_not_best_is_a_share_of_the_mined_rows():
    assert statistics_of([0.5, 0.5, 0.5, NAN], [[]] * 4, [0.6, 0.5, NAN, NAN]).positive_not_best == 1 / 3
    assert statistics_of([0.5], [[]]).positive_not_best is None
    assert statistics_of([NAN], [[]], [NAN]).positive_not_best is None


def test_filled_negatives_are_counted_but_have_no_score():
    texts = Features({**FEATURES, "q": Value("string"), "p": Value("string"), "negatives": List(Value("string"))})
    features = Features({**texts, "negative_ids": List(Value("int64"))})
    columns = {"q": ["q0", "q1"], "p": ["a", "b"], "negatives": [["c", "d"], []], "negative_ids": [[2, 3], []]}
    numbers = {"positive_score": [0.9, 0.8], "negative_scores": [[0.5, 0.25], []], "top_score": [0.5, 0.5]}
    mined = Dataset.from_dict({**columns, **numbers}, features=features)
    with pytest.warns(UserWarning, match="filled"):
        filled = format_dataset(mined, "scored", shortage="fill", num_negatives=1)
    assert list(filled["negatives"]) == [["c"], ["a"]]
    statistics = compute_statistics(filled)
    assert (statistics.negatives, statistics.short_rows, statistics.negative_score.count) == (2, 0, 1)
    assert statistics.difference.count == 1


def test_more_values_than_torch_quantile_takes():
    num_rows, num_negatives = 170_000, 100
    offsets = pa.array(np.arange(num_rows + 1) * num_negatives, pa.int32())
    values = np.arange(num_rows * num_negatives, dtype=np.float32) % 1024 / 1024
    lists = pa.ListArray.from_arrays(offsets, pa.array(values))
    scores = statistics_of(np.ones(num_rows, np.float32), lists).negative_score
    assert scores.count == 17_000_000 > 16_777_216
    assert scores.quartiles == tuple(np.quantile(values.astype(np.float64), [0.25, 0.5, 0.75]))
    assert scores.mean == values.mean(dtype=np.float64)


# The same for any sharding, order and container.


def test_every_container_gives_the_same_bits():
    columns = make_columns(2000)
    expected = compute_statistics(columns)
    dataset = as_dataset(columns)
    table = dataset.with_format("arrow")[:]
    splits = DatasetDict(a=dataset.select(range(700)), b=dataset.select(range(700, 2000)), none=dataset.select([]))
    arrays = {
        "positive_score": np.array(columns["positive_score"]),
        "negative_scores": [np.array(row) for row in columns["negative_scores"]],
        "top_score": pa.array(columns["top_score"]),
    }
    shards = [table.slice(start, 130) for start in range(0, 2000, 130)]
    for same in (dataset, splits, table, arrays, shards, iter(shards[::-1]), dataset.to_iterable_dataset()):
        found = compute_statistics(same)
        assert found == expected
        assert json.dumps(found.to_dict()) == json.dumps(expected.to_dict())


@pytest.mark.parametrize("seed", range(5))
def test_every_order_and_sharding_gives_the_same_bits(seed):
    columns = make_columns(3000)
    expected = json.dumps(compute_statistics(columns).to_dict())
    dataset = as_dataset(columns).shuffle(seed=seed)
    assert json.dumps(compute_statistics(dataset).to_dict()) == expected
    cuts = sorted(random.Random(seed).sample(range(3000), 7))
    pieces = [dataset.select(range(a, b)) for a, b in zip([0, *cuts], [*cuts, 3000], strict=True)]
    assert json.dumps(compute_statistics([piece[:] for piece in pieces]).to_dict()) == expected


def test_equal_rows_in_two_dimensions_are_lists():
    rows = np.array([[0.5, 0.25], [0.5, 0.125]])
    assert statistics_of([1.0, 1.0], rows) == statistics_of([1.0, 1.0], rows.tolist())


def test_texts_are_not_read():
    columns = make_columns(50)
    unreadable = pa.array([None] * 50, pa.string())
    dataset = as_dataset(columns).add_column("question", unreadable).add_column("negatives", unreadable)
    assert compute_statistics(dataset) == compute_statistics(columns)


def test_the_top_score_is_optional_in_every_chunk():
    whole, part = make_columns(10), make_columns(10, seed=1)
    del part["top_score"]
    assert compute_statistics([whole, part]).positive_not_best is None
    assert compute_statistics([part, whole]).positive_not_best is None
    assert compute_statistics(as_dataset(part)).positive_not_best is None


# JSON and the table.


@pytest.mark.parametrize("columns", [make_columns(200), make_columns(0), make_columns(1)], ids=["many", "none", "one"])
def test_the_json_form_has_no_nan_and_comes_back(columns):
    statistics = compute_statistics(columns)
    text = json.dumps(statistics.to_dict(), allow_nan=False)
    back = MiningStatistics.from_dict(json.loads(text))
    assert back == statistics
    assert str(back) == back.to_table() == statistics.to_table()
    assert hash(back) == hash(statistics)


def test_no_rows_give_no_numbers():
    statistics = compute_statistics([])
    assert (statistics.rows, statistics.negatives, statistics.negatives_per_row) == (0, 0, (0, 0))
    assert statistics.positive_score.mean is statistics.positive_score.quartiles is statistics.positive_score.median
    assert statistics.diagnoses == ()
    assert "Mean                -              -              -" in statistics.to_table()


def test_the_table_is_that_of_sentence_transformers(minilm_path, capsys):
    model = SentenceTransformer(str(minilm_path), device="cpu")
    answers = [
        f"It is {animal}, which eats {food}."
        for animal in ("a dog", "an owl", "a cat")
        for food in ("mice", "bones", "fish")
    ]
    pairs = Dataset.from_dict({"question": [f"Question {row}: mice?" for row in range(9)], "answer": answers})
    theirs = mine_hard_negatives(pairs, model, num_negatives=3, range_max=4, output_format="labeled-list",
                                 output_scores=True)  # fmt: skip
    printed = capsys.readouterr().out.splitlines()
    start = next(place for place, line in enumerate(printed) if line.startswith("Metric"))
    scores = list(theirs["scores"])
    ours = statistics_of([row[0] for row in scores], [row[1:] for row in scores]).to_table().splitlines()
    assert [line.split()[0] for line in ours[:10]] == [line.split()[0] for line in printed[start : start + 10]]
    assert [len(line.rstrip()) for line in ours[:10]] == [len(line.rstrip()) for line in printed[start : start + 10]]
    assert ours[:2] == [line.rstrip() for line in printed[start : start + 2]]
    for line, expected in zip(ours[2:10], printed[start + 2 : start + 10], strict=True):
        assert [float(x) for x in line.split()[1:]] == pytest.approx([float(x) for x in expected.split()[1:]], abs=2e-4)


def test_sentences_follow_the_table():
    positives, negatives = healthy(30)
    tops = [1.0] * 10 + [0.1] * 20
    lines = statistics_of([*positives, NAN], [[0.3], *negatives[1:], []], [*tops, NAN]).to_table().splitlines()
    assert lines[10:] == [
        "31 rows have 59 negatives.",
        "1 of them (3.23%) have fewer than 2 negatives.",
        "1 of them were skipped as empty.",
        "In 33.33% of rows another passage scores higher than the positive.",
    ]


def test_what_a_diagnosis_says_is_said_once():
    table = statistics_of([0.9, 0.8, NAN], [[0.5, 0.4], [0.3], []], [1.0, 0.1, NAN]).to_table()
    assert table.count("fewer than 2 negatives") == table.count("another passage scores higher") == 1
    assert "1 of 2 (50.0%) rows have fewer than 2 negatives: " in table


# Diagnoses.


def healthy(num_rows=100):
    """Positives and two negatives for each, all different, none near 0."""
    positives = [0.7 + row / 1000 for row in range(num_rows)]
    return positives, [[0.5 + row / 1000, 0.3 + row / 1001] for row in range(num_rows)]


def test_healthy_scores_have_no_diagnosis():
    positives, negatives = healthy()
    assert statistics_of(positives, negatives, [0.1] * 100).diagnoses == ()


def change(values, count, value):
    """The values, of which the first ``count`` are another one, or one made of the row's number."""
    return [value(row) if callable(value) else value for row in range(count)] + values[count:]


def at_one(row):
    return [1.0, 0.31 + row / 997]


@pytest.mark.parametrize(
    ("kind", "count", "value", "diagnosis"),
    [
        ("negatives", 3, [0.5, 0.0], "3 of 200 (1.5%) negatives score exactly 0: with BM25"),
        ("negatives", 11, at_one, "11 of 200 (5.5%) negative scores are exactly 1, as after min-max"),
        ("positives", 6, 1.0, "6 of 100 (6.0%) positive scores are exactly 1, as after min-max"),
        ("positives", 2, -0.1, "2 of 100 (2.0%) positives score 0 or below: the teacher sees nothing"),
        ("positives", 100, 0.75, "All 100 positive scores are 0.75: the teacher tells nothing apart"),
        ("negatives", 100, [0.5, 0.5], "All 200 negative scores are 0.5: the teacher tells nothing apart"),
        ("negatives", 6, [0.25], "6 of 100 (6.0%) rows have fewer than 2 negatives: add passages"),
        ("tops", 41, 0.99, "In 41.0% of rows another passage scores higher than the positive, as with long"),
    ],
)
def test_each_sign_of_degenerate_scores_has_its_sentence(kind, count, value, diagnosis):
    positives, negatives = healthy()
    columns = {"positives": positives, "negatives": negatives, "tops": [0.1] * 100}
    columns[kind] = change(columns[kind], count, value)
    found = statistics_of(*columns.values()).diagnoses
    assert [sentence for sentence in found if sentence.startswith(diagnosis)]
    assert all(sentence.endswith(".") for sentence in found)


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [
        ("negatives", 2, [0.5, 0.0]),
        ("negatives", 10, at_one),
        ("positives", 5, 1.0),
        ("positives", 1, -0.1),
        ("negatives", 5, [0.25]),
        ("tops", 40, 0.99),
    ],
)
def test_no_sentence_up_to_the_threshold(kind, count, value):
    positives, negatives = healthy()
    columns = {"positives": positives, "negatives": negatives, "tops": [0.1] * 100}
    columns[kind] = change(columns[kind], count, value)
    assert statistics_of(*columns.values()).diagnoses == ()


def test_a_pile_of_zeros_has_one_sentence():
    positives, negatives = healthy()
    found = statistics_of(positives, change(negatives, 50, lambda row: [0.3 + row / 997, 0.0])).diagnoses
    assert len(found) == 1
    assert found[0].startswith("50 of 200 (25.0%) negatives score exactly 0")


@pytest.mark.parametrize(
    ("low", "high", "piled"),
    [
        (lambda row: 0.0, lambda row: 1.0, True),
        (lambda row: row / 9000, lambda row: 1 - row / 9000, True),
        (lambda row: row / 100, lambda row: 1.0, False),
        (lambda row: 0.0, lambda row: 1 - row / 100, False),
    ],
    ids=["at both ends", "near both ends", "at the upper end", "at the lower end"],
)
def test_piles_at_both_ends_have_a_sentence(low, high, piled):
    positives, negatives = healthy()
    positives = [low(row) for row in range(20)] + positives[20:60] + [high(row) for row in range(40)]
    found = [sentence for sentence in statistics_of(positives, negatives).diagnoses if "lower end" in sentence]
    assert len(found) == piled
    for sentence in found:
        assert sentence.startswith("20 of 100 (20.0%) positive scores lie at the lower end, up to 0.0")
        assert "40 of 100 (40.0%) at the upper, from 0.98" in sentence


def test_few_scores_are_no_pile_up():
    assert statistics_of([0.9, 0.9, 0.8], [[0.5], [0.5], [0.4]]).diagnoses == ()


# Errors.


@pytest.mark.parametrize("option", ["num_negatives", "num_bins"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(ArgumentError, match=f"Expected {option} >= 1, got 0"):
        statistics_of([0.5], [[0.4]], **{option: 0})


def test_missing_columns_are_named():
    columns = make_columns(3)
    del columns["negative_scores"]
    for wrong in (columns, [columns], as_dataset(columns), as_dataset(columns).to_iterable_dataset()):
        with pytest.raises(ColumnError, match="no column negative_scores; mine it first"):
            compute_statistics(wrong)


def test_a_split_without_rows_and_so_without_columns_is_named():
    splits = DatasetDict(train=as_dataset(make_columns(3)), test=Dataset.from_dict({"query": []}))
    with pytest.raises(
        ColumnError, match=r"^Expected rows in every split, got none in 'test', .*mined.pop\('test'\).$"
    ):
        compute_statistics(splits)
    splits["test"] = splits["train"].select([])
    assert compute_statistics(splits) == compute_statistics(splits["train"])


# The measurement.


@pytest.fixture
def measurement(tmp_path):
    return HardNegativeStatistics(cache_dir=str(tmp_path))


def test_the_measurement_gives_the_same_numbers(measurement, tmp_path):
    columns = make_columns(100)
    tops = columns.pop("top_score")
    assert measurement.compute(**columns) == compute_statistics(columns).to_dict()
    assert (
        measurement.compute(**columns, num_bins=7, num_negatives=9)
        == compute_statistics(columns, num_bins=7, num_negatives=9).to_dict()
    )
    assert (
        measurement.compute(**columns, top_score=tops) == compute_statistics({**columns, "top_score": tops}).to_dict()
    )
    assert not list(tmp_path.rglob("*.arrow"))


def test_the_measurement_adds_rows_and_batches(measurement):
    columns = make_columns(100)
    del columns["top_score"]
    measurement.add_batch(**{name: values[:60] for name, values in columns.items()})
    for row in range(60, 100):
        measurement.add(**{name: values[row] for name, values in columns.items()})
    assert measurement.compute() == compute_statistics(columns).to_dict()


def test_the_measurement_wants_a_top_score_for_every_row(measurement):
    with pytest.raises(ColumnError, match="top_score for each of 2 rows, got 1"):
        measurement.compute(positive_score=[0.5, 0.5], negative_scores=[[], []], top_score=[0.5])


def test_partial_statistics_merge_to_those_of_all_rows():
    draw = np.random.default_rng(5)
    rows = [
        {
            "positive_score": np.float32(np.nan if number % 11 == 0 else round(draw.random(), 2)),
            "negative_scores": draw.standard_normal(number % 4 if number % 11 else 0)
            .astype(np.float32)
            .round(2)
            .tolist(),
            "top_score": np.float32(draw.random()),
            "negative_teachers": [] if number % 11 == 0 else ["one", "two", "one"][: number % 4],
            "guard_removals": [number % 3, 1],
        }
        for number in range(300)
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    whole = compute_statistics(columns, num_negatives=3)
    cuts = [0, 1, 1, 90, 200, 300]  # one part is empty
    parts = [count_scores({name: values[a:b] for name, values in columns.items()}) for a, b in pairwise(cuts)]
    assert merge_statistics(parts, num_negatives=3) == whole
    assert merge_statistics([PartialStatistics.merge(parts[2:]), *parts[:2]], num_negatives=3) == whole
