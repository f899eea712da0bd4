"""The audit finds every fault that is put into sound data, and nothing else."""

import copy
import json
import shutil
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from datasets import Dataset, DatasetDict, Features, List, Value

from hn_datasets import CardMetadata, TopKMarginPos, compare, compute_statistics, format_dataset, publish
from hn_datasets.commands.audit import audit_command
from hn_datasets.errors import ArgumentError, ColumnError, DataSourceError, TextError
from hn_datasets.inspection import blocks
from hn_datasets.inspection.audit import audit, audit_dataset
from hn_datasets.mined_columns import GUARD_FEATURES, MINED_FEATURES
from hn_datasets.recipe import Recipe
from hn_datasets.record import MiningRecord

TEXTS = {
    "query": [f"question {n}" for n in range(4)],
    "answer": [f"positive {n}" for n in range(4)],
    "negatives": [[f"negative {n} {rank}" for rank in "ab"] for n in range(4)],
}
MINED = {
    **TEXTS,
    "negative_ids": [[2 * n, 2 * n + 1] for n in range(4)],
    "negative_scores": [[0.5, 0.25]] * 4,
    "positive_score": [0.75] * 4,
    "ceiling": [0.625] * 4,
    "top_score": [0.5] * 4,
    "guard_removals": [[0, 3]] * 4,
}
FEATURES = Features({"query": Value("string"), "answer": Value("string"), **MINED_FEATURES, **GUARD_FEATURES})
NAN, INF = float("nan"), float("inf")
SAME_OF_ROWS = {"similar-negative", "positive-of-similar-anchor", "repeated-pair"}
INFORMATION = {*SAME_OF_ROWS, "short-row", "skipped-row", "filled-negative"}


def change(base, changes):
    """Return a copy of a table in which the value at each path, as in ("negatives", 0, 1), is another."""
    columns = copy.deepcopy(base)
    for (*path, last), value in changes.items():
        inner = columns
        for step in path:
            inner = inner[step]
        inner[last] = value
    return columns


def as_mined(columns):
    return Dataset.from_dict(columns, features=Features({name: FEATURES[name] for name in columns}))


def make_record(dataset, **choices):
    recipe = Recipe(
        teacher={"type": "hash"},
        method=TopKMarginPos(0.125),
        num_negatives=2,
        guards=({"name": "near-duplicate", "threshold": 0.9}, {"name": "same-group", "column": "day"}),
        anchor_column_name="query",
        positive_column_name="answer",
    )
    statistics = compute_statistics(dataset, num_negatives=2)
    fields = {"rows": {"train": len(dataset)}, "corpus": {"passages": 12, "digest": "0" * 32}, "statistics": statistics}
    return MiningRecord(recipe=recipe, **{**fields, **choices})


SOUND = as_mined(MINED)


@pytest.mark.parametrize("record", [None, make_record(SOUND)], ids=["alone", "with record"])
def test_sound_data_has_no_findings(record):
    report = audit_dataset(SOUND, record=record)
    assert report.ok and report.findings == ()
    assert (report.rows, report.negatives) == ({"train": 4}, 8)
    assert str(report) == report.to_table() == "4 rows with 8 negatives were read: nothing is broken."


@pytest.mark.parametrize(
    ("name", "row", "text", "changes"),
    [
        ("anchor-among-negatives", 2, "question 2", {("negatives", 2, 1): "question 2"}),
        ("anchor-among-negatives-normalised", 2, "Ｑuestion 2", {("negatives", 2, 1): "Ｑuestion  2 "}),
        ("positive-among-negatives", 0, "positive 0", {("negatives", 0, 0): "positive 0"}),
        ("positive-among-negatives-normalised", 0, "POSITIVE 0", {("negatives", 0, 0): "\tPOSITIVE 0"}),
        ("positive-elsewhere", 0, "positive 3", {("query", 3): "question 0", ("negatives", 0, 1): "positive 3"}),
        ("positive-elsewhere", 0, "Positive 3", {("query", 3): "question 0", ("negatives", 0, 1): "Positive 3"}),
        (
            "positive-of-similar-anchor",
            1,
            "positive 3",
            {("query", 3): "QUESTION 1", ("negatives", 1, 1): "positive 3"},
        ),
        ("duplicate-negative", 3, "negative 3 a", {("negatives", 3, 1): "negative 3 a"}),
        ("similar-negative", 3, "Negative 3 a", {("negatives", 3, 1): "Negative 3 a"}),
        ("empty-anchor", 1, "", {("query", 1): None}),
        ("empty-anchor", 1, "", {("query", 1): " \n"}),
        ("empty-positive", 1, "question 1", {("answer", 1): ""}),
        ("empty-negative", 1, "", {("negatives", 1, 0): None}),
        ("short-row", 2, "question 2", {("negatives", 2): ["negative 2 a"]}),
    ],
)
def test_each_fault_of_texts_is_found_alone(name, row, text, changes):
    report = audit_dataset(Dataset.from_dict(change(TEXTS, changes)))
    (finding,) = report.findings
    assert (finding.name, finding.count, finding.where, finding.row) == (name, 1, "train", row)
    assert finding.text == repr(text)
    assert report.ok == (name in INFORMATION)


