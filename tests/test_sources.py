"""Reading sources and corpora, and writing what was mined."""

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset
from hub import clients
from hub_server import HubServer

from hn_datasets import HardNegativeMiner, TopK
from hn_datasets.columns import iter_pairs, iter_passages, resolve_columns
from hn_datasets.errors import ArgumentError, ColumnError, DataSourceError, StoreError, TextError
from hn_datasets.recipe import Recipe
from hn_datasets.record import MiningRecord
from hn_datasets.sources import load_source, write_mined
from tests.teachers import HashTeacher

ROWS = {"n": [1, 2, 3], "query": ["a", "b", "c"], "answer": ["x", "y", "z"]}
DATASET = Dataset.from_dict(ROWS)


def write(path):
    if path.suffix == ".parquet":
        DATASET.to_parquet(str(path))
    elif path.suffix == ".jsonl":
        DATASET.to_json(str(path))
    elif path.suffix == ".csv":
        DATASET.to_csv(str(path))
    else:
        DATASET.save_to_disk(str(path))
    return str(path)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.csv", "folder", "odd [name]*.jsonl"])
def test_local_sources_are_read(tmp_path, name):
    loaded = load_source(write(tmp_path / name))
    assert loaded.to_dict() == ROWS


def test_a_folder_with_a_card_is_read_as_it_is_now(tmp_path):
    loaded = []
    for place in ("here", "there", "here"):
        folder = tmp_path / place / "data"
        folder.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict({"a": [len(loaded)]}).to_parquet(str(folder / "train.parquet"))
        (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: train.parquet\n---\n")
        loaded.append(load_source(str(folder), split="train"))
    assert [rows["a"][0] for rows in loaded] == [0, 1, 2]
    assert len({rows._fingerprint for rows in loaded}) == 3, "what is kept by a fingerprint is of one state alone"


def test_splits_of_local_sources(tmp_path):
    DatasetDict({"train": DATASET, "test": DATASET.select([0])}).save_to_disk(str(tmp_path / "both"))
    assert len(load_source(str(tmp_path / "both"), split="test")) == 1
    assert set(load_source(str(tmp_path / "both"))) == {"train", "test"}
    with pytest.raises(DataSourceError, match="train, test, got 'dev'"):
        load_source(str(tmp_path / "both"), split="dev")


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda folder: str(folder / "missing.parquet"), {}, DataSourceError, "no such file"),
        (lambda folder: "a b/c d/e", {}, DataSourceError, "Hub id or an existing path"),
        (lambda folder: write(folder / "x.jsonl"), {"revision": "main"}, ArgumentError, "no effect on the local"),
        (lambda folder: write(folder / "saved"), {"split": "train"}, ArgumentError, "without splits"),
    ],
)
def test_sources_that_cannot_be_read(tmp_path, make, options, error, message):
    with pytest.raises(error, match=message) as raised:
        load_source(make(tmp_path), **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.csv", "data"])
def test_a_part_of_a_split_is_read(tmp_path, name):
    if name == "data":
        (tmp_path / "data").mkdir()
        write(tmp_path / "data" / "train.parquet")
    source = str(tmp_path / name) if name == "data" else write(tmp_path / name)
    assert load_source(source, split="train").to_dict() == ROWS
    assert load_source(source, split="train[1:]")["n"][:] == [2, 3]
    with pytest.raises(DataSourceError, match=r"Could not read .*dev"):
        load_source(source, split="dev")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jsonl", "", "no rows"),
        ("bad.jsonl", "{no", "JSON parse error"),
        ("empty.csv", "", "No columns"),
        ("folder", None, "data files"),
    ],
)
def test_a_source_without_rows_says_why_in_one_line(tmp_path, name, content, reason):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(DataSourceError, match=f"Could not read .*{name}.*{reason}") as raised:
        load_source(str(path))
    assert "\n" not in str(raised.value)


