"""The survey: what mining itself gives by each method, and what it makes of that."""

import json
import math
import re

import numpy as np
import pytest
from click.testing import CliRunner
from datasets import Dataset

from hn_datasets import (
    EnsembleTeacher,
    NearDuplicate,
    RandomNegatives,
    SimilarToPositive,
    Survey,
    TopK,
    TopKAbs,
    TopKMarginPos,
    TopKPercPos,
    TopKShifted,
    calibrate,
    estimate_false_negatives,
    survey,
)
from hn_datasets.cli import main
from hn_datasets.errors import ArgumentError
from hn_datasets.estimation.rates import Rate
from hn_datasets.estimation.report import SurveyRow
from tests.topics import EXTRA, ONE_EACH, ROWS, TEACHER, build_miner

SETTINGS = (TopKPercPos(0.5), TopKPercPos(0.9), TopKMarginPos(1.1), TopKAbs(0.4), TopKShifted(5), TopK())


@pytest.fixture(scope="module")
def dataset():
    return Dataset.from_list(ROWS)


@pytest.fixture(scope="module")
def found(store, dataset):
    return survey(dataset, teacher=TEACHER, corpus=EXTRA, store=store, settings=SETTINGS, num_negatives=3)


@pytest.fixture(scope="module")
def mined(store, dataset):
    miner = build_miner(store)
    return [miner.with_method(method)(dataset[:]) for method in SETTINGS]


def test_each_setting_is_what_mining_gives(found, mined):
    assert (found.rows, found.passages) == (len(ROWS), len(ROWS) + len(EXTRA))
    for row, columns in zip(found.settings, mined, strict=True):
        counts = [len(ids) for ids in columns["negative_ids"]]
        assert row.full_rows == counts.count(3) / len(ROWS)
        scores = [float(score) for scores in columns["negative_scores"] for score in scores]
        assert row.mean_negative_score == pytest.approx(math.fsum(scores) / len(scores), abs=1e-6)
    assert found.settings[2].full_rows < 1, "the test shows more if a row is short"


def test_the_overlap_is_that_of_the_mined_pairs(found, mined):
    pairs = [
        {(row, int(number)) for row, ids in enumerate(columns["negative_ids"]) for number in ids} for columns in mined
    ]
    expected = [[len(one & other) / len(one | other) for other in pairs] for one in pairs]
    assert np.allclose(np.array(found.overlap), expected)


def test_the_rates_are_those_of_calibrate(store, dataset, found):
    curve = calibrate(build_miner(store), dataset, settings=[0.5, 0.9], target_false_negative_rate=0.5).curve
    assert [row.rate for row in found.settings[:2]] == [point.rate for point in curve]
    assert [row.trial_score for row in found.settings[:2]] == pytest.approx(
        [point.mean_negative_score for point in curve], abs=1e-6
    )
    assert found.unknown is None and found.settings[1].rate.num_false > 0


def test_the_order_of_rows_decides_nothing(store, dataset, found):
    again = survey(
        dataset.shuffle(seed=2), teacher=TEACHER, corpus=EXTRA[::-1], store=store, settings=SETTINGS, num_negatives=3
    )
    assert again == found


def test_guards_hold_in_the_search_and_on_trial(store, dataset):
    guards = (SimilarToPositive(max_score=0.6),)
    choices = {"teacher": TEACHER, "corpus": EXTRA, "store": store, "num_negatives": 3, "guards": guards}
    found = survey(dataset, settings=SETTINGS, **choices)
    miner = build_miner(store, method=TopKPercPos(0.9), guards=guards)
    scores = [float(score) for row in miner(dataset[:])["negative_scores"] for score in row]
    assert found.settings[1].mean_negative_score == pytest.approx(math.fsum(scores) / len(scores), abs=1e-6)
    assert found.settings[1].rate == estimate_false_negatives(miner, dataset).rate
    assert found.guards == miner.recipe.guards and found.to_dict()["guards"][0]["max_score"] == 0.6


@pytest.mark.filterwarnings("ignore:BM25")
@pytest.mark.parametrize("teacher", [TEACHER, "bm25"], ids=["dense", "bm25"])
def test_all_six_methods_are_compared_where_nothing_is_named(store, dataset, teacher):
    found = survey(dataset, teacher=teacher, corpus=EXTRA, store=store)
    kinds = {type(row.method) for row in found.settings}
    assert kinds == {TopKPercPos, TopKMarginPos, TopKAbs, TopKShifted, TopK, RandomNegatives}
    assert found.choice in [row.method for row in found.settings]
    assert found.draw().startswith(b"\x89PNG")


def test_without_several_positives_it_says_why_there_is_no_rate(store):
    found = survey(Dataset.from_list(ONE_EACH), teacher=TEACHER, corpus=EXTRA, store=store, settings=SETTINGS)
    assert {row.rate for row in found.settings} == {None}
    assert "because 0 anchors have several known positives and at least 30 have to" in found.advice
    assert found.choice == TopKPercPos(0.9)
    assert re.search(r"TopKPercPos\(0.9\) .* - +- ", str(found))
    assert found.draw().startswith(b"\x89PNG")


