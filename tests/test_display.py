"""Mined rows as text: what a reader sees of rows of every kind."""

import pytest

from hn_datasets.display import render_row

ROW = {
    "query": "What is\tthe\ncard limit?",
    "answer": "It is 500.",
    "positive_score": 0.75,
    "negatives": ["The loan limit is 900.", "The fee is 3."],
    "negative_scores": [0.5, -0.25],
}
SKIPPED = {**ROW, "positive_score": float("nan"), "negatives": [], "negative_scores": []}


def test_anchor_positive_and_negatives_stand_in_order_each_with_its_score():
    assert render_row(ROW, "query", "answer").splitlines() == [
        "anchor              What is the card limit?",
        "positive    0.7500  It is 500.",
        "negative 1  0.5000  The loan limit is 900.",
        "negative 2 -0.2500  The fee is 3.",
    ]


@pytest.mark.parametrize("lines", [1, 3])
def test_long_texts_are_cut_to_lines_below_one_another(lines):
    shown = render_row({**ROW, "answer": "word " * 200}, "query", "answer", width=50, lines=lines).splitlines()
    start = shown.index(next(line for line in shown if line.startswith("positive")))
    positive = shown[start : start + lines]
    assert positive[-1].endswith(" ...")
    assert all(line.startswith(" " * 20 + "word") for line in positive[1:])
    assert shown[start + lines].startswith("negative 1")
    assert max(map(len, shown)) <= 50


@pytest.mark.parametrize(
    "empty", [{"query": None}, {"answer": None}, {"answer": []}, {"answer": [None]}, {"query": " "}]
)
def test_a_skipped_row_says_so(empty):
    shown = render_row({**SKIPPED, **empty}, "query", "answer")
    assert shown.endswith("skipped as empty")
    assert "qualifies" not in shown


def test_a_row_without_negatives_is_not_taken_for_a_skipped_one():
    shown = render_row({**SKIPPED, "positive_score": 0.75}, "query", "answer")
    assert shown.endswith("no passage of the corpus qualifies")
