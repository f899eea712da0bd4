"""Estimates from what is mined already: by labels, a cross-encoder or a judge, in Python and on the command line."""

import json
import re

import pytest
from click.testing import CliRunner
from datasets import Dataset, DatasetDict
from jsonschema import Draft202012Validator
from test_estimates import SCHEMA
from tiny_cross_encoder import load_tiny_cross_encoder, save_tiny_cross_encoder

from hn_datasets import estimate_mined
from hn_datasets.cli import main
from hn_datasets.errors import ArgumentError, ColumnError, TeacherError
from hn_datasets.estimation.rates import estimate_rate
from hn_datasets.record import MiningRecord
from hn_datasets.sources import write_mined
from tests.topics import NUM_ANCHORS, ONE_EACH, ROWS, build_miner

HIDDEN = [row["positive"] for row in ROWS if row not in ONE_EACH]


def answers_to(anchor):
    """All right answers, in another spelling."""
    return [row["positive"].upper() for row in ROWS if row["anchor"] == anchor]


@pytest.fixture(scope="module")
def miner(store):
    return build_miner(store, ONE_EACH, corpus=HIDDEN)


@pytest.fixture(scope="module")
def mined(miner):
    """Every row twice, so that an anchor has several; one in six without labels."""
    rows = Dataset.from_list(ONE_EACH * 2).map(miner, batched=True)
    labels = [answers_to(row["anchor"]) if number % 6 else None for number, row in enumerate(ONE_EACH * 2)]
    return rows.add_column("relevant", labels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    words = ["question", "answer", *map(str, range(NUM_ANCHORS))]
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("cross-encoder"), words)


def rate_of(mined, is_false):
    """Count by anchor, row after row."""
    false, counts = {}, {}
    for row in mined:
        wrong = sum(is_false(row["anchor"], text) for text in row["negatives"])
        false[row["anchor"]] = false.get(row["anchor"], 0) + wrong
        counts[row["anchor"]] = counts.get(row["anchor"], 0) + len(row["negatives"])
    return estimate_rate(list(false.values()), list(counts.values()))


def test_labels_in_any_spelling_tell_and_rows_without_labels_do_not(mined, miner):
    labelled = mined.filter(lambda row: row["relevant"] is not None)
    expected = rate_of(labelled, lambda anchor, text: text.upper() in answers_to(anchor))
    found = estimate_mined(mined, miner.recipe, relevant_column_name="relevant")
    assert (found.rate, found.source) == (expected, "relevance labels")
    assert expected.num_anchors == len({row["anchor"] for row in labelled}) and 0 < expected.rate < 0.5
    assert "Labels call" in found.describe() and f"{expected.num_anchors} labelled anchors" in found.describe()


def test_one_label_is_a_text(mined, miner):
    rows = mined.remove_columns("relevant").add_column("relevant", [row[0] for row in mined["negatives"]])
    found = estimate_mined(rows, miner.recipe, relevant_column_name="relevant")
    assert found.rate.num_false == len(rows)


def test_a_cross_encoder_calls_false_what_it_scores_like_the_lowest_positive(mined, miner, folder):
    model = load_tiny_cross_encoder(folder)
    score = lambda anchor, text: model.predict([(anchor, text)])[0]  # noqa: E731
    lists = mined.map(lambda row: {"positive": [row["positive"], "answer 7 7"]})
    bounds = {row["anchor"]: min(score(row["anchor"], text) for text in row["positive"]) for row in lists}
    expected = rate_of(mined, lambda anchor, text: score(anchor, text) >= bounds[anchor])
    found = estimate_mined(lists, miner.recipe, cross_encoder=folder)
    assert (found.rate, found.source) == (expected, "cross-encoder")
    assert 0.1 < expected.rate < 1


def test_a_judge_is_asked_once_for_each_pair(mined, miner):
    asked = []

    def judge(anchors, passages):
        asked.extend(zip(anchors, passages, strict=True))
        return [0.25] * len(anchors)

    found = estimate_mined(mined, miner.recipe, judge=judge)
    assert len(asked) == len(set(asked)) == NUM_ANCHORS * 3
    assert (found.rate.rate, found.rate.num_anchors, found.source) == (0.25, NUM_ANCHORS, "judge")


