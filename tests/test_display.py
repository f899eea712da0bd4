"""Mined rows as text: what a reader sees of rows of every kind."""

import unicodedata

import pytest
from datasets import Dataset

from hn_datasets.display import pick_rows, render_row

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


def test_the_lowest_score_of_several_positives_is_not_shown_beside_each():
    row = {**ROW, "answer": ["It is 500.", "500 a day."]}
    assert render_row(row, "query", "answer").splitlines()[1:4] == [
        "positive 1          It is 500.",
        "positive 2          500 a day.",
        "lowest      0.7500  (of the 2 positives' scores)",
    ]
    assert render_row({**ROW, "answer": ["It is 500."]}, "query", "answer") == render_row(ROW, "query", "answer")
    skipped = {**row, "positive_score": float("nan"), "negatives": [], "negative_scores": []}
    assert "nan" not in render_row(skipped, "query", "answer")
    assert "lowest" not in render_row(skipped, "query", "answer")


def columns_of(line):
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)


@pytest.mark.parametrize(
    "text", ["카드 한도는 얼마인가요? " * 20, "漢字" * 100, "ｆｕｌｌ　ｗｉｄｔｈ " * 20, "2024 漢字" * 40]
)
def test_wide_characters_count_as_two_columns(text):
    shown = render_row({**ROW, "answer": text}, "query", "answer", width=61, lines=3).splitlines()
    assert max(map(columns_of, shown)) <= 61
    positive = shown[1:4]
    assert [line[:8] for line in positive] == ["positive", " " * 8, " " * 8]
    assert min(map(columns_of, positive[:2])) > 45  # and no line is left half empty
    assert positive[2].endswith(" ...")
    assert "".join(line[20:] for line in positive).replace(" ", "")[:-3] in text.replace("　", "").replace(" ", "")


def test_accents_of_their_own_take_no_column():
    plain, accented = ("word " * 30, "wo\u0301rd " * 30)
    shown = [render_row({**ROW, "answer": text}, "query", "answer", width=50) for text in (plain, accented)]
    assert shown[1].replace("\u0301", "") == shown[0]


def test_what_would_steer_the_terminal_is_not_sent_to_it():
    assert "\x1b" not in render_row({**ROW, "answer": "\x1b[31mred"}, "query", "answer")


def test_words_are_kept_whole_unless_no_line_can_hold_them():
    row = {**ROW, "query": "short"}
    shown = render_row({**row, "answer": "one two three four"}, "query", "answer", width=32, lines=9).splitlines()
    assert [line[20:] for line in shown[1:3]] == ["one two", "three four"]
    shown = render_row({**row, "answer": "one " + "x" * 20}, "query", "answer", width=32, lines=9).splitlines()
    assert [line[20:] for line in shown[1:3]] == ["one xxxxxxxx", "xxxxxxxxxxxx"]


def test_rows_are_picked_by_their_place_in_the_order_of_scores():
    mined = Dataset.from_dict({"positive_score": [0.3, float("nan"), 0.1, 0.2]})
    assert pick_rows(mined, (0, 0.5, 1)) == [2, 3, 0]
