"""Calibration: false negatives counted by a brute force of its own, the choice, and what it refuses."""

import unicodedata

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from tiny_cross_encoder import load_tiny_cross_encoder, save_tiny_cross_encoder

from hn_datasets import (
    BM25Teacher,
    EnsembleTeacher,
    HardNegativeMiner,
    SimilarToPositive,
    TopK,
    TopKAbs,
    TopKMarginPos,
    TopKPercPos,
    TopKShifted,
    calibrate,
    estimate_false_negatives,
)
from hn_datasets.errors import ArgumentError, TeacherError, VectorError
from hn_datasets.estimation.hiding import Trial, hide_positives, show_positives
from hn_datasets.estimation.judging import CrossEncoderJudge, ask
from hn_datasets.estimation.rates import estimate_rate
from hn_datasets.texts import Ragged
from tests.teachers import HashTeacher
from tests.topics import EXTRA, NUM_ANCHORS, ONE_EACH, ROWS, TEACHER, build_miner


@pytest.fixture(scope="module")
def dataset():
    return Dataset.from_list(ROWS)


@pytest.fixture(scope="module")
def miner(store):
    return build_miner(store)


def vectors(texts):
    return dict(zip(texts, TEACHER.encode(texts, "passage").astype(np.float64), strict=True))


def count_false(trial, percentage, num_negatives=3):
    """Per anchor hidden positives among its negatives and negatives, and all their scores; by sorting all passages."""
    known = {}
    for row in ROWS:
        known.setdefault(row["anchor"], set()).add(row["positive"])
    passages = sorted({row["positive"] for row in ROWS} | set(EXTRA))
    of_passage, of_anchor = vectors(passages), vectors(sorted(known))
    false, counts, found = [], [], []
    for anchor, shown in zip(trial.anchors, trial.shown, strict=True):
        scores = {text: float(np.float32(of_passage[text] @ of_anchor[anchor])) for text in passages}
        positive = scores[shown]
        below = [t for t in passages if t != shown and scores[t] < positive - abs(positive) * (1 - percentage)]
        below.sort(key=lambda text: -scores[text])
        false.append(len(known[anchor] & set(below[:num_negatives])))
        counts.append(len(below[:num_negatives]))
        found += [scores[text] for text in below[:num_negatives]]
    return false, counts, found


def test_every_rate_is_that_of_hidden_positives_that_come_back(miner, dataset):
    numbers = [0.5, 0.9, 1.0]
    found = calibrate(miner, dataset, settings=numbers, target_false_negative_rate=0.5)
    trial = hide_positives(miner, dataset, num_anchors=2000, seed=0)
    assert sorted(trial.anchors) == sorted(f"question {number}" for number in range(NUM_ANCHORS) if number % 4)
    for number, point in zip(numbers, found.curve, strict=True):
        assert point.method == TopKPercPos(number)
        false, counts, scores = count_false(trial, number)
        assert point.rate == estimate_rate(false, counts)
        assert point.full_rows == counts.count(3) / len(counts)
        assert point.mean_negative_score == pytest.approx(np.mean(scores), abs=1e-6)
    assert found.curve[-1].rate.num_false > 5, "the test shows nothing if none comes back"
    assert found.num_available == found.estimate.rate.num_anchors == 45


def test_the_loosest_setting_within_the_target_is_chosen(miner, dataset):
    curve = calibrate(miner, dataset, target_false_negative_rate=0.9).curve
    rates = [point.pooled_rate for point in curve]
    assert rates == sorted(rates) and rates[0] < rates[-1]
    target = (rates[0] + rates[-1]) / 2
    assert target > 0.05, "else 45 anchors would be too few"
    found = calibrate(miner, dataset, target_false_negative_rate=target)
    within = [point for point in curve if point.pooled_rate <= target]
    assert found.method == within[-1].method and found.estimate.rate == within[-1].rate
    assert found.method.percentage < 1