@pytest.mark.parametrize(
    ("name", "row", "changes"),
    [
        ("uneven-lists", 1, {("negative_scores", 1): [0.5]}),
        ("uneven-lists", 1, {("negative_ids", 1): [1, 2, 3]}),
        ("score-not-finite", 2, {("negative_scores", 2): [0.5, NAN]}),
        ("score-not-finite", 2, {("negative_scores", 2): [0.5, -INF]}),
        ("score-not-finite", 2, {("negative_scores", 2): [0.5, None]}),
        ("row-score-not-finite", 3, {("positive_score", 3): NAN}),
        ("row-score-not-finite", 3, {("positive_score", 3): None}),
        ("row-score-not-finite", 3, {("ceiling", 3): NAN}),
        ("row-score-not-finite", 3, {("top_score", 3): INF}),
        ("scores-not-falling", 0, {("negative_scores", 0): [0.25, 0.5]}),
        ("at-or-above-ceiling", 1, {("ceiling", 1): 0.5}),
        ("id-below-0", 2, {("negative_ids", 2): [4, -2]}),
        ("id-below-0", 2, {("negative_ids", 2): [4, -1]}),
        ("id-below-0", 2, {("negative_ids", 2): [4, None]}),
        ("id-of-two-texts", 3, {("negative_ids", 3): [0, 7]}),
        ("filled-negative", 2, {("negative_ids", 2): [4, -1], ("negative_scores", 2): [0.5, NAN]}),
        ("removals-unsound", 1, {("guard_removals", 1): [1]}),
        ("removals-unsound", 1, {("guard_removals", 1): [1, -1]}),
        ("removals-unsound", 1, {("guard_removals", 1): None}),
        (
            "skipped-row",
            1,
            {
                ("query", 1): "",
                ("answer", 1): None,
                ("positive_score", 1): NAN,
                ("ceiling", 1): NAN,
                ("top_score", 1): NAN,
            }
            | {(name, 1): [] for name in ("negatives", "negative_ids", "negative_scores")},
        ),
    ],
)
def test_each_fault_of_numbers_is_found_alone(name, row, changes):
    report = audit_dataset(as_mined(change(MINED, changes)))
    (finding,) = report.findings
    assert (finding.name, finding.count, finding.row) == (name, 1, row)
    assert report.ok == (name in INFORMATION)


def test_a_missing_id_does_not_mark_a_negative_as_filled():
    changes = {("negative_ids", 2): [4, None], ("negative_scores", 2): [0.5, None]}
    found = audit_dataset(as_mined(change(MINED, changes))).findings
    assert [finding.name for finding in found] == ["score-not-finite", "id-below-0"]


def test_scores_that_may_be_equal_infinite_ceilings_and_no_top_score_are_sound():
    changes = {("negative_scores", 0): [0.5, 0.5], ("ceiling", 1): INF, ("top_score", 2): NAN}
    assert audit_dataset(as_mined(change(MINED, changes))).findings == ()


