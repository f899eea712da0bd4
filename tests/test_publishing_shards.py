"""Releases from a folder whose files are read, checked and sent one after another."""

import json
import shutil
from dataclasses import replace

import pytest
from datasets import Dataset, DatasetDict, Value
from hub.warm import WarmClient
from hub_server import HubServer

from hn_datasets import CardMetadata, compute_statistics, publish
from hn_datasets.errors import ArgumentError, ColumnError, DataSourceError, ReleaseError
from hn_datasets.record import MiningRecord
from hn_datasets.release.mined_shards import MinedShards
from hn_datasets.shards import write_rows, write_shards
from tests.mined import mine

pytestmark = pytest.mark.filterwarnings("ignore::hn_datasets.errors.WeakTeacherWarning")
PRELOAD = """
import warnings
warnings.simplefilter("ignore")
import datasets, torch, matplotlib.figure, matplotlib.backends.backend_agg, huggingface_hub, fsspec
torch.set_num_threads(1)
import hn_datasets, hn_datasets.release.publishing, hn_datasets.inspection.audit
from hn_datasets.release import retrying
retrying.FIRST_WAIT = 0.05
"""
LAYOUTS = ["n-tuple", "triplet", "labeled-pair", "labeled-list", "scored"]
SHARD_BYTES = 2000


def release(repo_id, folder, version, layouts):
    """Publish a folder; each time when a Parquet file goes, count those that are staged."""
    import os
    import sys
    from pathlib import Path

    from hn_datasets import CardMetadata, publish

    def watch(event, arguments):
        if event == "os.remove" and str(arguments[0]).endswith(".parquet"):
            counts.append(len([*Path(os.environ["HN_DATASETS_CACHE"]).rglob("*.parquet")]))

    counts = []
    sys.addaudithook(watch)
    made = publish(folder, repo_id, version=version, metadata=CardMetadata(license="mit"), layouts=layouts)
    return {**made.to_dict(), "staged": counts}


def release_from_memory(repo_id, folder):
    """Publish from a file system that is no disk."""
    import fsspec

    from hn_datasets import CardMetadata, publish

    files = fsspec.filesystem("memory")
    files.put(folder, "/bucket", recursive=True)
    return publish("memory://bucket", repo_id, version="1.0.0", metadata=CardMetadata(license="mit")).to_dict()


def release_whole(repo_id, folder, layouts):
    """Publish what ``load_dataset`` gives."""
    from pathlib import Path

    from datasets import load_dataset

    from hn_datasets import CardMetadata, publish
    from hn_datasets.record import MiningRecord

    metadata, record = CardMetadata(license="mit"), MiningRecord.read(Path(folder))
    publish(load_dataset(folder), repo_id, record=record, version="1.0.0", metadata=metadata, layouts=layouts)


def release_by_command(*arguments):
    """Run ``hn-datasets publish``; return its exit status and what it printed."""
    from click.testing import CliRunner

    from hn_datasets.cli import main

    result = CliRunner().invoke(main, ["publish", *arguments, "--version", "1.0.0", "--license", "mit"])
    return [result.exit_code, result.output]


def read_release(repo_id, layouts):
    """Return the rows of every layout, what the audit says, and the record."""
    from pathlib import Path

    from datasets import load_dataset
    from huggingface_hub import hf_hub_download

    from hn_datasets import audit

    rows = {}
    for layout in layouts:
        splits = load_dataset(repo_id, layout, revision="v1.0.0")
        rows[layout] = {name: split.to_pandas().to_json(orient="split") for name, split in splits.items()}
    record = hf_hub_download(repo_id, "mining.json", repo_type="dataset", revision="v1.0.0")
    return {
        "rows": rows,
        "findings": audit(f"{repo_id}@v1.0.0").to_dict()["findings"],
        "record": Path(record).read_text(encoding="utf-8"),
    }