def test_what_is_neither_here_nor_in_the_cache_is_one_line():
    with pytest.raises(DataSourceError, match=r"'someone/something': no such file or folder here.*HF_HUB_OFFLINE=1"):
        load_source("someone/something")
    for source in ("", "missing.csv", "/no/such/folder"):
        with pytest.raises(DataSourceError, match="Hub id or an existing path"):
            load_source(source)


def run_commands(commands):
    """What the command line prints for each of some commands; for a client process."""
    from click.testing import CliRunner

    from hn_datasets.cli import main

    return [CliRunner().invoke(main, command.split(), catch_exceptions=False).output for command in commands]


def test_the_hub_without_the_dataset_or_out_of_reach_is_one_line(tmp_path):
    names = ("owner/none", "owner/x --revision v9", "owner/x")
    options = f"--teacher bm25 --output {tmp_path / 'out'}"
    commands = [f"mine {name} {options}" for name in names] + [f"survey {name} --teacher bm25" for name in names]
    with HubServer(tmp_path / "hub") as hub:
        hub.create_repository("owner/x")
        environment = hub.environment(tmp_path / "home")
        with_hub = clients.run(environment, run_commands, commands)
    without = clients.run(environment, run_commands, commands)
    missing = "Expected a Hub id or an existing path, got 'owner/none': no such file or folder here, and no dataset"
    for none, revision, empty in (with_hub[:3], with_hub[3:]):
        assert missing in none and "check the name" in none
        assert "Expected a branch, tag or commit of 'owner/x' on the Hub, got 'v9'" in revision
        assert "Could not read 'owner/x'" in empty
    for message in without:
        assert "no such file or folder here, and the Hub cannot be reached" in message
    for message in (*with_hub, *without):
        assert message.startswith("Error: ") and message.count("\n") == 1