def test_what_the_record_says_is_compared_with_the_data():
    record = make_record(SOUND)
    beyond = as_mined(change(MINED, {("negative_ids", 1): [2, 12]}))
    (finding,) = audit_dataset(beyond, record=record).findings
    assert (finding.name, finding.row) == ("id-beyond-corpus", 1)
    (rows,) = audit_dataset(SOUND, record=make_record(SOUND, rows={"train": 4, "test": 2})).findings
    assert (rows.name, rows.text) == ("rows-differ", "test: 2 in mining.json, nothing in the data")
    other = as_mined(change(MINED, {("negative_scores", 0): [0.5, 0.125]}))
    (statistics,) = audit_dataset(other, record=record).findings
    assert statistics.name == "statistics-differ" and not audit_dataset(other, record=record).ok
    assert statistics.text == "negative_score.mean: 0.375 in mining.json, 0.359375 in the data"


def test_without_a_ceiling_column_the_method_of_the_record_gives_the_ceiling():
    columns = {name: values for name, values in MINED.items() if name != "ceiling"}
    at_ceiling = as_mined(change(columns, {("negative_scores", 1): [0.625, 0.25]}))
    assert audit_dataset(at_ceiling).findings == ()
    (finding,) = audit_dataset(at_ceiling, record=make_record(at_ceiling)).findings
    assert (finding.name, finding.row) == ("at-or-above-ceiling", 1)


def test_rows_are_short_against_the_recipe_and_filled_ones_do_not_change_the_statistics():
    one_each = {name: [row[:1] for row in MINED[name]] for name in ("negatives", "negative_ids", "negative_scores")}
    short = as_mined({**MINED, **one_each})
    assert audit_dataset(short).findings == ()
    assert [(f.name, f.count) for f in audit_dataset(short, record=make_record(short)).findings] == [("short-row", 4)]
    filled = as_mined(change(MINED, {("negative_ids", n, 1): -1 for n in range(4)}))
    filled = as_mined(change(filled.to_dict(), {("negative_scores", n, 1): NAN for n in range(4)}))
    found = audit_dataset(filled, record=make_record(short)).findings
    assert [(finding.name, finding.count) for finding in found] == [("filled-negative", 4)]


@pytest.mark.parametrize(("name", "read_back"), [("train+test", "train_test"), ("-", "train")])
def test_a_split_whose_name_no_file_can_have_agrees_with_its_record(name, read_back):
    splits = DatasetDict({read_back: SOUND})
    assert audit_dataset(splits, record=make_record(SOUND, rows={name: 4})).ok


def test_splits_are_one_dataset_and_examples_name_their_own_rows(monkeypatch):
    monkeypatch.setattr(blocks, "READ_ROWS", 3)  # so that rows come in several blocks
    faulty = change(
        TEXTS, {("query", 2): "question 0", ("answer", 2): "positive 9", ("negatives", 3, 1): "negative 3 a"}
    )
    first = Dataset.from_dict(change(TEXTS, {("negatives", 0, 0): "positive 9"}))
    report = audit_dataset(DatasetDict({"train": first, "none": first.select([]), "test": Dataset.from_dict(faulty)}))
    found = {finding.name: (finding.where, finding.row, finding.count) for finding in report.findings}
    assert found == {"positive-elsewhere": ("train", 0, 1), "duplicate-negative": ("test", 3, 1)}
    assert report.rows == {"train": 4, "none": 0, "test": 4}


def test_many_blocks_find_what_one_block_finds(monkeypatch):
    rng = np.random.default_rng(0)
    pool = [f"Text {n}" if n % 2 else f"text {n - n % 3}" for n in range(40)]
    rows = {
        "anchor": [pool[n] for n in rng.integers(0, 40, 300)],
        "positive": [[pool[n] for n in rng.integers(0, 40, 2)] for _ in range(300)],
        "neg": [[pool[n] for n in rng.integers(0, 40, rng.integers(0, 4))] for _ in range(300)],
    }
    whole = audit_dataset(Dataset.from_dict(rows))
    monkeypatch.setattr(blocks, "READ_ROWS", 7)
    assert audit_dataset(Dataset.from_dict(rows)) == whole
    expected = sum(len(row) - len(set(row)) for row in rows["neg"])
    assert {f.name: f.count for f in whole.findings}["duplicate-negative"] == expected
    own = sum(text in positives for positives, row in zip(rows["positive"], rows["neg"], strict=True) for text in row)
    assert {f.name: f.count for f in whole.findings}["positive-among-negatives"] == own


