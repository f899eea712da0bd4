"""Mining a sample of a release again, and reading releases from a Hub."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from datasets import Dataset, DatasetDict, load_dataset
from hub import clients
from hub_server import HubServer

from hn_datasets import (
    CardMetadata,
    DenseTeacher,
    HeldOut,
    NearDuplicate,
    SameGroup,
    TopK,
    TopKPercPos,
    publish,
    recipe,
)
from hn_datasets.commands.reproduce import reproduce_command
from hn_datasets.errors import ArgumentError, DataSourceError, ShortRowsWarning, TeacherError
from hn_datasets.inspection.audit import audit
from hn_datasets.inspection.reproduction import reproduce
from hn_datasets.record import SCHEMA_VERSION, MiningRecord
from hn_datasets.sources import write_mined
from tests.static_model import save_static_model
from tests.teachers import HashTeacher
from tests.test_audit import write_release
from tests.test_comparison import ROWS, make_teacher, mine
from tests.test_miner import EXTRA, as_dataset, look_up


@pytest.fixture
def teacher():
    return make_teacher()


def test_a_sample_is_mined_again_exactly_and_encodes_no_other_anchors(tmp_path):
    pairs = as_dataset([(f"question {n}", [f"passage {n}", f"passage {n // 2}"]) for n in range(60)])
    mine(pairs, HashTeacher(), tmp_path)
    log = tmp_path / "log"
    again = reproduce(
        tmp_path / "mined", rows=7, corpus=EXTRA, teacher=HashTeacher(log=log), store=tmp_path / "empty"
    )  # fmt: skip
    assert (again.rows, again.identical, again.ok) == (7, 7, True)
    assert again.negatives == again.negatives_again > 7
    assert again.largest_score_difference == 0
    assert again.likely_reason is None and again.first_difference is None and again.differences == {}
    encoded = log.read_text().splitlines()
    assert sum(text.startswith("question") and text not in EXTRA for text in encoded) == 7
    assert sum(text.startswith("passage") and text not in EXTRA for text in encoded) == 60


def test_the_sample_follows_its_seed_and_is_at_most_all_rows(tmp_path):
    pairs = as_dataset([(f"question {n}", [f"passage {n}"]) for n in range(60)])
    mine(pairs, HashTeacher(), tmp_path, None)

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


def test_guards_of_the_recipe_count(teacher, tmp_path):
    titles = [f"title {number % 11}" for number in range(len(ROWS))]
    pairs = as_dataset(ROWS).add_column("title", titles)
    further = Dataset.from_dict({"text": EXTRA, "title": [f"title {number % 5}" for number in range(len(EXTRA))]})
    guards = (SameGroup("title"), NearDuplicate(0.3), HeldOut(EXTRA[::3]))
    mined, record = mine(pairs, teacher, tmp_path, further, corpus_column_name="text", method=TopK(), guards=guards)
    assert (np.array(mined["guard_removals"]).sum(axis=0) > 20).all()
    again = reproduce(
        tmp_path / "mined", corpus=further, corpus_column_name="text", rows=30, store=tmp_path / "store"
    )  # fmt: skip
    assert again.identical == again.rows == 30
    write_mined(mined.remove_columns("title"), record, tmp_path / "mined", overwrite=True)
    with pytest.raises(DataSourceError, match="the release has no column title; pass the pairs"):
        reproduce(tmp_path / "mined", corpus=further, corpus_column_name="text", store=tmp_path / "store")
    again = reproduce(
        tmp_path / "mined", dataset=pairs, corpus=further, corpus_column_name="text", store=tmp_path / "store"
    )  # fmt: skip
    assert again.identical >= again.rows - 5, "some pairs stand in several rows, and the first gives the group"


def test_positives_of_an_anchor_in_rows_outside_the_sample_stay_out(teacher, tmp_path):
    splits = DatasetDict({"train": as_dataset(ROWS[:80]), "test": as_dataset(ROWS[80:])})
    mine(splits, teacher, tmp_path, method=TopK(), num_negatives=20)
    for seed in range(3):
        assert reproduce(tmp_path / "mined", rows=10, seed=seed, corpus=EXTRA, store=tmp_path / "store").ok


def test_rows_that_were_all_skipped_cannot_be_mined_again(teacher, tmp_path):
    mined, record = mine(as_dataset([*ROWS[:1], ("", ["passage 1"])]), teacher, tmp_path, on_empty="skip")
    write_mined(mined.select([1]), record, tmp_path / "mined", overwrite=True)
    with pytest.raises(DataSourceError, match="all were skipped as empty"):
        reproduce(tmp_path / "mined", store=tmp_path / "store")


def test_skipped_rows_are_not_sampled(teacher, tmp_path):
    broken = as_dataset([*ROWS[:5], ("", ["passage 1"])])
    mine(broken, teacher, tmp_path, on_empty="skip")
    again = reproduce(tmp_path / "mined", corpus=EXTRA, store=tmp_path / "store")
    assert (again.rows, again.ok) == (5, True)


def test_another_corpus_is_named_as_the_likely_reason_where_the_dataset_is_given(teacher, tmp_path):
    mine(as_dataset(ROWS), teacher, tmp_path, method=TopK())
    again = reproduce(tmp_path / "mined", dataset=as_dataset(ROWS), store=tmp_path / "store")
    assert 0 <= again.identical < again.rows
    assert again.likely_reason.startswith("the corpus is another one: corpus.digest was ")
    assert again.first_difference in {anchor for anchor, _ in ROWS}
    assert again.differences["corpus.passages"][0] > again.differences["corpus.passages"][1]
    assert f"Likely reason: {again.likely_reason}" in str(again)
    assert again.negatives_again < again.negatives


def test_what_was_mined_is_asked_for_before_anything_is_encoded(tmp_path):
    _, record = mine(as_dataset(ROWS), HashTeacher(), tmp_path)
    record = replace(record, source={"path": "pairs.jsonl"})
    (tmp_path / "mined" / "mining.json").write_text(record.to_json())
    teacher = HashTeacher(log=tmp_path / "log")
    with pytest.raises(DataSourceError) as caught:
        reproduce(tmp_path / "mined", teacher=teacher, store=tmp_path / "empty")
    total, own = record.corpus["passages"], len({text for _, positives in ROWS for text in positives})
    assert str(caught.value) == (
        f"Expected the {total} passages that were mined, but the release gives {own} that are not the same; pass the "
        "pairs that were mined (pairs.jsonl) by dataset (--dataset), and what further passages there were by corpus "
        "(--corpus)."
    )
    with pytest.raises(DataSourceError, match="the release gives "):
        reproduce(tmp_path / "mined", teacher=teacher, corpus=EXTRA[1:], store=tmp_path / "empty")
    assert not (tmp_path / "log").exists()


def test_a_dataset_of_the_hub_that_cannot_be_loaded_is_named(teacher, tmp_path):
    mined, record = mine(as_dataset(ROWS), teacher, tmp_path, method=TopK())
    record = replace(record, source={"repo_id": "owner/gone", "split": "train"})
    release = write_release(tmp_path / "release", mined.select(range(20)), record, ["n-tuple"])
    with pytest.raises(
        DataSourceError, match=r"owner/gone cannot be loaded \(.* and the release gives .*\(owner/gone\)"
    ):
        reproduce(release, store=tmp_path / "store")


def test_a_published_release_without_short_rows_needs_the_dataset(teacher, tmp_path):
    pairs = as_dataset(ROWS)
    with pytest.warns(ShortRowsWarning):
        mined, record = mine(pairs, teacher, tmp_path, None, method=TopKPercPos(0.5))
        publish(
            mined, version="1.0.0", metadata=CardMetadata(license="mit"), record=record, to_folder=tmp_path / "release"
        )
    assert sum(len(negatives) < 4 for negatives in mined["negatives"]) > 50
    with pytest.raises(DataSourceError, match="pass the pairs that were mined by dataset"):
        reproduce(tmp_path / "release", store=tmp_path / "store")
    again = reproduce(tmp_path / "release", dataset=pairs, rows=50, store=tmp_path / "store")
    assert (again.ok, again.largest_score_difference) == (True, None)


def save_and_mine(tmp_path, **options):
    """Mine with a model in a folder, and return the folder."""
    folder = save_static_model(tmp_path / "model")
    words = ["hard", "negative", "query", "passage", "right", "wrong"]
    pairs = as_dataset([(f"{a} {b} of", [f"{b} {a} text"]) for a in words for b in words if a != b])
    mine(pairs, DenseTeacher(folder, **options), tmp_path, None, method=TopK())
    return folder


def test_other_weights_are_the_likely_reason(tmp_path):
    save_static_model(save_and_mine(tmp_path), seed=1)
    again = reproduce(tmp_path / "mined", store=tmp_path / "store")
    assert not again.ok and list(again.differences) == ["teacher.weights"]
    assert again.likely_reason.startswith("the teacher has other weights: teacher.weights was ")
    other = save_static_model(tmp_path / "other", seed=2)
    again = reproduce(tmp_path / "mined", teacher=str(other), store=tmp_path / "store")
    assert list(again.differences) == ["teacher.weights", "teacher.model"]


def test_another_precision_is_a_likelier_reason_than_a_prompt(tmp_path):
    folder = save_and_mine(tmp_path, precision="float32")
    other = DenseTeacher(folder, precision="bfloat16", query_prompt="a ")
    again = reproduce(tmp_path / "mined", teacher=other, store=tmp_path / "store")
    assert list(again.differences) == ["teacher.precision", "teacher.query_prompt"]
    assert again.likely_reason.startswith("the teacher computes in another precision: teacher.precision was float32")


def test_a_model_that_lies_elsewhere_now_keeps_the_settings_of_the_recipe(tmp_path):
    folder = save_and_mine(tmp_path, query_prompt="right ", truncate_dim=8)
    folder.rename(tmp_path / "moved")
    with pytest.raises(TeacherError, match=r"folder of the teacher, '.*model', got none here; pass .*--teacher FOLDER"):
        reproduce(tmp_path / "mined", store=tmp_path / "store")
    again = reproduce(tmp_path / "mined", teacher=str(tmp_path / "moved"), store=tmp_path / "store")
    assert again.ok and again.differences == {}


def test_a_release_asks_for_the_folder_that_its_teacher_was(tmp_path, monkeypatch):
    folder = save_and_mine(tmp_path)
    record = MiningRecord.read(tmp_path / "mined")
    mined = load_dataset(str(tmp_path / "mined"))
    card = CardMetadata(license="mit")
    publish(mined, version="1.0.0", metadata=card, record=record, layouts=("scored",), to_folder=tmp_path / "release")
    monkeypatch.chdir(tmp_path / "mined")  # where nothing has the folder's name
    with pytest.raises(TeacherError, match=r"folder of the teacher, 'model', got none here; pass .*--teacher FOLDER"):
        reproduce(tmp_path / "release", store=tmp_path / "store")
    assert reproduce(tmp_path / "release", teacher=folder, store=tmp_path / "store").ok


def test_code_that_comes_with_a_model_runs_only_where_it_is_allowed(tmp_path):
    save_and_mine(tmp_path, trust_remote_code=True)
    with pytest.raises(ArgumentError, match=r"runs code that comes with it; .* \(--trust-remote-code\)"):
        reproduce(tmp_path / "mined", store=tmp_path / "store")
    assert reproduce(tmp_path / "mined", trust_remote_code=True, store=tmp_path / "store").ok


def test_another_library_is_the_reason_where_nothing_else_differs(teacher, tmp_path):
    mined, record = mine(as_dataset(ROWS), teacher, tmp_path, method=TopK())
    swapped = mined.map(lambda row: {"negatives": row["negatives"][::-1]})
    packages = {**record.environment["packages"], "torch": "0.0.1", "datasets": "0.0.1"}
    record = replace(record, environment={**record.environment, "packages": packages})
    write_mined(swapped, record, tmp_path / "mined", overwrite=True)
    again = reproduce(tmp_path / "mined", corpus=EXTRA, store=tmp_path / "store")
    assert again.identical == 0 and again.negatives_again == again.negatives
    assert list(again.differences) == ["packages.torch", "packages.datasets"]
    assert again.likely_reason.startswith("another version of a library rounds otherwise: packages.torch was 0.0.1")
    (tmp_path / "mined" / "mining.json").write_text(replace(record, environment={}).to_json())
    unknown = reproduce(tmp_path / "mined", corpus=EXTRA, store=tmp_path / "store")
    assert unknown.likely_reason.startswith("no recorded field differs")


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
    assert not again.ok
    assert list(again.differences)[:1] == ["teacher.passages"]
    assert list(again.differences)[-1] == "packages.torch"
    assert again.likely_reason.startswith("the teacher is set up otherwise: teacher.passages was ")


def test_an_earlier_algorithm_is_the_reason_where_the_teacher_is_the_same(teacher, tmp_path):
    _, record = mine(as_dataset(ROWS), teacher, tmp_path, method=TopK())
    older = replace(record, recipe=replace(record.recipe, method=TopKPercPos(0.9), algorithm_version=0))
    (tmp_path / "mined" / "mining.json").write_text(older.to_json())
    again = reproduce(tmp_path / "mined", corpus=EXTRA, store=tmp_path / "store")
    assert again.likely_reason == "this version of hn_datasets mines otherwise: algorithm_version was 0 and is now 1."


def test_a_release_of_tuples_alone_is_compared_by_texts(teacher, tmp_path):
    mined, record = mine(as_dataset(ROWS), teacher, tmp_path, method=TopK())
    release = write_release(tmp_path / "release", mined, record, ["n-tuple"])
    assert audit(release).ok
    again = reproduce(release, dataset=as_dataset(ROWS), corpus=EXTRA, store=tmp_path / "store")
    assert (again.ok, again.largest_score_difference) == (True, None)
    lists = ("negatives", "negative_ids", "negative_scores")
    two = mined.map(lambda row: {name: row[name][:2] for name in lists})
    fewer = write_release(tmp_path / "fewer", two, record, ["n-tuple"])
    assert reproduce(fewer, dataset=as_dataset(ROWS), corpus=EXTRA, store=tmp_path / "store").ok
    pairs = write_release(tmp_path / "pairs", mined, record, ["labeled-pair"])
    with pytest.raises(DataSourceError, match=r"layout scored or n-tuple .*, got labeled-pair"):
        reproduce(pairs)


def test_what_cannot_be_mined_again_is_refused_in_one_line(teacher, tmp_path):
    mine(as_dataset(ROWS), teacher, tmp_path)
    with pytest.raises(ArgumentError, match="rows of at least 1"):
        reproduce(tmp_path / "mined", rows=0)
    with pytest.raises(ArgumentError, match="Expected a seed of at least 0, got -1"):
        reproduce(tmp_path / "mined", seed=-1)
    with pytest.raises(DataSourceError, match="without any anchor of the sample"):
        reproduce(tmp_path / "mined", dataset=as_dataset([("other", ["passage 1"])]), store=tmp_path / "store")
    with pytest.raises(ArgumentError, match="corpus_column_name has no effect without a corpus"):
        reproduce(tmp_path / "mined", corpus_column_name="text", store=tmp_path / "store")
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
    assert done.stdout.startswith("9 of 9 rows have the same negatives again; ")
    done = CliRunner().invoke(reproduce_command, [*call, "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["ok"] is True
    assert CliRunner().invoke(reproduce_command, [*call, "--rows", "0"]).exit_code == 2


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
    api.create_branch(**dataset, branch="later")
    later = b'{"schema_version": 99, "recipe": {}}'
    api.upload_file(**dataset, revision="later", path_or_fileobj=later, path_in_repo="mining.json")
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
        "no recipe": [
            failure(Recipe.from_release, *release)  # noqa: F821
            for release in [
                ("owner/none", "v1.0.0"),
                ("no id at all", "v1.0.0"),
                (repo_id, "v9.0.0"),
                ("owner/pairs", "main"),
                (repo_id, "later"),
            ]
        ],
        "later": [finding.name for finding in audit(repo_id, revision="later").broken],
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
        good = write_release(tmp_path / "good", mined, record, ["n-tuple"])
        splits = ("num_examples: 40", "num_examples: 41")
        bad = write_release(tmp_path / "bad", mined, record, card=splits)
        folders = [str(folder) for folder in (good, bad, tmp_path / "pairs")]
        answers = clients.run(hub.environment(tmp_path / "home"), use_releases, "owner/mined", *folders)
        assert hub.log("GET", "datasets/owner/pairs/"), "the pairs come from the dataset that the record names"
    assert answers["first"]["ok"] and answers["first"]["rows"] == {"n-tuple/train": 40}
    assert [name for name, _, _ in answers["last"]] == ["card-rows-differ"]
    assert answers["share"] == 1
    assert answers["recipe"] == record.recipe.to_dict()
    assert answers["again"]["ok"] and answers["again"]["rows"] == 10
    assert [error[:2] for error in answers["errors"]] == [
        ["RepositoryNotFoundError", 404],
        ["RevisionNotFoundError", 404],
    ]
    assert answers["later"] == ["record-unreadable", "card-rows-differ"]
    texts = [text for *_, text in answers["no recipe"]]
    assert {name for name, *_ in answers["no recipe"]} == {"DataSourceError"} and not any("\n" in t for t in texts)
    assert texts == [
        "Expected a dataset on the Hub, got 'owner/none': there is none, or the token may not read it.",
        "Expected a dataset on the Hub, got 'no id at all': there is none, or the token may not read it.",
        "Expected a release such as 'v1.0.0', got 'v9.0.0': 'owner/mined' has no such tag, branch or commit.",
        "Expected mining.json in 'owner/pairs' at 'main', got none; name a release.",
        "Expected mining.json of schema version 1 in 'owner/mined' at 'later', got 99; upgrade hn_datasets.",
    ]


def test_a_recipe_is_read_from_the_schema_that_records_are_written_in():
    assert recipe._RECORD_SCHEMA == SCHEMA_VERSION