def test_rows_that_are_skipped_as_empty_change_nothing(store, dataset, found):
    rows = Dataset.from_list([{**row, "positive": None} for row in ROWS] + ROWS)
    options = {"settings": SETTINGS, "num_negatives": 3, "on_empty": "skip"}
    assert survey(rows, teacher=TEACHER, corpus=EXTRA, store=store, **options).to_dict() == found.to_dict()


def make(*rows, guards=()):
    """A survey of settings, each with its rate, trial score and share of full rows."""
    settings = tuple(
        SurveyRow(method, full, score, Rate(rate, 0, 1, 0.95, 100, 400, rate * 400), score)
        for method, rate, score, full in rows
    )
    overlap = tuple(tuple(1.0 for _ in rows) for _ in rows)
    return Survey(100, 1000, 4, guards, settings, overlap, None, 0.05)


def test_the_choice_is_the_hardest_positive_aware_setting_that_keeps_to_the_target_with_full_rows():
    rows = [
        (TopKPercPos(0.8), 0.02, 0.3, 1.0),
        (TopKPercPos(0.9), 0.05, 0.4, 0.95),
        (TopKPercPos(1.0), 0.04, 0.5, 0.9),
        (TopKMarginPos(0.1), 0.06, 0.6, 1.0),
        (TopKAbs(0.5), 0.01, 0.5, 1.0),
        (RandomNegatives(), 0.0, 0.7, 1.0),
    ]
    found = make(*rows)
    assert found.choice == TopKPercPos(0.9)
    assert found.advice.startswith("Choose TopKPercPos(0.9)") and "TopKAbs(0.5) has harder ones" in found.advice
    other = make(*rows[2:])
    assert other.choice == TopKAbs(0.5) and "no positive-aware setting keeps to that" in other.advice
    guarded = make(*rows, guards=({"name": "similar-to-positive", "percentage": 0.3, "max_score": None},))
    assert guarded.choice == TopKAbs(0.5) and "TopKAbs(0.5) with the guards: of all settings" in guarded.advice
    nothing = make(rows[3], (TopKPercPos(0.9), 0.2, 0.4, 1.0))
    assert nothing.choice == TopKPercPos(0.9) and nothing.advice.startswith("No setting keeps to 5% false negatives")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": []}, "Expected settings to compare, got none"),
        ({"target_false_negative_rate": 5}, "between 0 and 1, got 5"),
        ({"settings": ["topk"]}, "Expected settings such as .*, got 'topk'; write each as a method"),
        *(({"num_anchors": n}, f"Expected num_anchors of at least 30, got {n}; raise it") for n in (-1, 0, 5)),
        ({"corpsu": EXTRA}, "arguments of survey or of HardNegativeMiner.from_dataset, got corpsu; leave it out"),
        ({"method": TopK(), "pool": 3}, "method, pool has no effect on a survey"),
    ],
)
def test_what_is_wrong_or_has_no_effect_is_refused_in_one_line(dataset, arguments, message):
    with pytest.raises(ArgumentError, match=f"^.*{message}.*$"):
        survey(dataset, teacher=TEACHER, **arguments)


def test_guards_that_sift_are_refused(dataset):
    with pytest.raises(ArgumentError, match="guards that a survey can search with, got near-duplicate"):
        survey(dataset, teacher="bm25", guards=(NearDuplicate(),))


def test_an_ensemble_is_refused(dataset):
    teacher = EnsembleTeacher([TEACHER, "bm25"], mode="agree")
    with pytest.raises(ArgumentError, match="Expected one teacher, whose scores"):
        survey(dataset, teacher=teacher)


def call(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.mark.filterwarnings("ignore:BM25")
def test_the_command_prints_a_table_or_json_and_draws(tmp_path, dataset):
    source = tmp_path / "pairs.jsonl"
    dataset.to_json(str(source))
    options = ["--teacher", "bm25", "--positive-column", "positive", "--num-negatives", 2]
    done = call("survey", source, *options, "--picture", tmp_path / "survey.png")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].split()[:3] == ["Setting", "Full", "rows"]
    assert (tmp_path / "survey.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads(call("survey", source, *options, "--json").stdout)
    assert data["num_negatives"] == 2 and data["advice"] == done.stdout.splitlines()[-1]
    sifting = call("survey", source, *options, "--guard", "near-duplicate")
    assert sifting.exit_code == 1 and "near-duplicate, which sift afterwards" in sifting.stderr


def test_the_command_refuses_in_one_line_before_it_reads(tmp_path):
    for options in (["--picture", "x.pdf"], ["--picture", tmp_path / "none/x.png"], ["--tokenizer", "kiwi"]):
        done = call("survey", "no-such.jsonl", "--teacher", tmp_path, *options)
        assert done.exit_code == 1 and re.fullmatch(r"Error: .*\n", done.stderr), done.stderr
    assert "--teacher" in call("survey", "--help").stdout