def write(folder, mined, record):
    """Write a folder as ``mine`` does, but of many files."""
    (folder / "data").mkdir(parents=True)
    for name, split in mined.items():
        write_shards(split, folder / "data", name, shard_bytes=SHARD_BYTES)
    statistics = compute_statistics(mined, num_negatives=record.recipe.num_negatives)
    record = replace(record, rows={name: len(split) for name, split in mined.items()}, statistics=statistics)
    (folder / "mining.json").write_text(record.to_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    return mine(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mined):
    """Two splits of several files, and in one file no row has as many negatives as others have."""
    rows, record = mined
    short = {"negatives", "negative_ids", "negative_scores"}
    cut = [
        {name: value[:2] if name in short and number < 8 else value for name, value in row.items()}
        for number, row in enumerate(rows)
    ]
    changed = Dataset.from_list(cut, features=rows.features)
    splits = DatasetDict(train=changed.select(range(24)), test=changed.select(range(24, 32)))
    return write(tmp_path_factory.mktemp("folder") / "mined", splits, record)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    place = tmp_path_factory.mktemp("client")
    environment = {**hub.environment(place / "home"), "HN_DATASETS_CACHE": str(place / "cache")}
    functions = (release, release_whole, release_from_memory, release_by_command, read_release)
    with WarmClient(environment, place / "answers", PRELOAD, *functions) as warm:
        yield warm


def data_of(hub, repo_id):
    return {path: digest for path, digest in hub.commits(repo_id)[0]["files"].items() if path.endswith(".parquet")}


def test_the_release_is_that_of_the_whole_dataset_and_no_two_files_are_here_at_once(hub, client, folder):
    files = {split: len([*folder.glob(f"data/{split}-*")]) for split in ("train", "test")}
    assert files["train"] > 3 and files["test"] > 1
    done = client.run(release, "owner/shards", str(folder), "1.0.0", LAYOUTS)
    assert len(data_of(hub, "owner/shards")) == len(LAYOUTS) * sum(files.values())
    assert done["staged"] == [1] * len(data_of(hub, "owner/shards"))
    client.run(release_whole, "owner/whole", str(folder), LAYOUTS)
    got, want = (client.run(read_release, repo_id, LAYOUTS) for repo_id in ("owner/shards", "owner/whole"))
    assert got["rows"] == want["rows"]
    assert got["findings"] == want["findings"]
    assert {finding["severity"] for finding in got["findings"]} == {"information"}, "of the short rows"
    records = [json.loads(one["record"]) for one in (got, want)]
    assert len({json.dumps(one["statistics"], sort_keys=True) for one in records}) == 1
    sizes = {path: entry["size"] for path, entry in records[0]["release"]["files"].items()}
    assert sizes.keys() | {"README.md", "mining.json"} == done["files"].keys()
    assert sizes.items() <= done["files"].items()
    again = client.run(release, "owner/shards", str(folder), "1.0.0", LAYOUTS)
    assert again["commit"] == done["commit"] and again["files"] == {} and len(hub.commits("owner/shards")) == 2


def test_a_killed_call_is_made_again_and_ends_with_the_same_release(hub, client, folder):
    hub.add_fault(route="owner/killed/commit/", status=503, times=-1)
    call = client.start(release, "owner/killed", str(folder), "1.0.0", ["n-tuple"])
    while not hub.log(route="owner/killed/commit/"):
        assert not call.has_answered()
    call.kill()
    hub.clear_faults()
    assert len(hub.commits("owner/killed")) == 1
    client.run(release, "owner/killed", str(folder), "1.0.0", ["n-tuple"])
    assert data_of(hub, "owner/killed").items() <= data_of(hub, "owner/shards").items()


def test_the_folder_may_lie_on_any_file_system(hub, client, folder):
    client.run(release_from_memory, "owner/memory", str(folder))
    assert data_of(hub, "owner/memory").items() <= data_of(hub, "owner/shards").items()


def test_the_command_publishes_file_by_file(hub, client, folder):
    status, printed = client.run(release_by_command, str(folder), "owner/command", "--file-by-file")
    assert status == 0 and 'load_dataset("owner/command", revision="v1.0.0")' in printed
    assert data_of(hub, "owner/command").items() <= data_of(hub, "owner/shards").items()
    status, printed = client.run(release_by_command, "memory://nowhere", "owner/none")
    assert status == 1 and "Expected mining.json in memory://nowhere, got none" in printed
    status, printed = client.run(release_by_command, str(folder), "owner/none", "--file-by-file", "--dry-run")
    assert status == 1 and "--dry-run has no effect with a folder" in printed
    status, printed = client.run(release_by_command, str(folder) + "-none", "owner/none")
    assert status == 1 and "Expected a folder that mine wrote as DIR" in printed


def test_files_without_rows_and_any_name_of_the_folder_are_fine(hub, client, mined, tmp_path):
    rows, record = mined
    target = write(tmp_path / "mined [v1]", DatasetDict(train=rows), record)
    count = len([*target.glob("data/train-*")])
    for path in target.glob("data/train-*"):
        number = int(path.name.split("-")[1])
        path.rename(path.with_name(f"train-{number + 1:05d}-of-{count + 2:05d}.parquet"))
    for number in (0, count + 1):
        with (target / "data" / f"train-{number:05d}-of-{count + 2:05d}.parquet").open("wb") as file:
            write_rows(rows.select([]), file)
    client.run(release, "owner/empty", str(target), "1.0.0", ["triplet"])
    read = client.run(read_release, "owner/empty", ["triplet"])
    assert len(json.loads(read["rows"]["triplet"]["train"])["data"]) == 3 * len(rows) and read["findings"] == []
    (target / "mining.json").write_text(replace(record, rows={"train": 0}).to_json())
    for path in target.glob("data/*"):
        with path.open("wb") as file:
            write_rows(rows.select([]), file)
    with pytest.raises(DataSourceError, match=r"Expected mined rows in .*, got none; mine something first"):
        attempt(target)


def test_files_with_other_columns_are_not_published_together(hub, client, mined, tmp_path):
    rows, record = mined
    target = write(tmp_path / "mined", DatasetDict(train=rows), record)
    last = max(target.glob("data/*"))
    part = Dataset.from_parquet(str(last), cache_dir=str(tmp_path / "cache"))
    with last.open("wb") as file:
        write_rows(part.cast_column("answer", Value("large_string")), file)
    error = client.start(release, "owner/columns", str(target), "1.0.0", ["scored"]).result()["error"]
    assert error[0] == "ReleaseError" and f"Expected scored/{last.name} with the columns of" in error[1]
    assert not [commit for commit in hub.commits("owner/columns") if commit["title"].startswith("Release")]


def attempt(folder, **options):
    metadata = CardMetadata(license="mit")
    return publish(folder, "owner/never", **{"version": "1.0.0", "metadata": metadata, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to_folder": "release"}, "to_folder has no effect with a folder, whose files are sent"),
        ({"miner": 0}, "miner has no effect"),
        ({"dry_run": True}, "dry_run has no effect"),
        ({"shard_bytes": 100}, "shard_bytes has no effect"),
        ({"record": "record"}, "record has no effect"),
        ({"layouts": ("scored", "normalized")}, "got 'normalized', whose tables are of all rows"),
    ],
)
def test_what_has_no_effect_file_by_file_is_refused(folder, options, message):
    with pytest.raises(ArgumentError, match=message):
        attempt(folder, **options)


def test_a_folder_that_is_not_whole_is_refused(folder, tmp_path):
    with pytest.raises(DataSourceError, match=r"Expected mining\.json in .*nowhere, got none; finish the mining"):
        attempt(tmp_path / "nowhere")
    shutil.copytree(folder, tmp_path / "mined")
    last = max((tmp_path / "mined" / "data").glob("train-*"))
    last.rename(last.with_name("rows.parquet"))
    (last.parent / f".writing-0-{last.name}").touch()  # of a killed worker
    with pytest.raises(DataSourceError, match=r"Expected files as train-.*, got 'rows\.parquet'"):
        attempt(tmp_path / "mined")
    last.with_name("rows.parquet").unlink()
    with pytest.raises(DataSourceError, match=r"Expected \d+ files of the split train in .*, got \d+; mine again"):
        attempt(str(tmp_path / "mined"))
    (tmp_path / "mined" / "mining.json").write_text("{}")
    with pytest.raises(DataSourceError, match=r"schema version"):
        attempt(tmp_path / "mined")


def test_an_address_that_cannot_be_read_is_one_line():
    with pytest.raises(DataSourceError, match=r"^Could not read http://127\.0\.0\.1:9/mined \(.+\); check that it is"):
        attempt("http://127.0.0.1:9/mined")
    with pytest.raises(ArgumentError, match=r"^Expected a path on a file system that fsspec opens here, got 'unknown"):
        attempt("unknown://bucket/mined")


def test_a_damaged_file_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "mined")
    last = max((tmp_path / "mined" / "data").glob("train-*"))
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(DataSourceError, match=rf"Could not read .*{last.name} \("):
        MinedShards.open(tmp_path / "mined").check()


