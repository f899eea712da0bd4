"""Releases in a folder: what they hold, that they are checked before and after they are written, and bad input."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import yaml
from datasets import Dataset, DatasetDict, IterableDatasetDict, get_dataset_config_names, load_dataset
from jsonschema import Draft202012Validator

from hn_datasets import (
    BM25Teacher,
    CardMetadata,
    HardNegativeMiner,
    TopK,
    TopKAbs,
    TopKPercPos,
    audit,
    format_dataset,
    publish,
)
from hn_datasets.errors import ArgumentError, ColumnError, ReleaseError, ShortRowsWarning
from hn_datasets.record import MiningRecord
from hn_datasets.sources import load_source, write_mined
from tests.mined import PAIRS, mine

pytestmark = pytest.mark.filterwarnings("ignore::hn_datasets.errors.WeakTeacherWarning")
LICENSE = CardMetadata(license="cc-by-4.0")
SCHEMA = json.loads((Path(__file__).parent.parent / "cards" / "mining.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return mine(tmp_path_factory.mktemp("store"))


def release(made, folder, **options):
    mined, record = made
    return publish(mined, record=record, **{"version": "1.0.0", "metadata": LICENSE, "to_folder": folder, **options})


def test_a_release_in_a_folder_loads_as_what_trains(made, tmp_path):
    done = release(made, tmp_path / "out", notes="First release")
    loaded = load_dataset(str(tmp_path / "out"), split="train")
    assert loaded.to_dict() == format_dataset(made[0], "n-tuple").to_dict()
    assert loaded.column_names == ["query", "answer", "negative_1", "negative_2", "negative_3"]
    assert audit(tmp_path / "out").findings == ()
    assert (done.version, done.tag, done.folder, done.commit) == ("1.0.0", "v1.0.0", tmp_path / "out", None)
    files = {path.relative_to(done.folder).as_posix(): path.stat().st_size for path in done.folder.rglob("*.*")}
    assert done.files == files
    assert {"README.md", "mining.json", "n-tuple/train-00000-of-00001.parquet", "assets/scores.png"} <= files.keys()


def test_every_layout_becomes_a_configuration_and_the_first_is_the_default(made, tmp_path):
    layouts = ("labeled-pair", "n-tuple", "triplet", "labeled-list", "scored", "normalized")
    release(made, tmp_path / "out", layouts=layouts)
    tables = ["normalized-scores", "normalized-queries", "normalized-documents"]
    assert sorted(get_dataset_config_names(str(tmp_path / "out"))) == sorted([*layouts[:-1], *tables])
    for name in layouts[:-1]:
        loaded = load_dataset(str(tmp_path / "out"), name, split="train")
        assert loaded.to_dict() == format_dataset(made[0], name).to_dict(), name
    normalized = format_dataset(made[0], "normalized")
    for name in tables:
        loaded = load_dataset(str(tmp_path / "out"), name, split="train")
        assert loaded.to_dict() == normalized[name.split("-")[1]].to_dict(), name
    assert "label" in load_dataset(str(tmp_path / "out"), split="train").column_names
    assert audit(tmp_path / "out").ok


@pytest.mark.filterwarnings("ignore::hn_datasets.errors.ShortRowsWarning")
def test_a_release_of_data_with_skipped_rows_is_sound(tmp_path):
    rows = Dataset.from_list([{"query": None, "answer": "Left out."}, {"query": "Unanswered?", "answer": ""}, *PAIRS])
    miner = HardNegativeMiner.from_dataset(
        rows, teacher=BM25Teacher(), method=TopK(), num_negatives=3, on_empty="skip", store=tmp_path / "store"
    )
    mined = rows.map(miner, batched=True)
    layouts = ("n-tuple", "scored", "normalized")
    publish(mined, miner=miner, version="1.0.0", metadata=LICENSE, to_folder=tmp_path / "out", layouts=layouts)
    report = audit(tmp_path / "out")
    assert report.broken == ()
    assert (report.rows["scored/train"], report.rows["normalized/scores"]) == (len(PAIRS) + 2, len(PAIRS))


def test_another_release_at_the_same_place_is_loaded_and_not_the_old_one_from_a_cache(made, tmp_path):
    """Same folder name, version, rows and sizes; only the texts differ."""
    other = mine(tmp_path / "store", pairs=[{**row, "query": row["query"].upper()} for row in PAIRS])
    for number, one in enumerate((made, other)):
        release(one, tmp_path / str(number) / "out")
        loaded = load_dataset(str(tmp_path / str(number) / "out"), split="train")
        assert loaded["query"][:] == one[0]["query"][:]
    release(other, tmp_path / "0" / "out", overwrite=True)
    assert load_dataset(str(tmp_path / "0" / "out"), split="train")["query"][:] == other[0]["query"][:]


@pytest.mark.parametrize("kind", ["numpy", "torch", "pandas", "arrow"])
def test_the_format_of_a_dataset_changes_nothing(made, tmp_path, kind):
    layouts = ("n-tuple", "scored", "labeled-list", "normalized")
    for number, mined in enumerate((made[0], made[0].with_format(kind))):
        release((mined, made[1]), tmp_path / str(number), layouts=layouts)
    one, other = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.name != "mining.json"}
        for folder in (tmp_path / "0", tmp_path / "1")
    )
    assert one == other


def test_splits_stay_apart_and_shards_stay_small(tmp_path):
    rows = Dataset.from_list(PAIRS)
    splits = DatasetDict(train=rows.select(range(24)), test=rows.select(range(24, 32)))
    miner = HardNegativeMiner.from_dataset(
        splits, teacher=BM25Teacher(), method=TopK(), num_negatives=2, store=tmp_path / "store"
    )
    mined = splits.map(miner, batched=True)
    publish(mined, miner=miner, version="0.1.0", metadata=LICENSE, to_folder=tmp_path / "out", shard_bytes=2000)
    assert len(list((tmp_path / "out" / "n-tuple").glob("train-*.parquet"))) > 1
    loaded = load_dataset(str(tmp_path / "out"))
    assert loaded["train"].to_dict() == format_dataset(mined, "n-tuple")["train"].to_dict()
    assert loaded["test"].num_rows == 8


def test_splits_that_would_be_one_file_are_refused(tmp_path):
    made = mine(tmp_path / "store")
    splits = DatasetDict({"a.b": made[0].select(range(24)), "a_b": made[0].select(range(24, 32))})
    record = replace(made[1], rows={"a.b": 24, "a_b": 8})
    for write in (write_mined, lambda splits, record, folder: release((splits, record), folder)):
        with pytest.raises(ArgumentError, match=r"got 'a\.b' and 'a_b', which are both 'a_b'"):
            write(splits, record, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_split_without_rows_is_refused_for_nobody_could_load_it(tmp_path, made):
    splits = DatasetDict(train=made[0], test=made[0].select([]))
    record = replace(made[1], rows={"train": 32, "test": 0})
    with pytest.raises(ReleaseError, match="every split of the layout 'n-tuple', got none in 'test'"):
        release((splits, record), tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_the_record_says_what_was_published(made, tmp_path):
    release(made, tmp_path / "out", repo_id="me/qa", notes="  First ", parent="me/other@v1.0.0", version="2.1.0")
    record = MiningRecord.read(tmp_path / "out")
    assert record.recipe == made[1].recipe
    told = {name: record.release[name] for name in ("repo_id", "version", "parent", "notes", "layouts")}
    assert told == {
        "repo_id": "me/qa", "version": "2.1.0", "parent": "me/other@v1.0.0", "notes": "First", "layouts": ["n-tuple"],
    }  # fmt: skip
    assert all((tmp_path / "out" / name).is_file() for name in record.release["files"])
    (version,) = record.release["versions"]
    assert (version["version"], version["rows"], version["common_share"]) == ("2.1.0", 32, None)
    assert version["mean_margin"] == pytest.approx(record.statistics.difference.mean)
    Draft202012Validator(SCHEMA).validate(json.loads((tmp_path / "out" / "mining.json").read_text(encoding="utf-8")))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    data = yaml.safe_load(card.split("---")[1])
    assert data["license"] == "cc-by-4.0"
    assert data["dataset_info"]["splits"][0]["num_examples"] == 32
    assert "me/other@v1.0.0" in card


@pytest.mark.parametrize("parent", ["1.0.0", "v1.0.0", "other@1.0.0"])
def test_what_a_release_follows_is_a_version_with_or_without_v(made, tmp_path, parent):
    release(made, tmp_path / "out", repo_id="me/qa", parent=parent)
    assert "@v1.0.0](https://huggingface.co" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_no_path_of_this_machine_is_published(made, tmp_path):
    mined, record = made
    for spec in (
        {"type": "dense", "model": str(tmp_path / "student"), "revision": None, "weights": "0", "precision": "float32",
         "dimension": 8, "similarity": "cosine", "trust_remote_code": False},
        {**record.recipe.teacher, "tokenizer": {"name": "huggingface", "path": str(tmp_path / "student")}},
    ):  # fmt: skip
        local = replace(record, recipe=replace(record.recipe, teacher=spec))
        release((mined, local), tmp_path / "out", overwrite=True)
        for name in ("README.md", "mining.json"):
            text = (tmp_path / "out" / name).read_text(encoding="utf-8")
            assert str(tmp_path) not in text and "student" in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"version": "1"}, ArgumentError, "a version such as"),
        ({"metadata": "cc-by-4.0"}, ArgumentError, "CardMetadata"),
        ({"metadata": CardMetadata(license="")}, ArgumentError, "licence"),
        ({"metadata": CardMetadata(license="other")}, ArgumentError, "license_name"),
        ({"repo_id": "a/b/c"}, ArgumentError, "Expected a repository such as"),
        ({"repo_id": "me/with space"}, ArgumentError, "Expected a repository such as"),
        ({"layouts": ()}, ArgumentError, "different names among"),
        ({"layouts": "n-tuple"}, ArgumentError, "different names among"),
        ({"layouts": ("n-tuple", "n-tuple")}, ArgumentError, "different names among"),
        ({"layouts": ("pairs",)}, ArgumentError, "different names among"),
        ({"notes": "a\nb"}, ArgumentError, "notes on one line"),
        ({"parent": "me/other"}, ArgumentError, "parent as a version such as 'v1.0.0', or.*, got 'me/other'; correct"),
        ({"parent": "main"}, ArgumentError, "parent as a version"),
        ({"parent": "me/other@main"}, ArgumentError, "parent as a version"),
        ({"parent": "@v1.0.0"}, ArgumentError, "parent as a version"),
        ({"parent": "https://huggingface.co/datasets/me/other@v1.0.0"}, ArgumentError, "parent as a version"),
        ({"parent": ""}, ArgumentError, "parent as a version"),
        ({"shard_bytes": 0}, ArgumentError, "shard_bytes as a whole number of at least 1, got 0; 500 MB are"),
        ({"shard_bytes": -5}, ArgumentError, "shard_bytes as a whole number of at least 1, got -5"),
        ({"shard_bytes": "500MB"}, ArgumentError, "shard_bytes as a whole number of at least 1, got '500MB'"),
        ({"dry_run": True}, ArgumentError, "dry_run has no effect with to_folder"),
        ({"private": False}, ArgumentError, "private has no effect with to_folder"),
        ({"token": "hf_x", "create_pr": True}, ArgumentError, "token, create_pr has no effect"),
        ({"to_folder": None}, ArgumentError, "repo_id.*or to_folder, got neither"),
        ({"to_folder": None, "repo_id": "me/qa", "overwrite": True}, ArgumentError, "overwrite has no effect"),
        ({"record": None}, ArgumentError, "got neither"),
        ({"record": None, "miner": "bm25"}, ArgumentError, "HardNegativeMiner as miner, got str"),
        ({"template": "no/such/template.j2"}, ArgumentError, "template"),
        ({"mined": [1]}, ArgumentError, "Dataset or DatasetDict, got list"),
        ({"mined": Dataset.from_list(PAIRS)}, ColumnError, "no column negatives"),
    ],
)
def test_bad_input_is_an_error_before_anything_is_staged(made, tmp_path, options, error, message):
    mined, record = options.pop("mined", made[0]), options.pop("record", made[1])
    options = {"version": "1.0.0", "metadata": LICENSE, "to_folder": tmp_path / "out", **options}
    with pytest.raises(error, match=message) as raised:
        publish(mined, record=record, **options)
    assert "\n" not in str(raised.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("of_miner", [True, False])
def test_a_stream_is_no_dataset_to_publish(made, tmp_path, store, of_miner):
    given = {"miner": build(Dataset.from_list(PAIRS), store)} if of_miner else {"record": made[1]}
    for stream in (made[0].to_iterable_dataset(), IterableDatasetDict(train=made[0].to_iterable_dataset()), None):
        with pytest.raises(ArgumentError, match=r"Expected a Dataset or DatasetDict, got (Iterable|None).*; write its"):
            publish(stream, version="1.0.0", metadata=LICENSE, to_folder=tmp_path / "out", **given)
    assert not any(tmp_path.iterdir())


def test_no_rows_are_no_release(made, tmp_path):
    with pytest.raises(ArgumentError, match="got 0 rows"):
        release((made[0].select([]), made[1]), tmp_path / "out")


def test_statistics_of_other_data_are_refused(made, tmp_path):
    with pytest.raises(ReleaseError, match="sound and agrees with its record"):
        release((made[0].select(range(31)), made[1]), tmp_path / "out")
    other = replace(made[1], statistics=replace(made[1].statistics, short_rows=1))
    with pytest.raises(ReleaseError, match="statistics of the data are others"):
        release((made[0], other), tmp_path / "out")


def build(rows, store, **choices):
    choices = {"teacher": BM25Teacher(), "method": TopKPercPos(0.9), "num_negatives": 2, **choices}
    return HardNegativeMiner.from_dataset(rows, store=store, **choices)


def test_the_miner_of_the_data_is_the_one_that_may_be_passed(tmp_path, store):
    rows = DatasetDict(train=Dataset.from_list(PAIRS[:24]), test=Dataset.from_list(PAIRS[24:]))
    mined = rows.map(build(rows, store), batched=True)
    chosen = mined.shuffle(seed=3).filter(lambda row: "card" not in row["query"])
    for number, data in enumerate((mined, chosen, mined["test"], mined.remove_columns("top_score"))):
        options = {"version": "1.0.0", "metadata": LICENSE, "to_folder": tmp_path / str(number)}
        publish(data, miner=build(rows, store), **options)
        assert MiningRecord.read(tmp_path / str(number)).recipe.method == TopKPercPos(0.9)


@pytest.mark.filterwarnings("ignore::hn_datasets.errors.ShortRowsWarning")
def test_negatives_that_were_filled_in_do_not_count(tmp_path, store):
    rows = Dataset.from_list(PAIRS)
    miner = build(rows, store, method=TopKAbs(0.0), num_negatives=25)
    mined = rows.map(miner, batched=True)
    filled = format_dataset(mined, "scored", shortage="fill", num_negatives=25)
    record = MiningRecord.of(mined, miner)
    assert record.statistics.short_rows == 32 and MiningRecord.of(filled, miner).statistics == record.statistics
    for number, given in enumerate(({"miner": miner}, {"record": record})):
        folder = tmp_path / str(number)
        publish(filled, version="1.0.0", metadata=LICENSE, to_folder=folder, layouts=("scored", "n-tuple"), **given)
        assert [finding.name for finding in audit(folder).findings] == ["filled-negative"]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": TopKPercPos(0.8)},
        {"method": TopK()},
        {"num_negatives": 3},
        {"teacher": BM25Teacher(k1=0.5)},
        {"corpus": ["card", "loan", "fund"]},
    ],
)
def test_another_miner_is_refused(tmp_path, store, changes):
    rows = Dataset.from_list(PAIRS)
    mined = rows.map(build(rows, store), batched=True)
    other = build(rows, store, **changes)
    with pytest.raises(ReleaseError, match="got 17 of 17 rows that it mines otherwise; pass the miner that map was"):
        publish(mined, miner=other, version="1.0.0", metadata=LICENSE, to_folder=tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_texts_that_made_the_teacher_fail_are_told(made, tmp_path):
    mined, record = made
    record = replace(record, statistics=replace(record.statistics, failed_texts=2))  # as mine_on_ray counts them
    write_mined(mined, record, tmp_path / "mined")
    assert audit(tmp_path / "mined").ok
    release((mined, record), tmp_path / "out", layouts=("scored",))
    assert audit(tmp_path / "out").ok
    assert MiningRecord.read(tmp_path / "out").statistics.failed_texts == 2


def test_unsound_data_is_refused(made, tmp_path):
    broken = made[0].map(lambda row: {"negatives": [row["answer"], *row["negatives"][1:]]})
    with pytest.raises(ReleaseError, match="32 times that a negative is a positive of its row"):
        release((broken, made[1]), tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_template_with_an_unknown_variable_is_named(made, tmp_path):
    (tmp_path / "card.j2").write_text("# {{ title }}\n{{ no_such_thing }}\n")
    with pytest.raises(ArgumentError, match=r"card\.j2, got no_such_thing"):
        release(made, tmp_path / "out", template=tmp_path / "card.j2")
    (tmp_path / "card.j2").write_text("# Our own {{ title }}\n")
    release(made, tmp_path / "out", template=tmp_path / "card.j2", repo_id="me/qa")
    assert "# Our own qa" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_layout_without_rows_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShortRowsWarning)
        made = mine(tmp_path / "store", pairs=[{**row, "answer": "The same for all"} for row in PAIRS])
        for layout in ("n-tuple", "triplet"):
            with pytest.raises(
                ReleaseError, match=rf"Expected rows in the layout '{layout}'.*, such as 'scored', which"
            ):
                release(made, tmp_path / "out", layouts=(layout,))
        release(made, tmp_path / "out", layouts=("scored",))


@pytest.mark.parametrize("name", ["out[1]", "runs[!a]/out", "out**"])
def test_a_folder_that_load_dataset_takes_for_a_pattern_is_refused_at_once(made, tmp_path, name):
    for write in (write_mined, lambda mined, record, folder: release((mined, record), folder)):
        with pytest.raises(
            ArgumentError, match=r"^Expected a folder that load_dataset can read, got .*; name another\.$"
        ):
            write(*made, tmp_path / name)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out[1", "o*t?", "x{a,b}"])
def test_a_folder_with_another_special_name_can_be_loaded(made, tmp_path, name):
    release(made, tmp_path / name)
    assert audit(tmp_path / name).ok
    write_mined(*made, tmp_path / f"mined {name}")
    assert load_source(str(tmp_path / f"mined {name}"))["train"].num_rows == len(PAIRS)


def test_folders_with_something_else_are_never_replaced(made, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("keep me")
    for overwrite in (False, True):
        with pytest.raises(ArgumentError, match="holds something else"):
            release(made, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "keep me"
    release(made, tmp_path / "new")
    with pytest.raises(ArgumentError, match="holds a release already"):
        release(made, tmp_path / "new")


def test_overwrite_replaces_a_release_and_nothing_else(made, tmp_path):
    release(made, tmp_path / "out")
    release(made, tmp_path / "out", layouts=("triplet",), overwrite=True)
    (tmp_path / "out" / "triplet" / "thesis.txt").write_text("keep me")
    with pytest.raises(ArgumentError, match=r"holds .triplet/thesis\.txt., which is not of it"):
        release(made, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "triplet" / "thesis.txt").read_text() == "keep me"
    write_mined(*made, tmp_path / "mined")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArgumentError, match="holds something else"):
        release(made, tmp_path / "mined", overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_written_to_the_folder_meanwhile_is_kept(made, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def write_meanwhile(*args, **kwargs):
        out.mkdir()
        (out / "thesis.txt").write_text("keep me")
        return before(*args, **kwargs)

    before = datasets.load_dataset
    monkeypatch.setattr("hn_datasets.release.checking.load_dataset", write_meanwhile)
    with pytest.raises(ArgumentError, match="holds something else"):
        release(made, out)
    assert (out / "thesis.txt").read_text() == "keep me"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", [".", "..", "", "../here"])
def test_the_working_directory_is_never_replaced(made, tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ArgumentError, match="is the working directory or above it"):
        release(made, name)
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


def test_a_link_to_a_folder_stays_one(made, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for overwrite in (False, True):
        release(made, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "mining.json").is_file()


FULL_DISK = """
import resource, sys
from pathlib import Path
from datasets import load_dataset
from hn_datasets import CardMetadata, publish
from hn_datasets.errors import StoreError
from hn_datasets.record import MiningRecord
folder, out = map(Path, sys.argv[1:])
mined = load_dataset("parquet", data_files=str(folder / "rows.parquet"), split="train")
options = {"record": MiningRecord.read(folder), "version": "1.0.0", "metadata": CardMetadata(license="mit")}
publish(mined, to_folder=out / "first", **options)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    publish(mined, to_folder=out / "second", **options)
except StoreError as error:
    print(error.args[-1])
"""


def test_a_full_disk_leaves_nothing_behind(made, tmp_path):
    mined, record = made
    mined.to_parquet(str(tmp_path / "rows.parquet"))
    (tmp_path / "mining.json").write_text(record.to_json(), encoding="utf-8")
    (tmp_path / "out").mkdir()
    call = [sys.executable, "-W", "ignore", "-c", FULL_DISK, str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=os.environ)
    assert "Could not write the release" in done.stdout and "free some space" in done.stdout, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["first"]
