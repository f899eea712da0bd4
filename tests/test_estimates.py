"""Estimates of false negatives on their way into the record, the card and the folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from datasets import Dataset, load_dataset
from jsonschema import Draft202012Validator

from hn_datasets import (
    CardMetadata,
    FalseNegativeEstimate,
    TopKPercPos,
    audit,
    calibrate,
    estimate_false_negatives,
    publish,
)
from hn_datasets.cli import main
from hn_datasets.errors import ArgumentError
from hn_datasets.record import MiningRecord
from tests.topics import ONE_EACH, ROWS, build_miner

LICENSE = CardMetadata(license="cc0-1.0")
SCHEMA = Path(__file__).parent.parent / "cards" / "mining.schema.json"


@pytest.fixture(scope="module")
def dataset():
    return Dataset.from_list(ROWS)


@pytest.fixture(scope="module")
def miner(store):
    return build_miner(store)


@pytest.fixture(scope="module")
def estimate(miner, dataset):
    return estimate_false_negatives(miner, dataset)


def test_an_estimate_stands_in_mining_json_and_in_the_card(miner, dataset, estimate, tmp_path):
    mined = dataset.map(miner, batched=True)
    publish(mined, miner=miner, estimate=estimate, version="1.0.0", metadata=LICENSE, to_folder=tmp_path / "out")
    data = json.loads((tmp_path / "out/mining.json").read_text())
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(data)
    assert FalseNegativeEstimate.from_dict(data["estimates"]["false_negatives"]) == estimate
    assert MiningRecord.read(tmp_path / "out").estimate == estimate
    card = (tmp_path / "out/README.md").read_text()
    rate = estimate.rate
    assert f"{rate.rate:.1%} of the negatives are estimated to be right answers" in card
    assert f"between {rate.low:.1%} and {rate.high:.1%}" in card
    assert f"{rate.num_anchors} anchors have several known positives" in card
    assert "not known" not in card
    assert audit(tmp_path / "out").ok


def test_a_calibration_goes_in_as_it_is_once_its_method_was_mined(miner, dataset, tmp_path):
    found = calibrate(miner, dataset, target_false_negative_rate=0.5, settings=[0.6, 0.8])
    other = miner.with_method(found.method)
    mined = dataset.map(other, batched=True)
    publish(mined, miner=other, estimate=found, version="1.0.0", metadata=LICENSE, to_folder=tmp_path / "out")
    assert MiningRecord.read(tmp_path / "out").estimate == found.estimate


def test_an_estimate_of_something_else_is_refused(miner, dataset, estimate, tmp_path):
    other = miner.with_method(TopKPercPos(0.8))
    mined = dataset.map(other, batched=True)
    for wrong, message in (
        (estimate, "got one with another method; mine with the calibrated method"),
        (0.05, "got float; make one"),
        (replace(estimate, setting={**estimate.setting, "num_negatives": 9}), "another method and num_negatives"),
    ):
        with pytest.raises(ArgumentError, match=message):
            publish(mined, miner=other, estimate=wrong, version="1.0.0", metadata=LICENSE, to_folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hidden positives", "All of these but one were hidden"),
        ("judge", "A judge looked at the 135 negatives of 45 anchors"),
        ("cross-encoder", "A cross-encoder scored"),
    ],
)
def test_how_it_was_made_is_told(estimate, source, words):
    assert words in replace(estimate, source=source).describe()


def call(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.mark.filterwarnings("ignore:BM25")
def test_mine_estimates_on_request_and_publish_takes_it_over(dataset, tmp_path):
    dataset.to_json(str(tmp_path / "pairs.jsonl"))
    options = ["--teacher", "bm25", "--num-negatives", 2, "--estimate", "--output", tmp_path / "mined"]
    done = call("mine", tmp_path / "pairs.jsonl", *options)
    assert done.exit_code == 0, done.output
    estimate = MiningRecord.read(tmp_path / "mined").estimate
    assert estimate.setting["num_negatives"] == 2 and estimate.rate.num_anchors == 45
    assert estimate.describe() in done.stdout
    assert "of the negatives are estimated" in (tmp_path / "mined/README.md").read_text()
    done = call(
        "publish", tmp_path / "mined", "--version", "1.0.0", "--license", "mit", "--to-folder", tmp_path / "out"
    )
    assert done.exit_code == 0, done.output
    assert MiningRecord.read(tmp_path / "out").estimate == estimate
    assert load_dataset(str(tmp_path / "out"), split="train").num_rows


@pytest.mark.filterwarnings("ignore:BM25")
def test_mine_refuses_to_estimate_from_too_few(tmp_path):
    Dataset.from_list(ONE_EACH).to_json(str(tmp_path / "pairs.jsonl"))
    done = call("mine", tmp_path / "pairs.jsonl", "--teacher", "bm25", "--estimate", "--output", tmp_path / "mined")
    assert done.exit_code == 1
    assert "Expected at least 30 anchors with several known positives to tell the rate, got 0" in done.stderr
    assert not (tmp_path / "mined").exists()