def test_settings_without_negatives_are_left_out(miner, dataset):
    options = {"method": TopKAbs, "target_false_negative_rate": 0.9}
    assert [point.method for point in calibrate(miner, dataset, settings=[-2, 0.4], **options).curve] == [TopKAbs(0.4)]
    with pytest.raises(ArgumentError, match="got no negatives from any; raise the target"):
        calibrate(miner, dataset, settings=[-3, -2], **options)


def test_an_anchor_whose_own_positive_is_not_in_the_corpus_is_not_tried(miner, dataset):
    rows = [{**row, "positive": "nowhere"} if row["anchor"] == "question 3" else row for row in ROWS]
    trial = hide_positives(miner, Dataset.from_list(rows), num_anchors=2000, seed=3)
    whole = hide_positives(miner, dataset, num_anchors=2000, seed=3)
    shown = dict(zip(whole.anchors, whole.shown, strict=True))
    del shown["question 3"]
    assert dict(zip(trial.anchors, trial.shown, strict=True)) == shown and trial.num_available == len(shown)


def test_one_positive_is_shown_and_its_row_comes_along(miner, dataset):
    trial = hide_positives(miner, dataset, num_anchors=20, seed=3)
    assert len(trial.anchors) == 20 and trial.num_available == 45
    hidden = [set(miner.corpus.texts(trial.hidden[row])) for row in range(20)]
    for row, (anchor, shown) in enumerate(zip(trial.anchors, trial.shown, strict=True)):
        assert {shown} | hidden[row] == {item["positive"] for item in ROWS if item["anchor"] == anchor}
        assert shown not in hidden[row]
        assert f"answer {trial.batch['row'][row]}" == shown


@pytest.mark.parametrize("highest", [0, 2, 6, 7, 12])
def test_a_passage_is_hidden_for_its_own_anchors_only(highest):
    pairs = {(0, 3), (0, 7), (2, 0), (2, 1)}
    hidden = Ragged.from_pairs(*np.array(sorted(pairs)).T, 3)
    trial = Trial({}, ["a", "b", "c"], ["x", "y", "z"], hidden, 3)
    rows, ids = (grid.ravel() for grid in np.meshgrid(np.arange(3), np.arange(highest + 1)))
    expected = [pair in pairs for pair in zip(rows.tolist(), ids.tolist(), strict=True)]
    assert trial.is_hidden(rows, ids).tolist() == expected


def test_the_order_of_rows_decides_nothing_and_the_seed_does(miner, dataset):
    one = hide_positives(miner, dataset, num_anchors=20, seed=3)
    other = hide_positives(miner, dataset.shuffle(seed=1), num_anchors=20, seed=3)
    assert (one.anchors, one.shown) == (other.anchors, other.shown)
    assert hide_positives(miner, dataset, num_anchors=20, seed=4).anchors != one.anchors
    splits = DatasetDict({"a": dataset.select(range(40)), "b": dataset.select(range(40, len(dataset)))})
    assert hide_positives(miner, splits, num_anchors=20, seed=3).anchors == one.anchors
    stream = hide_positives(miner, dataset.to_iterable_dataset(), num_anchors=20, seed=3)
    assert (stream.anchors, stream.shown) == (one.anchors, one.shown)


def test_lists_of_positives_and_a_miner_that_knows_none_give_the_same(store, miner, dataset):
    lists = {}
    for row in ROWS:
        lists.setdefault(row["anchor"], []).append(row["positive"])
    listed = Dataset.from_dict({"anchor": list(lists), "positive": list(lists.values())})
    corpus = sorted({row["positive"] for row in ROWS}) + EXTRA
    streaming = HardNegativeMiner.from_corpus(corpus, teacher=TEACHER, store=store, num_negatives=3)
    expected = estimate_false_negatives(miner, dataset)
    assert estimate_false_negatives(miner, listed) == expected
    assert estimate_false_negatives(streaming, dataset) == expected


@pytest.mark.parametrize("listed", [False, True])
def test_rows_that_are_skipped_as_empty_change_nothing(store, miner, dataset, listed):
    rows = [{**row, "positive": [row["positive"]] if listed else row["positive"]} for row in ROWS]
    empty = Dataset.from_list([{**row, "positive": None} for row in rows] + rows)
    skipping = build_miner(store, on_empty="skip")
    expected, found = estimate_false_negatives(miner, dataset), estimate_false_negatives(skipping, empty)
    assert found.rate == expected.rate
    assert calibrate(skipping, empty, target_false_negative_rate=0.5).estimate.rate.num_anchors == 45