def test_a_folder_that_is_no_mined_data_is_refused(folder, mined, tmp_path):
    rows, record = mined
    publish(rows, record=record, version="1.0.0", metadata=CardMetadata(license="mit"), to_folder=tmp_path / "release")
    with pytest.raises(DataSourceError, match=r"Expected a folder that mine wrote, .* holds a release; load it"):
        attempt(tmp_path / "release")
    write(tmp_path / "mined", DatasetDict(train=rows.rename_column("query", "text")), record)
    with pytest.raises(ColumnError, match="it has no column query"):
        attempt(tmp_path / "mined")


def test_statistics_of_other_data_are_noticed_before_anything_is_sent(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "mined")
    record = MiningRecord.read(folder)
    other = replace(record, statistics=replace(record.statistics, negatives=1))
    (tmp_path / "mined" / "mining.json").write_text(other.to_json(), encoding="utf-8")
    MinedShards.open(folder).check()
    monkeypatch.setattr("hn_datasets.statistics.MERGED_PARTS", 2)
    MinedShards.open(folder).check()
    with pytest.raises(ReleaseError, match=r"got negatives \d+ instead of 1; mine it again"):
        MinedShards.open(tmp_path / "mined").check()


def test_a_file_with_unsound_rows_stops_the_release(hub, client, mined, tmp_path):
    rows, record = mined
    for name, number in (("first", 0), ("last", len(rows) - 1)):
        bad = rows.map(
            lambda row, place, number=number: {
                "negatives": [row["answer"] if place == number else row["negatives"][0], *row["negatives"][1:]]
            },
            with_indices=True,
        )
        target = write(tmp_path / name, DatasetDict(train=bad), record)
        error = client.start(release, f"owner/{name}", str(target), "1.0.0", ["n-tuple"]).result()["error"]
        assert error[0] == "ReleaseError" and "Expected mined data that is sound" in error[1]
    assert "owner/first" not in hub.state()
    assert not [commit for commit in hub.commits("owner/last") if commit["title"].startswith("Release")]