LAYOUTS = ["n-tuple", "triplet", "labeled-pair", "labeled-list", "scored", "normalized"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_sound_rows_is_sound_and_shows_a_positive_among_the_negatives(layout):
    assert audit_dataset(format_dataset(SOUND, layout)).findings == ()
    ids = {("negative_ids", 2): [8, 5]}  # another text under its own id
    faulty = as_mined(change(MINED, {("negatives", 2, 0): "positive 2", **ids}))
    (finding,) = audit_dataset(format_dataset(faulty, layout)).findings
    assert finding.name == ("positive-elsewhere" if layout == "labeled-pair" else "positive-among-negatives")
    assert (finding.anchor, finding.text) == ("'question 2'", "'positive 2'")
    assert finding.row == {"triplet": 4, "labeled-pair": 7}.get(layout, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_shows_a_positive_of_the_same_anchor_elsewhere(layout):
    changes = {("query", 3): "question 1", ("negatives", 1, 0): "positive 3"}
    report = audit_dataset(format_dataset(as_mined(change(MINED, changes)), layout))
    assert [finding.name for finding in report.findings] == ["positive-elsewhere"]


def test_labeled_pairs_of_two_rows_with_the_same_anchor_may_share_negatives():
    changes = {("query", 1): "question 0", ("negatives", 1): MINED["negatives"][0], ("negative_ids", 1): [0, 1]}
    (finding,) = audit_dataset(format_dataset(as_mined(change(MINED, changes)), "labeled-pair")).findings
    assert (finding.name, finding.severity, finding.count) == ("repeated-pair", "information", 2)


def test_a_label_above_0_is_a_positive_and_a_missing_one_is_not():
    rows = {"query": ["q"] * 4, "passage": ["a", "b", "b", "c"], "label": [0.25, None, 0.5, 0.0]}
    report = audit_dataset(Dataset.from_dict(rows))
    assert [(finding.name, finding.row) for finding in report.findings] == [("positive-elsewhere", 1)]
    assert report.negatives == 2


def test_labeled_pairs_may_stand_in_any_order():
    changes = {("query", 3): "question 1", ("negatives", 1, 0): "positive 3"}
    pairs = format_dataset(as_mined(change(MINED, changes)), "labeled-pair")
    for order in (range(11, -1, -1), np.random.default_rng(0).permutation(12).tolist()):
        shuffled = pairs.select(order)
        (finding,) = audit_dataset(
            DatasetDict({"train": shuffled.select(range(5)), "test": shuffled.select(range(5, 12))})
        ).findings
        assert (finding.name, finding.count, finding.text) == ("positive-elsewhere", 1, "'positive 3'")


FLAG_EMBEDDING = {
    "id": ["a", "b"],
    "query": ["question 0", "question 1"],
    "pos": [["positive 0", "positive 1"], ["positive 2"]],
    "neg": [["negative 0"], ["negative 1"]],
    "pos_scores": [[0.9, 0.8], [0.7]],
    "neg_scores": [[0.1], [0.2]],
    "prompt": ["Represent this sentence", "Represent this sentence"],
}


def test_rows_of_flag_embedding_are_known():
    assert audit_dataset(Dataset.from_dict(FLAG_EMBEDDING)).findings == ()
    changes = {("neg", 0): ["positive 1", "negative 0"], ("neg", 1): ["b"], ("neg_scores", 0): [0.1, 0.2]}
    found = audit_dataset(Dataset.from_dict(change(FLAG_EMBEDDING, changes))).findings
    assert [(f.name, f.severity) for f in found] == [
        ("positive-among-negatives", "broken"),
        ("scores-not-falling", "information"),  # nobody promised that they fall
        ("short-row", "information"),
    ]
    empty = audit_dataset(Dataset.from_dict(change(FLAG_EMBEDDING, {("pos", 1): [], ("neg_scores", 0): [NAN]})))
    assert [finding.name for finding in empty.findings] == ["empty-positive", "score-not-finite"]


@pytest.mark.parametrize(
    "names",
    [("negative",), ("negative_1", "negative_2"), ("hard_negative_1", "hard_negative_2"), ("neg2", "neg10")],
    ids=",".join,
)
def test_columns_of_texts_are_negatives_by_rank(names):
    columns = {"extra": ["x", "y"], "question": ["q", "r"], "answer": ["a", "b"]}
    rows = {**columns, **{name: [f"n {name}", f"m {name}"] for name in reversed(names)}}
    assert audit_dataset(Dataset.from_dict(rows)).negatives == 2 * len(names)
    rows[names[-1]] = ["A ", None]
    found = audit_dataset(Dataset.from_dict(rows)).findings
    assert [(finding.name, finding.row) for finding in found] == [
        ("positive-among-negatives-normalised", 0),
        ("short-row", 1),
    ]


def test_columns_may_be_named():
    rows = Dataset.from_dict({"a": ["q"], "b": ["p"], "wrong": [["p", "n"]], "also": ["n"]})
    with pytest.raises(ColumnError, match=r"columns a \(string\), .*; name them by negatives \(--negative-c"):
        audit_dataset(rows)
    names = {"anchor": "a", "positive": "b"}
    assert [f.name for f in audit_dataset(rows, **names, negatives="wrong").findings] == ["positive-among-negatives"]
    assert audit_dataset(rows, **names, negatives=["also"]).findings == ()
    for wrong in ("none", ["wrong", "also"], []):
        with pytest.raises(ColumnError, match="Expected negatives in one column of lists"):
            audit_dataset(rows, negatives=wrong)
    with pytest.raises(ColumnError, match=r"Negatives are taken from negative; name columns by .*--anchor-column"):
        audit_dataset(Dataset.from_dict({"query": ["q"], "negative": ["n"]}))
    with pytest.raises(ColumnError, match="'c'"):
        audit_dataset(rows, anchor="c", positive="b", negatives="wrong")


def test_lists_of_one_length_and_lists_that_are_all_empty_are_negatives():
    fixed = List(Value("string"), length=2)
    features = Features({"query": Value("string"), "positive": Value("string"), "hard_negatives": fixed})
    rows = {"query": ["q", "r"], "positive": ["p", "s"], "hard_negatives": [["p", "n"], ["o", "n"]]}
    report = audit_dataset(Dataset.from_dict(rows, features))
    assert ([finding.name for finding in report.findings], report.negatives) == (["positive-among-negatives"], 4)
    none = audit_dataset(Dataset.from_dict({"query": ["q"], "pos": [["p"]], "neg": [[]]}))
    assert (none.findings, none.negatives) == ((), 0)


def test_ids_that_no_text_of_the_normalized_layout_has_are_missing_texts():
    tables = format_dataset(SOUND, "normalized")
    tables["documents"] = tables["documents"].select(range(len(tables["documents"]) - 1))
    (finding,) = audit_dataset(tables).findings
    assert (finding.name, finding.row) == ("empty-negative", 3)


def test_a_ceiling_above_that_of_the_method_does_not_hide_a_negative():
    raised = as_mined(change(MINED, {("ceiling", 1): 0.875, ("negative_scores", 1): [0.75, 0.25]}))
    assert audit_dataset(raised).findings == ()
    found = audit_dataset(raised, record=make_record(raised)).broken
    assert [(finding.name, finding.row, finding.count) for finding in found] == [
        ("ceiling-of-another-method", 1, 1),
        ("at-or-above-ceiling", 1, 1),
    ]


def test_ceilings_of_another_method_are_found_also_where_they_are_lower():
    rows = as_mined({name: values * 3 for name, values in {**MINED, "ceiling": [0.5625] * 4}.items()})
    (finding,) = audit_dataset(rows, record=make_record(rows)).broken
    assert (finding.name, finding.row, finding.count) == ("ceiling-of-another-method", 0, 12)
    lowest = as_mined(change(rows.to_dict(), {("ceiling", 7): 0.625}))
    assert audit_dataset(lowest, record=make_record(lowest)).ok, "the others have lower positives in other rows"


def test_rows_with_more_negatives_than_the_recipe_are_found():
    record = make_record(SOUND)
    one = replace(record, recipe=replace(record.recipe, num_negatives=1))
    assert [(finding.name, finding.count) for finding in audit_dataset(SOUND, record=one).broken] == [("long-row", 4)]


def width_of(line):
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def test_a_table_fits_a_terminal_with_wide_characters_too():
    long, other = "음수 문장은 정답이 아니다 " * 9, "Question " * 40
    rows = Dataset.from_dict({"query": [other, "r" * 300], "pos": [[long], ["p"]], "neg": [[long], ["r" * 300]]})
    lines = audit_dataset(rows).to_table().splitlines()
    assert len(lines) == 3 + 2 * 3
    assert max(map(width_of, lines)) <= 100
    examples = [line for line in lines if "anchor '" in line]
    assert [width_of(line) for line in examples] in ([100, 99], [99, 100], [100, 100])
    assert all(line.endswith("...") for line in examples) and "음수 문장은 정답이" in "".join(examples)


def test_data_that_cannot_be_audited_is_refused_in_one_line(tmp_path):
    labels = Dataset.from_dict({"query": ["q"], "docs": [["a", "b"]], "labels": [[1]]})
    with pytest.raises(ColumnError, match="one label for each passage"):
        audit_dataset(labels)
    with pytest.raises(TextError, match="a dataset with rows"):
        audit_dataset(SOUND.select([]))
    with pytest.raises(DataSourceError, match="no such file or folder"):
        audit("a b/c d/e")
    with pytest.raises(DataSourceError, match=r"'rows\.jsonl': no such file or folder\."):
        audit("rows.jsonl")
    with pytest.raises(DataSourceError, match=r"'mined': no such file or folder, and the Hub cannot be reached"):
        audit("mined")
    with pytest.raises(ArgumentError, match=r"me/repo@v1\.0\.0"):
        audit("me/repo@")
    with pytest.raises(ArgumentError, match="no effect on the local source"):
        audit(tmp_path, revision="v1.0.0")


def write_release(folder, mined, record, layouts=("n-tuple", "scored"), **texts):
    """Write a release by hand: a folder and a configuration for each layout, card and record.

    ``texts`` replaces texts of the card, under any names: each is a pair of old and new.
    """
    lines = ["configs:"]
    infos = ["dataset_info:"]
    for number, layout in enumerate(layouts):
        rows = format_dataset(mined, layout)
        path = folder / layout / "train-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(str(path))
        lines += [
            f"- config_name: {layout}",
            "  data_files:",
            "  - split: train",
            f"    path: {layout}/train-*.parquet",
        ]
        lines += ["  default: true"] if number == 0 else []
        infos += [f"- config_name: {layout}", "  splits:", "  - name: train", f"    num_examples: {len(rows)}"]
    card = "\n".join(["---", "license: mit", *lines, *infos, "---", "# Mined\n"])
    for old, new in texts.values():
        assert old in card
        card = card.replace(old, new)
    (folder / "README.md").write_text(card)
    if record is not None:
        (folder / "mining.json").write_text(record.to_json())
    return folder


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "release", SOUND, make_record(SOUND))


def test_a_release_is_read_layout_by_layout(release):
    report = audit(release)
    assert report.ok and report.findings == ()
    assert report.rows == {"n-tuple/train": 4, "scored/train": 4}
    assert audit(str(release), config_name="scored").rows == {"scored/train": 4}


def test_a_fault_in_any_layout_of_a_release_is_found(tmp_path):
    record = make_record(SOUND)
    write_release(tmp_path, SOUND, record, ["n-tuple", "labeled-pair", "scored"])
    faulty = as_mined(change(MINED, {("negatives", 2, 0): "positive 2"}))
    format_dataset(faulty, "labeled-pair").to_parquet(str(tmp_path / "labeled-pair" / "train-00000-of-00001.parquet"))
    (finding,) = audit(tmp_path).findings
    assert (finding.name, finding.where, finding.row) == ("positive-elsewhere", "labeled-pair/train", 7)


def test_files_of_a_folder_are_read_as_they_are_now(release, tmp_path):
    assert audit(release).ok
    other = tmp_path / "downloaded" / release.name  # with the same card and file names
    shutil.copytree(release, other)
    faulty = as_mined(change(MINED, {("negatives", 2, 0): "positive 2"}))
    faulty.to_parquet(str(other / "scored" / "train-00000-of-00001.parquet"))
    assert [finding.where for finding in audit(other).broken] == ["scored/train"]
    assert compare(release, other).negatives_in_common == 7
    faulty.to_parquet(str(release / "scored" / "train-00000-of-00001.parquet"))
    assert [finding.where for finding in audit(release).broken] == ["scored/train"]
    assert compare(release, other).negatives_in_common == 8


SPLITS = "n-tuple\n  splits:\n  - name: train\n    num_examples: 4"


@pytest.mark.parametrize(
    ("name", "text", "edit"),
    [
        ("card-rows-differ", "n-tuple/train: 5 in the card, 4 in its files", (SPLITS, SPLITS[:-1] + "5")),
        ("card-rows-differ", "n-tuple/test: 4 in the card, 0 in its files", (SPLITS, SPLITS.replace("train", "test"))),
        ("card-config-unknown", "triplet", ("dataset_info:\n", "dataset_info:\n- config_name: triplet\n")),
        ("card-file-missing", "scored: gone/*.parquet", ("scored/train-*.parquet", "gone/*.parquet")),
    ],
)
def test_a_card_that_disagrees_with_the_files_is_found(tmp_path, name, text, edit):
    report = audit(write_release(tmp_path, SOUND, make_record(SOUND), edit=edit))
    found = [finding for finding in report.findings if finding.name == name]
    assert [finding.text for finding in found] == [text]
    assert not report.ok and {finding.name for finding in report.findings} <= {name, "card-rows-differ"}


def test_a_record_that_disagrees_with_the_data_is_found(release):
    record = json.loads((release / "mining.json").read_text())
    record["statistics"]["negatives"] += 1
    (release / "mining.json").write_text(json.dumps(record))
    (finding,) = audit(release).findings
    assert finding.text == "negatives: 9 in mining.json, 8 in the data"


@pytest.mark.parametrize("text", ["[]", "{", '{"schema_version": 99}', '{"schema_version": 1, "recipe": 3}'])
def test_a_record_that_cannot_be_read_is_a_finding_and_the_data_is_audited(release, text):
    (release / "mining.json").write_text(text)
    report = audit(release)
    (finding,) = report.findings
    assert (finding.name, finding.severity, finding.where) == ("record-unreadable", "broken", "mining.json")
    assert finding.text.startswith("Expected ") and report.rows == {"n-tuple/train": 4, "scored/train": 4}


@pytest.mark.parametrize("name", ["README.md", "mining.json", "recipe.json"])
def test_a_token_beside_the_data_is_found_and_not_shown(release, name):
    token = "hf_" + "aB3dE6" * 5
    path = release / name
    content = path.read_text() if path.exists() else "{}"
    path.write_text(content.replace("{", f'{{"note": "{token}",', 1) if name != "README.md" else content + token)
    found = [finding for finding in audit(release).findings if finding.name == "token"]
    assert [(finding.severity, finding.where, finding.text) for finding in found] == [("broken", name, "hf_aB3...")]
    assert token not in json.dumps(audit(release).to_dict())
    path.write_text(content + "\n" * 2 if name == "README.md" else content)
    assert "token" not in [finding.name for finding in audit(release).findings]


def test_all_layouts_of_a_release_are_read(tmp_path):
    layouts = ["n-tuple", "triplet", "labeled-pair", "labeled-list", "scored", "normalized"]
    record, metadata = make_record(SOUND), CardMetadata(license="mit")
    release = tmp_path / "release"
    publish(SOUND, version="1.0.0", metadata=metadata, record=record, layouts=layouts, to_folder=release)
    report = audit(release)
    assert report.ok and report.findings == ()
    rows = {"n-tuple": 4, "triplet": 8, "labeled-pair": 12, "labeled-list": 4, "scored": 4}
    assert report.rows == {**{f"{name}/train": number for name, number in rows.items()}, "normalized/scores": 4}
    assert audit(release, config_name="normalized").rows == {"normalized/scores": 4}
    next((release / "normalized-documents").glob("*.parquet")).unlink()
    report = audit(release)
    assert {finding.name for finding in report.findings} == {"card-file-missing"}
    assert "normalized/scores" not in report.rows


def test_files_that_are_others_than_the_record_describes_are_found(tmp_path):
    release = tmp_path / "release"
    publish(SOUND, version="1.0.0", metadata=CardMetadata(license="mit"), record=make_record(SOUND), to_folder=release)
    file = release / "n-tuple" / "train-00000-of-00001.parquet"
    rows = Dataset.from_parquet(str(file))
    Dataset.from_dict({**rows.to_dict(), "negative_1": list("wxyz")}).to_parquet(str(file))  # sound rows by themselves
    (release / "assets" / "scores.png").unlink()  # which nothing needs
    (finding,) = audit(release).findings
    assert (finding.name, finding.severity, finding.count) == ("file-differs", "broken", 1)
    assert finding.text.startswith("n-tuple/train-00000-of-00001.parquet: sha256 ")
    (release / "mining.json").write_text(make_record(SOUND).with_release(files={"README.md": 3}).to_json())
    assert audit(release).ok, "it describes no file"


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("configs: [", "Expected YAML at the top of README"),
        ("configs: 3", "Could not read"),
        ("configs:\n- config_name: x\n  data_files:\n  - split: train\n    path: 5", "Could not read"),
        ("dataset_info:\n  splits: 3", "Could not read"),
        (
            "configs:\n- config_name: one\n  data_files: rows.jsonl\n- config_name: two\n  data_files: rows.jsonl",
            r"available configs: \['one', 'two'\]",
        ),
    ],
)
def test_a_card_that_cannot_be_read_is_one_line(tmp_path, yaml, message):
    Dataset.from_dict(FLAG_EMBEDDING).to_json(str(tmp_path / "rows.jsonl"))
    (tmp_path / "README.md").write_text(f"---\n{yaml}\n---\n# Rows\n")
    with pytest.raises(DataSourceError, match=message) as caught:
        audit(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda _: b"", lambda _: b"x" * 5000,
                                    lambda data: data[:-60] + b"x" * 52 + data[-8:]])  # fmt: skip