def test_the_seed_chooses_the_sample_and_neither_order_nor_splits_do(mined, miner):
    judge = lambda anchors, passages: [len(anchor) % 7 / 7 for anchor in anchors]  # noqa: E731
    estimate = lambda rows, seed=0: estimate_mined(  # noqa: E731
        rows, miner.recipe, relevant_column_name="relevant", num_anchors=30, seed=seed
    )
    found = estimate(mined)
    assert found.rate.num_anchors == 30
    assert estimate(mined.shuffle(seed=1)) == found
    assert estimate(DatasetDict(a=mined.select(range(25)), b=mined.select(range(25, len(mined))))) == found
    assert len({estimate(mined, seed).rate.num_false for seed in range(6)}) > 1
    assert estimate_mined(mined.shuffle(seed=1), miner.recipe, judge=judge) == estimate_mined(
        mined, miner.recipe, judge=judge
    )


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({}, ArgumentError, "Expected one of relevant_column_name, cross_encoder, judge, got none; pass the one"),
        ({"judge": len, "cross_encoder": "x"}, ArgumentError, "got cross_encoder and judge; pass the one"),
        ({"judge": len, "num_anchors": 29}, ArgumentError, "num_anchors of at least 30, got 29; raise it"),
        ({"judge": len, "confidence": 95}, ArgumentError, "a confidence between 0 and 1, got 95"),
        ({"judge": lambda *_: [0]}, ArgumentError, "answers of the judge, one for each pair"),
        ({"relevant_column_name": "right"}, ColumnError, "strings or lists of strings in 'right', the dataset has the"),
        ({"relevant_column_name": "negative_scores"}, ColumnError, "strings or lists of strings in 'negative_scores'"),
        ({"cross_encoder": "no/such"}, TeacherError, "Could not load the cross-encoder 'no/such'"),
    ],
)
def test_what_cannot_be_estimated_is_refused_in_one_line(mined, miner, choices, error, message):
    with pytest.raises(error, match=message) as caught:
        estimate_mined(mined, miner.recipe, **choices)
    assert "\n" not in str(caught.value)


def test_too_few_anchors_are_refused_before_anybody_is_asked(mined, miner):
    with pytest.raises(ArgumentError, match="at least 30 anchors with negatives to tell the rate, got 29; give more"):
        estimate_mined(mined.select(range(29)), miner.recipe, judge=len)
    few = mined.filter(lambda row: row["relevant"] is not None).select(range(29))
    with pytest.raises(ArgumentError, match="negatives and with texts in column 'relevant' to tell the rate, got 29"):
        estimate_mined(few, miner.recipe, relevant_column_name="relevant")
    with pytest.raises(ColumnError, match="no column negatives; mine it first"):
        estimate_mined(mined.remove_columns("negatives"), miner.recipe, judge=len)


def publish(*arguments):
    options = ["--version", "1.0.0", "--license", "mit"]
    return CliRunner().invoke(main, ["publish", *options, *map(str, arguments)])


@pytest.fixture(scope="module")
def written(mined, miner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "mined"
    write_mined(mined, MiningRecord.of(mined, miner), folder, overwrite=False)
    return folder


@pytest.mark.parametrize("how", ["relevant", "cross-encoder"])
def test_the_command_puts_it_into_card_and_record(written, mined, miner, folder, tmp_path, how):
    value = {"relevant": "relevant", "cross-encoder": folder}[how]
    done = publish(written, "--to-folder", tmp_path / "out", "--estimate", f"{how}={value}")
    assert done.exit_code == 0, done.output
    name = {"relevant": "relevant_column_name", "cross-encoder": "cross_encoder"}[how]
    expected = estimate_mined(mined, miner.recipe, **{name: value})
    data = json.loads((tmp_path / "out/mining.json").read_text())
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(data)
    assert MiningRecord.read(tmp_path / "out").estimate == expected
    assert expected.describe() in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--estimate", "labels=x"],
            "Expected --estimate as relevant=COLUMN, .* or cross-encoder=MODEL, got 'labels=x'",
        ),
        (["--estimate", "relevant="], "got 'relevant='"),
        (["--estimate", "relevant=right"], "strings or lists of strings in 'right'"),
        (["--estimate", "relevant=right", "--license", ""], "licen[cs]e"),
        (["--estimate", "relevant=right", "--version", "one"], "version"),
    ],
)
def test_the_command_refuses_in_one_line(written, tmp_path, options, message):
    done = publish(written, "--to-folder", tmp_path / "out", *options)
    assert done.exit_code == 1 and re.fullmatch(rf"Error: .*{message}.*\n", done.stderr), done.output
    assert not (tmp_path / "out").exists()
