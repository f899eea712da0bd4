"""Comparing two mined datasets or releases."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from datasets import Dataset, DatasetDict

from hn_datasets import HardNegativeMiner, TopK, TopKPercPos, format_dataset
from hn_datasets.commands.compare import compare_command
from hn_datasets.errors import ArgumentError
from hn_datasets.inspection.comparison import compare
from hn_datasets.inspection.opening import parse_release
from hn_datasets.record import MiningRecord
from hn_datasets.sources import write_mined
from tests.test_miner import EXTRA, as_dataset, look_up

_RNG = np.random.default_rng(7)
ROWS = [
    (f"question {_RNG.integers(0, 90)}", [f"passage {n}" for n in _RNG.choice(60, _RNG.integers(1, 4), replace=False)])
    for _ in range(120)
]
"""Repeated anchors, lists of positives, positives shared by several anchors."""


@pytest.mark.parametrize(
    ("name", "expected"),
    [("me/repo@v1.0.0", ("me/repo", "v1.0.0")), ("me/repo", ("me/repo", None)), ("a@refs/pr/1", ("a", "refs/pr/1"))],
)
def test_a_release_is_named_with_its_revision(name, expected):
    assert parse_release(name) == expected


@pytest.mark.parametrize("name", ["", "@v1", "me/repo@"])
def test_half_a_name_is_refused(name):
    with pytest.raises(ArgumentError, match=r"REPO@REVISION"):
        parse_release(name)


OLD = {
    "query": ["a", "b", "c", "c"],
    "answer": ["p", "q", "r", "s"],
    "negatives": [["1", "2", "3"], ["1"], [], ["4"]],
}


def test_rows_and_negatives_in_common_are_counted_by_hand():
    new = {"query": ["b", "a", "d"], "answer": ["q", "p", "r"], "negatives": [["1"], ["3", "2", "5"], ["1"]]}
    comparison = compare(Dataset.from_dict(OLD), Dataset.from_dict(new))
    assert (comparison.old_pairs, comparison.new_pairs, comparison.pairs_in_common) == (4, 3, 2)
    counts = (comparison.old_negatives, comparison.new_negatives, comparison.negatives_in_common)
    assert counts == (5, 5, 3)
    assert comparison.mean_jaccard == pytest.approx((2 / 4 + 1) / 2)
    assert comparison.share_in_common == pytest.approx(3 / 7)
    assert comparison.changed_statistics is None and comparison.changed_recipe is None
    assert "42.86% of all negatives are in common, mean Jaccard index of a common pair 0.750." in str(comparison)
    assert json.loads(json.dumps(comparison.to_dict()))["share_in_common"] == comparison.share_in_common


def test_the_same_data_is_the_same_in_any_order_and_split():
    shuffled = Dataset.from_dict(OLD).select([2, 0, 3, 1])
    splits = DatasetDict({"train": shuffled.select([0, 1]), "test": shuffled.select([2, 3])})
    comparison = compare(Dataset.from_dict(OLD), splits)
    assert comparison.share_in_common == comparison.mean_jaccard == 1
    assert comparison.pairs_in_common == 4


def test_labeled_pairs_in_any_order_have_the_negatives_of_their_anchors():
    old = {"query": ["a", "b"], "answer": ["p", "q"], "negatives": [["1", "2"], ["3"]]}
    pairs = {"query": ["a", "b", "a", "b", "a"], "doc": ["1", "q", "p", "3", "2"], "label": [0, 1, 1, 0, 0]}
    comparison = compare(Dataset.from_dict(old), Dataset.from_dict(pairs))
    assert (comparison.pairs_in_common, comparison.share_in_common, comparison.mean_jaccard) == (2, 1, 1)


def test_nothing_in_common_has_no_mean():
    other = Dataset.from_dict({"query": ["x"], "answer": ["y"], "negatives": [["z"]]})
    comparison = compare(Dataset.from_dict(OLD), other)
    assert (comparison.share_in_common, comparison.mean_jaccard) == (0, None)


def mine(pairs, teacher, folder, extra=EXTRA, method=None, **choices):
    """Mine pairs and write them to a folder as ``hn-datasets mine`` does; return dataset and record."""
    store = folder / "store"
    miner = HardNegativeMiner.from_dataset(pairs, teacher=teacher, corpus=extra, method=method, store=store, **choices)
    mined = pairs.map(miner, batched=True)
    record = MiningRecord.of(mined, miner)
    write_mined(mined, record, folder / "mined", overwrite=True)
    return mined, record


def make_teacher():
    """Return a teacher with ready vectors for the texts of ``ROWS`` and ``EXTRA``."""
    return look_up(ROWS, EXTRA)[0]


def test_two_mined_folders_tell_what_changed(tmp_path):
    teacher = make_teacher()
    old, _ = mine(as_dataset(ROWS), teacher, tmp_path / "old")
    new, _ = mine(as_dataset(ROWS), teacher, tmp_path / "new", method=TopKPercPos(0.8))
    comparison = compare(tmp_path / "old" / "mined", tmp_path / "new" / "mined")
    assert comparison.changed_recipe == {"method.percentage": (0.95, 0.8)}
    sums = tuple(sum(map(len, side["negatives"])) for side in (old, new))
    assert comparison.changed_statistics["negatives"] == sums
    assert "rows" not in comparison.changed_statistics
    assert "positive_score.mean" not in comparison.changed_statistics
    naive = [{(q, p, n) for q, ps, ns in zip(*(side[c] for c in ("query", "answers", "negatives")), strict=True)
              for p in ps for n in ns} for side in (old, new)]  # fmt: skip
    assert comparison.negatives_in_common == len(naive[0] & naive[1])
    assert comparison.share_in_common == len(naive[0] & naive[1]) / len(naive[0] | naive[1])
    of_data = compare(old, new)
    assert replace(of_data, changed_recipe=comparison.changed_recipe) == comparison
    table = CliRunner().invoke(compare_command, [str(tmp_path / side / "mined") for side in ("old", "new")]).stdout
    assert "  method.percentage  0.95 -> 0.8" in table.splitlines()


@pytest.mark.parametrize("layout", ["n-tuple", "labeled-list", "triplet"])
def test_a_layout_has_the_negatives_of_the_rows_it_was_made_of(tmp_path, layout):
    mined, _ = mine(as_dataset(ROWS), make_teacher(), tmp_path, num_negatives=1, method=TopK())
    assert compare(mined, format_dataset(mined, layout)).share_in_common == 1


def test_a_dataset_has_the_text_columns_of_the_release_that_it_is_compared_with(tmp_path):
    rows = as_dataset(ROWS)
    named = Dataset.from_dict({"id": [str(n) for n in range(len(rows))], "title": ["t"] * len(rows), **rows.to_dict()})
    named = named.rename_columns({"query": "instruction", "answers": "output"})
    names = {"anchor_column_name": "instruction", "positive_column_name": "output"}
    mined, record = mine(named, make_teacher(), tmp_path, **names)
    folder = tmp_path / "mined"
    for sides in ((folder, mined), (mined, folder)):
        assert compare(*sides).share_in_common == 1
    renamed = mined.rename_columns({"instruction": "ask", "output": "tell"})
    recipe = replace(record.recipe, anchor_column_name="ask", positive_column_name="tell")
    assert compare(folder, renamed, recipe=recipe).share_in_common == 1