def test_a_damaged_file_is_one_line(release, damage):
    file = release / "scored" / "train-00000-of-00001.parquet"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataSourceError, match=r"Parquet file, .*scored/train-00000-of-00001\.parquet cannot") as caught:
        audit(release)
    assert "\n" not in str(caught.value)


def test_folders_of_others_and_files_need_no_card(tmp_path):
    rows = Dataset.from_dict(FLAG_EMBEDDING)
    rows.to_json(str(tmp_path / "rows.jsonl"))
    assert audit(tmp_path / "rows.jsonl").rows == {"train": 2}
    assert audit(tmp_path).rows == {"train": 2}
    rows.save_to_disk(str(tmp_path / "saved"))
    assert audit(tmp_path / "saved").rows == {"train": 2}


def call(*arguments):
    return CliRunner().invoke(audit_command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_command_prints_a_table_and_fails_when_something_is_broken(release, tmp_path):
    done = call(release)
    assert done.exit_code == 0
    assert done.stdout == "8 rows with 16 negatives were read: nothing is broken.\n"
    faulty = as_mined(change(MINED, {("negatives", 2, 0): "positive 2", ("negatives", 1): ["negative 1 a"]}))
    faulty.to_parquet(str(tmp_path / "rows.parquet"))
    done = call(tmp_path / "rows.parquet")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[:8] == [
        "4 rows with 7 negatives were read: 2 rules are broken.",
        "",
        "             rule                                    how many  first example",
        "broken       positive-among-negatives                       1  train row 2",
        "             a negative is a positive of its row",
        "             anchor 'question 2', negative 'positive 2'",
        "broken       uneven-lists                                   1  train row 1",
        "             the lists of negatives, ids and scores of a row have different lengths",
    ]
    assert call(tmp_path / "rows.parquet", "--json").exit_code == 1
    data = json.loads(call(tmp_path / "rows.parquet", "--json").stdout)
    assert data["ok"] is False
    assert [finding["name"] for finding in data["findings"]] == [
        "positive-among-negatives",
        "uneven-lists",
        "short-row",
    ]
    missing = call(tmp_path / "none.parquet")
    assert missing.exit_code == 1 and missing.stderr.startswith("Error: Expected") and missing.stderr.count("\n") == 1


def test_the_command_takes_names_of_columns(tmp_path):
    Dataset.from_dict({"a": ["q"], "b": ["p"], "x": ["n"], "y": ["P"]}).to_parquet(str(tmp_path / "rows.parquet"))
    names = ["--anchor-column", "a", "--positive-column", "b", "--negative-column", "x", "--negative-column", "y"]
    done = call(tmp_path / "rows.parquet", *names)
    assert done.exit_code == 1 and "positive-among-negatives-normalised" in done.stdout
