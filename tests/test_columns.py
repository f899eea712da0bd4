"""What is read from datasets and corpora, and what is refused before anything expensive starts."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, List, Value

from hn_datasets.columns import iter_pairs, iter_passages, read_pairs, resolve_columns
from hn_datasets.errors import ArgumentError, ColumnError, DataSourceError, TextError

SURROGATE = "half a pair: \ud83d"


def stream(rows, **options):
    return IterableDataset.from_generator(lambda: iter(rows), **options)


def rows_of(dataset, on_empty="error"):
    """All (anchor, positive) pairs as they come."""
    return [
        (pairs.anchors[row].as_py(), text)
        for pairs in iter_pairs(dataset, "q", "p", on_empty)
        for row, text in zip(pairs.rows.tolist(), pairs.positives.to_pylist(), strict=True)
    ]


def passages_of(corpus, column=None, on_empty="error"):
    return [text for chunk in iter_passages(corpus, column, on_empty) for text in chunk.to_pylist()]


def test_rows_that_lack_a_text_are_numbered_and_the_others_kept():
    anchors = pa.chunked_array([["a", None, "b"], ["\u3000\t", "c", "d", "e", "f", "g\0"]])
    positives = [["x"], ["x"], ["y", "z"], ["x"], [], None, ["x", " \n"], ["x", None], ["x"]]
    pairs, empty = read_pairs(anchors, pa.chunked_array([positives]))
    assert empty.tolist() == [1, 3, 4, 5, 6, 7]
    assert pairs.anchors.to_pylist() == ["a", "b", "g\0"]
    assert pairs.positives.to_pylist() == ["x", "y", "z", "x"]
    assert pairs.rows.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("kind", [pa.null(), pa.list_(pa.null()), pa.large_list(pa.large_string())])
def test_a_block_without_any_positive_is_a_block_of_empty_rows(kind):
    pairs, empty = read_pairs(pa.chunked_array([["a", "b"]]), pa.chunked_array([pa.array([None, None], kind)]))
    assert empty.tolist() == [0, 1]
    assert len(pairs.anchors) == len(pairs.positives) == len(pairs.rows) == 0


def test_empty_texts_are_named_by_their_rows_over_blocks_and_splits():
    bad = {3, 999, 1000, 1700, 2400, 2600}
    texts = [None if row in bad else f"text {row}" for row in range(3000)]
    splits = DatasetDict(
        {
            "train": Dataset.from_dict({"q": texts[:1500], "p": ["positive"] * 1500}),
            "test": Dataset.from_dict({"q": ["anchor"] * 1500, "p": texts[1500:]}),
        }
    )
    with pytest.raises(TextError, match=r"in 6 rows \(3, 999, 1000, 1700, 2400, \.\.\.\).*on_empty='skip'") as raised:
        rows_of(splits)
    assert "\n" not in str(raised.value)
    assert len(rows_of(splits, "skip")) == 3000 - len(bad)


def test_lists_of_positives_come_with_the_row_of_each():
    dataset = Dataset.from_dict({"q": ["a", "b"], "p": [["x", "y"], ["z"]]})
    assert resolve_columns(dataset, None, None) == ("q", "p")
    assert rows_of(dataset) == [("a", "x"), ("a", "y"), ("b", "z")]
    assert rows_of(dataset.to_iterable_dataset()) == rows_of(dataset)
    assert rows_of(IterableDatasetDict({"train": dataset.to_iterable_dataset()})) == rows_of(dataset)


def test_a_stream_whose_types_are_not_known_is_read():
    bad = [{"n": 1, "q": "b", "p": []}, {"n": 1, "q": None, "p": ["x"]}]
    rows = [{"n": 1, "q": "a", "p": ["x"]}, *bad * 1500, {"n": 1, "q": "c", "p": ["y", "z"]}]
    assert stream(rows).features is None
    assert resolve_columns(stream(rows), None, None) == ("q", "p")
    assert rows_of(stream(rows), "skip") == [("a", "x"), ("c", "y"), ("c", "z")]
    with pytest.raises(TextError, match=r"in 3,000 rows \(1, 2, 3, 4, 5, \.\.\.\)"):
        rows_of(stream(rows))


def test_a_split_without_rows_has_no_say():
    filled = Dataset.from_dict({"q": ["a"], "p": ["x"]})
    splits = DatasetDict({"train": Dataset.from_dict({"q": [], "p": []}), "test": filled})
    assert resolve_columns(splits, None, None) == ("q", "p")
    assert rows_of(splits) == [("a", "x")]


@pytest.mark.parametrize(
    "dataset",
    [
        Dataset.from_dict({}),
        Dataset.from_dict({"q": [], "p": []}),
        Dataset.from_dict({"q": [], "p": []}, features=Features({"q": Value("string"), "p": Value("string")})),
        DatasetDict({"train": Dataset.from_dict({"q": [], "p": []})}),
        stream([]),
    ],
)
def test_a_dataset_without_rows_is_refused_whatever_its_types(dataset):
    with pytest.raises(TextError, match="with rows, got an empty one"):
        resolve_columns(dataset, "q", "p")


def test_a_stream_that_turns_out_empty_is_refused():
    typed = Features({"q": Value("string"), "p": Value("string")})
    with pytest.raises(TextError, match="with rows, got an empty one"):
        rows_of(stream([], features=typed))


MIXED = Dataset.from_dict({"n": [1], "q": ["a"], "p": [["x"]], "v": [[0.5]]})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("anchor", None), r"a column 'anchor', the dataset has the columns n \(int64\), q \(string\), p \(list"),
        ((None, "positive"), r"a column 'positive', the dataset has the columns n \(int64\)"),
        (("q", "q"), r"two different columns, got 'q' twice; the dataset has the columns n \(int64\)"),
        (("p", None), "strings in column 'p', got list<"),
        (("q", "v"), "strings or lists of strings in column 'v', got list<"),
    ],
)
def test_a_column_that_cannot_be_used_is_answered_by_those_there_are(names, message):
    with pytest.raises(ColumnError, match=message):
        resolve_columns(MIXED, *names)


def test_every_split_needs_both_columns():
    splits = DatasetDict({"train": MIXED, "test": MIXED.rename_column("p", "positives")})
    with pytest.raises(ColumnError, match=r"a column 'p'.*positives"):
        resolve_columns(splits, "q", "p")


def test_a_stream_that_changes_its_types_is_refused():
    with pytest.raises(ColumnError, match="one type in each of the columns q, p") as raised:
        rows_of(stream([{"q": "a", "p": "x"}, {"q": "b", "p": 5}]))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "read",
    [
        lambda: resolve_columns(stream([{"q": SURROGATE, "p": "x"}]), "q", "p"),
        lambda: rows_of(stream([{"q": "a", "p": "x"}, {"q": "b", "p": SURROGATE}])),
        lambda: passages_of(["fine", SURROGATE]),
        lambda: passages_of(stream([{"text": "fine"}, {"text": SURROGATE}]), "text"),
    ],
)
def test_a_lone_surrogate_is_shown_with_a_way_to_repair_it(read):
    with pytest.raises(TextError, match=r"half a pair.*\\ud83d.*text.encode") as raised:
        read()
    str(raised.value).encode()
    SURROGATE.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    "corpus",
    [
        ["a", "b"],
        ("a", "b"),
        (text for text in "ab"),
        np.array(["a", "b"]),
        Dataset.from_dict({"x": ["a", "b"]})["x"],
        Dataset.from_dict({"x": ["a", "b"], "n": [1, 2]}),
        Dataset.from_dict({"title": ["-", "-"], "text": ["a", "b"]}),
        stream([{"n": 1, "x": "a"}, {"n": 2, "x": "b"}]),
    ],
)
def test_a_corpus_is_any_strings_or_the_one_text_column(corpus):
    assert passages_of(corpus) == ["a", "b"]


def test_empty_passages_are_named_or_left_out():
    corpus = [f"passage {number}" for number in range(2000)]
    corpus[1200], corpus[1999] = None, " "
    with pytest.raises(TextError, match=r"every passage of the corpus.*2 rows \(1200, 1999\)"):
        passages_of(corpus)
    assert len(passages_of(corpus, on_empty="skip")) == 1998


@pytest.mark.parametrize(
    ("corpus", "column", "error", "message"),
    [
        ({"id": "text"}, None, ArgumentError, "got dict; give one value"),
        (DatasetDict({"train": MIXED}), None, ArgumentError, "got DatasetDict; give one value"),
        (5, None, ArgumentError, "got int"),
        (["a", float("nan")], None, TextError, "got float: 'nan'"),
        (MIXED.select_columns(["n"]), None, ColumnError, "one text column in the corpus, it has the columns n"),
        (Dataset.from_dict({"a": ["x"], "b": ["y"]}), None, ColumnError, "name it by corpus_column_name"),
        (MIXED, "missing", ColumnError, "named 'missing'"),
    ],
)
def test_what_is_no_corpus_is_refused(corpus, column, error, message):
    with pytest.raises(error, match=message):
        passages_of(corpus, column)


def test_a_corpus_of_many_files(tmp_path, monkeypatch):
    for name in ("one", "two"):
        Dataset.from_dict({"text": [name]}).to_parquet(tmp_path / f"{name}.parquet")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sorted(passages_of(tmp_path / "*.parquet")) == ["one", "two"]
    assert passages_of("~/one.parquet") == ["one"]
    with pytest.raises(DataSourceError, match="nothing is there"):
        passages_of(tmp_path / "*.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("corpus.jsonl", '{"text": "fine"}\n{no', "JSON parse error"),
        ("corpus.jsonl", '{"text": "\\ud800"}\n', "surrogate"),
        ("corpus.jsonl", "", "no rows"),
        ("corpus.parquet", "PAR1", "Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_says_why_in_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataSourceError, match=rf"Could not read .*{name}.*{reason}") as raised:
        passages_of(tmp_path / name)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value.__cause__, Exception)


def test_the_features_of_a_stream_are_used_where_there_are_some():
    typed = Features({"q": Value("string"), "p": List(Value("string"))})
    assert rows_of(stream([{"q": "a", "p": ["x", "y"]}], features=typed)) == [("a", "x"), ("a", "y")]
