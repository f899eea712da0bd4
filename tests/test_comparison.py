"""Comparing two mined datasets, mining a release again, and reading releases from a Hub."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from datasets import Dataset, DatasetDict
from hub import clients
from hub_server import HubServer

from hn_datasets import HardNegativeMiner, PrecomputedTeacher, TopK, TopKPercPos, format_dataset
from hn_datasets.commands.compare import compare_command
from hn_datasets.commands.reproduce import reproduce_command
from hn_datasets.errors import ArgumentError, DataSourceError
from hn_datasets.inspection.audit import audit
from hn_datasets.inspection.comparison import compare
from hn_datasets.inspection.opening import parse_release
from hn_datasets.inspection.reproduction import reproduce
from hn_datasets.record import MiningRecord
from hn_datasets.sources import write_mined
from tests.teachers import HashTeacher
from tests.test_audit import write_release
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
    assert "42.86% of all negatives are in common, mean Jaccard index of a common pair 0.750." in comparison.to_table()
    assert json.loads(json.dumps(comparison.to_dict()))["share_in_common"] == comparison.share_in_common


def test_the_same_data_is_the_same_in_any_order_and_split():
    shuffled = Dataset.from_dict(OLD).select([2, 0, 3, 1])
    splits = DatasetDict({"train": shuffled.select([0, 1]), "test": shuffled.select([2, 3])})
    comparison = compare(Dataset.from_dict(OLD), splits)
    assert comparison.share_in_common == comparison.mean_jaccard == 1
    assert comparison.pairs_in_common == 4


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


@pytest.fixture
def teacher():
    return look_up(ROWS, EXTRA)[0]


def test_two_mined_folders_tell_what_changed(teacher, tmp_path):
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
    assert "  method.percentage: 0.95 -> 0.8" in table.splitlines()


@pytest.mark.parametrize("layout", ["n-tuple", "labeled-list", "triplet"])
def test_a_layout_has_the_negatives_of_the_rows_it_was_made_of(teacher, tmp_path, layout):
    mined, _ = mine(as_dataset(ROWS), teacher, tmp_path, num_negatives=1, method=TopK())
    assert compare(mined, format_dataset(mined, layout)).share_in_common == 1


def test_a_sample_is_mined_again_exactly_and_encodes_no_other_anchors(tmp_path):
    pairs = as_dataset([(f"question {n}", [f"passage {n}", f"passage {n // 2}"]) for n in range(60)])
    mine(pairs, HashTeacher(), tmp_path)
    log = tmp_path / "log"
    again = reproduce(
        tmp_path / "mined", rows=7, corpus=EXTRA, teacher=HashTeacher(log=log), store=tmp_path / "empty"
    )  # fmt: skip
    assert (again.rows, again.identical, again.compared_by, again.ok) == (7, 7, "ids", True)
    assert again.largest_score_difference == 0
    assert again.likely_reason is None and again.first_difference is None and again.differences == {}
    encoded = log.read_text().splitlines()
    assert sum(text.startswith("question") and text not in EXTRA for text in encoded) == 7
    assert sum(text.startswith("passage") and text not in EXTRA for text in encoded) == 60


def test_the_sample_follows_its_seed_and_is_at_most_all_rows(tmp_path):
    pairs = as_dataset([(f"question {n}", [f"passage {n}"]) for n in range(60)])
    mine(pairs, HashTeacher(), tmp_path)

    def sample(seed, size, store):
        """Return how many rows were sampled, and the anchors that were encoded, which the store did not have."""
        teacher = HashTeacher(log=tmp_path / store, name="other")
        found = reproduce(tmp_path / "mined", rows=size, seed=seed, teacher=teacher, store=tmp_path / f"in {store}")
        lines = (tmp_path / store).read_text().splitlines()
        return found.rows, {line for line in lines if line.startswith("question")}

    one = sample(3, 5, "one")
    assert one == sample(3, 5, "two")
    assert one[1] != sample(4, 5, "three")[1]
    assert sample(0, 1000, "four")[0] == 60


@pytest.mark.parametrize("choices", [{"sampling": "softmax", "seed": 3, "pool": 9}, {"method": TopK()}], ids=repr)
def test_all_choices_of_the_recipe_count(teacher, tmp_path, choices):
    mine(as_dataset(ROWS), teacher, tmp_path, **choices)
    assert reproduce(tmp_path / "mined", corpus=EXTRA, store=tmp_path / "store").identical == len(ROWS)


def test_positives_of_an_anchor_in_rows_outside_the_sample_stay_out(teacher, tmp_path):
    splits = DatasetDict({"train": as_dataset(ROWS[:80]), "test": as_dataset(ROWS[80:])})
    mine(splits, teacher, tmp_path, method=TopK(), num_negatives=20)
    for seed in range(3):
        assert reproduce(tmp_path / "mined", rows=10, seed=seed, corpus=EXTRA, store=tmp_path / "store").ok


def test_skipped_rows_are_not_sampled(teacher, tmp_path):
    broken = as_dataset([*ROWS[:5], ("", ["passage 1"])])
    mine(broken, teacher, tmp_path, on_empty="skip")
    again = reproduce(tmp_path / "mined", corpus=EXTRA, store=tmp_path / "store")
    assert (again.rows, again.ok) == (5, True)


def test_another_corpus_is_named_as_the_likely_reason(teacher, tmp_path):
    mine(as_dataset(ROWS), teacher, tmp_path, method=TopK())
    again = reproduce(tmp_path / "mined", store=tmp_path / "store")
    assert again.compared_by == "texts" and 0 <= again.identical < again.rows
    assert again.likely_reason.startswith("corpus.digest was ")
    assert again.likely_reason.endswith("; pass the corpus and the dataset that were mined.")
    assert again.first_difference in {anchor for anchor, _ in ROWS}
    assert again.differences["corpus.passages"][0] > again.differences["corpus.passages"][1]
    assert f"Likely reason: {again.likely_reason}" in again.to_table()


def test_another_teacher_is_a_likelier_reason_than_another_library(teacher, tmp_path):
    _, record = mine(as_dataset(ROWS), teacher, tmp_path)
    packages = {**record.environment["packages"], "torch": "0.0.1"}
    earlier = replace(record, environment={**record.environment, "packages": packages})
    (tmp_path / "mined" / "mining.json").write_text(earlier.to_json())
    same = reproduce(tmp_path / "mined", corpus=EXTRA, store=tmp_path / "store")
    assert same.ok and list(same.differences) == ["packages.torch"]
    reversed_ids = [text[::-1] for text in EXTRA]
    anchors, passages = sorted({a for a, _ in ROWS}), sorted({p for _, ps in ROWS for p in ps} | set(EXTRA))
    other = look_up([(anchor, passages) for anchor in anchors], reversed_ids)[0]
    again = reproduce(tmp_path / "mined", corpus=EXTRA, teacher=other, store=tmp_path / "other")
    assert not again.ok and again.compared_by == "ids"
    assert list(again.differences)[:1] == ["teacher.passages"]
    assert list(again.differences)[-1] == "packages.torch"
    assert again.likely_reason.startswith("teacher.passages was ")
    assert isinstance(other, PrecomputedTeacher)


def test_an_earlier_algorithm_is_the_reason_where_the_teacher_is_the_same(teacher, tmp_path):
    _, record = mine(as_dataset(ROWS), teacher, tmp_path, method=TopK())
    older = replace(record, recipe=replace(record.recipe, method=TopKPercPos(0.9), algorithm_version=0))
    (tmp_path / "mined" / "mining.json").write_text(older.to_json())
    again = reproduce(tmp_path / "mined", corpus=EXTRA, store=tmp_path / "store")
    assert again.likely_reason == "algorithm_version was 0 and is now 1."


def test_a_release_of_tuples_alone_is_compared_by_texts(teacher, tmp_path):
    mined, record = mine(as_dataset(ROWS), teacher, tmp_path, method=TopK())
    release = write_release(tmp_path / "release", mined, record, ["n-tuple"])
    assert audit(release).ok
    again = reproduce(release, dataset=as_dataset(ROWS), corpus=EXTRA, store=tmp_path / "store")
    assert (again.compared_by, again.ok, again.largest_score_difference) == ("texts", True, None)
    pairs = write_release(tmp_path / "pairs", mined, record, ["labeled-pair"])
    with pytest.raises(DataSourceError, match=r"layout scored or n-tuple .*, got labeled-pair"):
        reproduce(pairs)


def test_what_cannot_be_mined_again_is_refused_in_one_line(teacher, tmp_path):
    mine(as_dataset(ROWS), teacher, tmp_path)
    with pytest.raises(ArgumentError, match="rows of at least 1"):
        reproduce(tmp_path / "mined", rows=0)
    with pytest.raises(DataSourceError, match="without any anchor of the sample"):
        reproduce(tmp_path / "mined", dataset=as_dataset([("other", ["passage 1"])]), store=tmp_path / "store")
    (tmp_path / "mined" / "mining.json").unlink()
    with pytest.raises(DataSourceError, match=r"Expected mining\.json"):
        reproduce(tmp_path / "mined")


def test_the_command_prints_how_many_rows_came_out_again(teacher, tmp_path):
    mine(as_dataset(ROWS), teacher, tmp_path)
    Dataset.from_dict({"text": EXTRA}).to_json(str(tmp_path / "extra.jsonl"))
    as_dataset(ROWS).to_parquet(str(tmp_path / "pairs.parquet"))
    options = ["--corpus", tmp_path / "extra.jsonl", "--dataset", tmp_path / "pairs.parquet", "--store", tmp_path / "s"]
    call = [str(option) for option in (tmp_path / "mined", "--rows", 9, *options)]
    done = CliRunner().invoke(reproduce_command, call, catch_exceptions=False)
    assert done.stdout.splitlines()[0] == "9 of 9 rows have the same negatives again, compared by ids."
    done = CliRunner().invoke(reproduce_command, [*call, "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["ok"] is True


def use_releases(repo_id, good, bad, pairs):
    """Upload the pairs and two releases of one repository by hand, and read them as their users would."""
    from huggingface_hub import HfApi

    from hn_datasets import Recipe
    from hn_datasets.inspection.audit import audit
    from hn_datasets.inspection.comparison import compare
    from hn_datasets.inspection.reproduction import reproduce

    api, dataset = HfApi(), {"repo_id": repo_id, "repo_type": "dataset"}
    api.upload_folder(repo_id="owner/pairs", repo_type="dataset", folder_path=pairs)
    api.upload_folder(**dataset, folder_path=good)
    api.create_tag(**dataset, tag="v1.0.0")
    api.upload_folder(**dataset, folder_path=bad)
    first, last = audit(repo_id, revision="v1.0.0"), audit(repo_id)
    comparison = compare(f"{repo_id}@v1.0.0", f"{repo_id}@main")
    again = reproduce(f"{repo_id}@v1.0.0", rows=10)
    return {
        "first": first.to_dict(),
        "last": [[finding.name, finding.where, finding.text] for finding in last.findings],
        "share": comparison.share_in_common,
        "recipe": Recipe.from_release(repo_id, "v1.0.0").to_dict(),
        "again": again.to_dict(),
        "errors": [failure(audit, "owner/none"), failure(audit, repo_id, revision="v9")],  # noqa: F821
    }


@pytest.mark.filterwarnings("ignore::hn_datasets.errors.WeakTeacherWarning")
def test_releases_on_a_hub_are_audited_compared_and_mined_again(tmp_path):
    pairs = as_dataset([(f"what is w{n} w{n + 1}", [f"w{n} w{n + 1} w{n * 7 % 40} is {n}"]) for n in range(40)])
    with HubServer(tmp_path / "hub") as hub:
        hub.create_repository("owner/mined")
        hub.create_repository("owner/pairs")
        mined, record = mine(pairs, "bm25", tmp_path, None, method=TopK(), num_negatives=3)
        record = replace(record, source={"repo_id": "owner/pairs", "split": "train"})
        (tmp_path / "pairs").mkdir()
        pairs.to_parquet(str(tmp_path / "pairs" / "rows.parquet"))
        good = write_release(tmp_path / "good", mined, record)
        splits = ("num_examples: 40", "num_examples: 41")
        bad = write_release(tmp_path / "bad", mined, record, card=splits)
        folders = [str(folder) for folder in (good, bad, tmp_path / "pairs")]
        answers = clients.run(hub.environment(tmp_path / "home"), use_releases, "owner/mined", *folders)
        assert hub.log("GET", "datasets/owner/pairs/"), "the pairs come from the dataset that the record names"
    assert answers["first"]["ok"] and answers["first"]["rows"] == {"n-tuple/train": 40, "scored/train": 40}
    assert [name for name, _, _ in answers["last"]] == ["card-rows-differ"]
    assert answers["share"] == 1
    assert answers["recipe"] == record.recipe.to_dict()
    assert answers["again"]["ok"] and answers["again"]["rows"] == 10
    assert [error[:2] for error in answers["errors"]] == [
        ["RepositoryNotFoundError", 404],
        ["RevisionNotFoundError", 404],
    ]