def test_a_damaged_or_other_file_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataSourceError, match=r"\.parquet, \.jsonl"):
        load_source(str(tmp_path / "a.txt"))
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(DataSourceError, match="Could not read"):
        load_source(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("as_splits", [False, True])
def test_what_is_written_is_read_back(tmp_path, as_splits):
    source = DatasetDict({"train": DATASET, "test": DATASET.select([1])}) if as_splits else DATASET
    miner = HardNegativeMiner.from_dataset(
        source, teacher=HashTeacher(), method=TopK(), num_negatives=1, store=tmp_path
    )
    mined = source.map(miner, batched=True)
    write_mined(mined, MiningRecord.of(mined, miner), tmp_path / "out")
    back = load_dataset(str(tmp_path / "out"))
    expected = mined if as_splits else {"train": mined}
    assert {name: split.to_dict() for name, split in back.items()} == {n: s.to_dict() for n, s in expected.items()}
    assert Recipe.from_json((tmp_path / "out/recipe.json").read_text()) == miner.recipe
    assert MiningRecord.read(tmp_path / "out").statistics == MiningRecord.of(mined, miner).statistics
    with pytest.raises(ArgumentError, match="--overwrite"):
        write_mined(mined, MiningRecord.of(mined, miner), tmp_path / "out")
    write_mined(mined, MiningRecord.of(mined, miner), tmp_path / "out", overwrite=True)


@pytest.fixture
def mined_and_record(tmp_path):
    miner = HardNegativeMiner.from_dataset(
        DATASET, teacher=HashTeacher(), method=TopK(), num_negatives=1, store=tmp_path / "store"
    )
    mined = DATASET.map(miner, batched=True)
    return mined, MiningRecord.of(mined, miner)


@pytest.mark.parametrize("split", ["train+test", "train[:50%]", "validation"])
def test_any_split_has_a_file_name_that_is_read_back(tmp_path, mined_and_record, split):
    mined, record = mined_and_record
    write_mined(Dataset(mined.data, info=mined.info, split=split), record, tmp_path / "out")
    (back,) = load_dataset(str(tmp_path / "out")).values()
    assert back.to_dict() == mined.to_dict()


def test_large_splits_are_written_as_several_shards_in_order(tmp_path, mined_and_record, monkeypatch):
    monkeypatch.setattr("hn_datasets.shards.SHARD_BYTES", 100)
    mined, record = mined_and_record
    write_mined(mined, record, tmp_path / "out")
    assert len(list((tmp_path / "out" / "data").iterdir())) > 1
    assert load_dataset(str(tmp_path / "out"), split="train").to_dict() == mined.to_dict()


def test_a_write_that_fails_keeps_the_old_folder_and_leaves_nothing(tmp_path, mined_and_record, monkeypatch):
    mined, record = mined_and_record
    write_mined(mined, record, tmp_path / "out")
    before = sorted(path.name for path in tmp_path.iterdir())

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises(StoreError, match="No space left on device"):
        write_mined(mined, record, tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert load_dataset(str(tmp_path / "out"), split="train").to_dict() == mined.to_dict()


def test_a_folder_with_something_else_is_never_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ArgumentError, match="holds something else"):
        write_mined(DATASET, None, tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_columns_are_the_first_two_texts_unless_named():
    assert resolve_columns(DATASET, None, None) == ("query", "answer")
    assert resolve_columns(DATASET, "answer", None) == ("answer", "query")
    assert resolve_columns(DatasetDict({"train": DATASET}), None, "query") == ("answer", "query")
    generated = IterableDataset.from_generator(lambda: iter([{"q": "a", "p": ["b"]}]))
    assert resolve_columns(generated, None, None) == ("q", "p")


@pytest.mark.parametrize(
    ("dataset", "names", "error", "message"),
    [
        (DATASET, ("qery", None), ColumnError, "'qery'"),
        (DATASET, ("n", None), ColumnError, "strings in column 'n', got int64"),
        (DATASET, (None, "n"), ColumnError, "strings or lists of strings in column 'n'"),
        (DATASET, ("query", "query"), ColumnError, "two different columns"),
        (DATASET.select_columns(["n", "query"]), (None, None), ColumnError, "two text columns"),
        (DatasetDict(), (None, None), ArgumentError, "at least one split"),
        ([1], (None, None), ArgumentError, "got list"),
    ],
)
def test_columns_that_cannot_be_used(dataset, names, error, message):
    with pytest.raises(error, match=message):
        resolve_columns(dataset, *names)


def test_an_empty_dataset_is_refused():
    with pytest.raises(TextError, match="rows"):
        columns = resolve_columns(DATASET.select([]), None, None)
        list(iter_pairs(DATASET.select([]), *columns, "error"))


@pytest.mark.parametrize("kind", ["list", "dataset", "stream", "parquet", "jsonl"])
def test_a_corpus_of_every_kind(tmp_path, kind):
    texts = [f"passage {number}" for number in range(2500)]
    dataset = Dataset.from_dict({"id": list(range(2500)), "text": texts})
    if kind == "parquet":
        dataset.to_parquet(str(tmp_path / "c.parquet"))
    if kind == "jsonl":
        dataset.to_json(str(tmp_path / "c.jsonl"))
    corpus = {"list": texts, "dataset": dataset, "stream": dataset.to_iterable_dataset()}
    chunks = iter_passages(corpus.get(kind, tmp_path / f"c.{kind}"), None, "error")
    assert [text for chunk in chunks for text in chunk.to_pylist()] == texts


@pytest.mark.parametrize(
    ("corpus", "column", "error", "message"),
    [
        (["a", 3], None, TextError, "got int"),
        (["a"], "text", ArgumentError, "no effect on a list"),
        (DATASET, None, ColumnError, "corpus_column_name"),
        (DATASET, "n", ColumnError, "named 'n'"),
        ("corpus.txt", None, ArgumentError, r"\.parquet"),
        ("missing.parquet", None, DataSourceError, "nothing is there"),
    ],
)
def test_a_corpus_that_cannot_be_read(corpus, column, error, message):
    with pytest.raises(error, match=message):
        list(iter_passages(corpus, column, "error"))


def test_texts_that_are_no_unicode_are_refused_early():
    with pytest.raises(TextError):
        list(iter_passages(["fine", "\ud800"], None, "error"))
