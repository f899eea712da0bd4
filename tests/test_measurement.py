"""Measurements of other people's data: hardness, false negatives by labels, overlap."""

import pytest

from hn_datasets.errors import ArgumentError, ColumnError
from hn_datasets.measurement import FalseNegativeRate, NegativeHardness, NegativeOverlap


@pytest.fixture
def make(tmp_path):
    return lambda kind: kind(cache_dir=str(tmp_path))


def test_hardness(make):
    columns = {"positive_score": [1.0, 0.5, 0.25], "negative_scores": [[0.75, 0.25], [0.5], []]}
    assert make(NegativeHardness).compute(**columns) == {
        "hardness": 0.5,
        "hardest": 0.625,
        "margin": (0.25 + 0.75 + 0) / 3,
        "above_positive": 1 / 3,
        "num_negatives": 3,
    }


def test_hardness_of_nothing_and_of_what_is_no_number(make):
    nothing = make(NegativeHardness).compute(positive_score=[float("nan")], negative_scores=[[]])
    assert nothing["num_negatives"] == 0 and nothing["hardness"] is None
    with pytest.raises(ColumnError, match="NaN or infinity"):
        make(NegativeHardness).compute(positive_score=[float("nan")], negative_scores=[[0.5]])


def test_false_negatives_are_those_that_labels_call_relevant_in_any_spelling(make):
    found = make(FalseNegativeRate).compute(
        anchor=["a", "b", "a"],
        negatives=[["A  right answer", "wrong"], ["wrong", "wrong too"], ["wrong", "x"]],
        relevant=[["a Right answer", "other"], ["a right answer"], ["a right answer", "X"]],
    )
    assert (found["num_false"], found["num_negatives"], found["num_anchors"]) == (2, 6, 2)
    assert found["rate"] == 2 / 6
    assert found["low"] < 2 / 6 < found["high"]


def test_false_negatives_come_in_batches_and_want_negatives(make):
    measurement = make(FalseNegativeRate)
    measurement.add_batch(anchor=["a"], negatives=[["1", "2"]], relevant=[["2"]])
    measurement.add(anchor="b", negatives=["3", "4"], relevant=["5"])
    assert measurement.compute()["rate"] == 0.25
    with pytest.raises(ArgumentError, match="Expected negatives"):
        make(FalseNegativeRate).compute(anchor=["a"], negatives=[[]], relevant=[["1"]])


def test_a_wider_confidence_gives_a_wider_interval(make):
    rows = {"anchor": list("abcd"), "negatives": [["1", "2"]] * 4, "relevant": [["1"], ["9"], ["9"], ["9"]]}
    narrow, wide = (make(FalseNegativeRate).compute(**rows, confidence=share) for share in (0.5, 0.99))
    assert wide["low"] < narrow["low"] < narrow["rate"] < narrow["high"] < wide["high"]


def test_overlap(make):
    overlap = make(NegativeOverlap).compute(first=[["1", "2"], ["3"], []], second=[["2", "4"], ["3"], []])
    assert overlap == {"jaccard": 2 / 4, "same_rows": 2 / 3, "num_common": 2, "num_first": 3, "num_second": 3}
    assert make(NegativeOverlap).compute(first=[[]], second=[[]])["jaccard"] is None