def test_an_ensemble_and_a_guard_are_tried_as_they_mine(store, dataset):
    teacher = EnsembleTeacher([TEACHER, HashTeacher(dimension=24)], mode="agree")
    plain = build_miner(store, method=TopK())
    agreed = build_miner(store, teacher=teacher, method=TopKPercPos(0.95))
    guarded = build_miner(store, method=TopK(), guards=(SimilarToPositive(max_score=0.4),))
    naive, together, kept = (estimate_false_negatives(miner, dataset) for miner in (plain, agreed, guarded))
    assert kept.rate.rate < naive.rate.rate / 2 and together.rate.rate < naive.rate.rate
    assert kept.setting["guards"][0]["name"] == "similar-to-positive"


def test_a_miner_with_another_method_is_not_mistaken_for_the_one_that_it_comes_from(store, dataset, miner):
    first = miner(dataset[:])  # what it finishes is kept
    other = miner.with_method(TopK())
    naive = build_miner(store, method=TopK())
    assert other(dataset[:])["negatives"] == naive(dataset[:])["negatives"] != first["negatives"]
    assert miner(dataset[:])["negatives"] == first["negatives"]


def test_a_positive_in_another_spelling_is_no_second_one(store):
    double = ONE_EACH + [{**row, "positive": row["positive"].upper() + " "} for row in ONE_EACH]
    miner = build_miner(store, double, corpus=None)
    folded = unicodedata.normalize("NFKC", double[-1]["positive"]).casefold()
    assert folded.split() == ONE_EACH[-1]["positive"].split()
    with pytest.raises(ArgumentError, match="at least 30 anchors with several known positives to tell the rate, got 0"):
        estimate_false_negatives(miner, Dataset.from_list(double))


def test_a_judge_is_asked_once_for_each_negative_in_batches(miner, dataset):
    asked, sizes = [], []

    def judge(anchors, passages):
        sizes.append(len(anchors))
        asked.extend(zip(anchors, passages, strict=True))
        return [0.5 if passage.startswith("answer") else 0.0 for passage in passages]

    found = calibrate(miner, dataset, judge=judge, target_false_negative_rate=0.6, num_anchors=40)
    assert len(set(asked)) == len(asked) == found.num_judged
    assert max(sizes) > 50
    assert found.estimate.source == "judge"
    negatives = miner.with_method(found.method)(Dataset.from_list(ROWS)[:])
    wrong = {(row["anchor"], row["positive"]) for row in ROWS} & set(asked)
    assert not wrong, "known positives are no negatives, so nobody is asked for them"
    assert negatives["negatives"]
    answers = [passage for _, passage in asked if passage.startswith("answer")]
    assert 0 < found.estimate.rate.rate <= 0.5 and answers


def test_a_judge_gets_the_pairs_in_parts():
    anchors, sizes = [str(number) for number in range(2500)], []

    def judge(some, passages):
        sizes.append(len(some))
        return [int(anchor) / 2500 * (passage == anchor * 2) for anchor, passage in zip(some, passages, strict=True)]

    assert ask(judge, anchors, [anchor * 2 for anchor in anchors]).tolist() == [n / 2500 for n in range(2500)]
    assert sizes == [1024, 1024, 452]
    assert ask(judge, [], []).shape == (0,)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    words = ["question", "answer", "filler", *map(str, range(200))]
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("cross-encoder"), words)


def test_a_cross_encoder_calls_false_what_it_scores_like_the_positive(miner, dataset, folder):
    trial, model = show_positives(miner, dataset, num_anchors=200, seed=0), load_tiny_cross_encoder(folder)
    shown = dict(zip(trial.anchors, trial.shown, strict=True))
    score = lambda *pair: model.predict([pair])[0]  # noqa: E731

    def judge(anchors, passages):
        pairs = zip(anchors, passages, strict=True)
        return [score(anchor, passage) >= score(anchor, shown[anchor]) for anchor, passage in pairs]

    found = estimate_false_negatives(miner, dataset, cross_encoder=folder)
    assert found.source == "cross-encoder"
    assert found.rate == estimate_false_negatives(miner, dataset, judge=judge).rate and 0.1 < found.rate.rate < 0.9
    assert estimate_false_negatives(miner, dataset, cross_encoder=model) == found


def test_what_scores_like_the_lowest_positive_is_a_right_answer(folder):
    texts = [f"answer {number}" for number in range(20)]
    scores = load_tiny_cross_encoder(folder).predict([("question 1", text) for text in texts])
    low, high = np.argsort(scores)[[8, 15]]
    judge = CrossEncoderJudge(folder, ["question 1"] * 2, [texts[high], texts[low]])
    others = np.setdiff1d(np.arange(20), [low, high])
    found = judge(["question 1"] * 18, [texts[place] for place in others])
    assert found.tolist() == (scores[others] > scores[low]).tolist() and 0 < found.sum() < 18


def test_cross_encoders_that_cannot_judge(miner, dataset, tmp_path):
    labels = save_tiny_cross_encoder(tmp_path / "three", ["answer"], num_labels=3)
    broken = save_tiny_cross_encoder(tmp_path / "broken", ["answer"], broken=True)
    for model, error, message in (
        (labels, ArgumentError, r"one label, a score, got .* with 3"),
        (broken, VectorError, "Expected finite scores from the cross-encoder"),
        (str(tmp_path / "none"), TeacherError, "Could not load the cross-encoder"),
    ):
        with pytest.raises(error, match=message) as caught:
            calibrate(miner, dataset, cross_encoder=model)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_false_negative_rate": 5}, "between 0 and 1, got 5; 0.05 is 5 %"),
        (
            {"target_false_negative_rate": 0.02},
            "at least 84 anchors with several known positives .* got 45; pass a",
        ),
        ({"num_anchors": 10}, "num_anchors of at least 34 to tell the rate, got 10"),
        ({"judge": len, "cross_encoder": "x"}, "a judge or a cross_encoder, got both"),
        ({"method": TopK}, "a method with a number, got TopK"),
        ({"settings": [0.5, 2]}, "percentage in"),
        ({"settings": []}, "TopKPercPos and"),
        ({"judge": lambda anchors, passages: [0]}, "answers of the judge, one for each pair, got an array of shape"),
        ({"judge": lambda anchors, passages: [2.0] * len(anchors)}, "from 0 to 1, got 2"),
        ({"judge": lambda anchors, passages: [float("nan")] * len(anchors)}, "from 0 to 1, got nan"),
        ({"judge": lambda anchors, passages: [1.0] * len(anchors)}, "at most 5.0% false negatives, got 100.0%"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(miner, dataset, arguments, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        calibrate(miner, dataset, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [TopKAbs, TopKMarginPos, TopKShifted])
def test_other_methods_are_tried_from_strict_to_loose_on_the_scale_of_the_scores(miner, dataset, kind):
    found = calibrate(miner, dataset, method=kind, target_false_negative_rate=0.9)
    hardness = [point.mean_negative_score for point in found.curve]
    assert len(hardness) > 5 and hardness[0] < hardness[-1]


@pytest.mark.filterwarnings("ignore:BM25")
def test_scores_of_bm25_have_their_own_grid(store, dataset):
    miner = build_miner(store, teacher=BM25Teacher(), num_negatives=4)
    found = calibrate(miner, dataset, method=TopKMarginPos, target_false_negative_rate=0.9)
    assert max(point.method.margin for point in found.curve) > 1


def test_the_result_reads_as_json_and_as_a_table(miner, dataset):
    found = calibrate(miner, dataset, target_false_negative_rate=0.5)
    data = found.to_dict()
    assert data["method"] == found.method.to_dict()
    assert len(data["curve"]) == len(found.curve)
    lines = str(found).splitlines()
    assert sum(line.startswith(">") for line in lines) == 1
    assert "of the negatives are false, by hidden positives, with 45 of 45 anchors" in lines[-1]
