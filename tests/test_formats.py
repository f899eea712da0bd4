import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, LargeList, List, Value, load_dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.sentence_transformer.trainer import SentenceTransformerTrainer
from sentence_transformers.util import mine_hard_negatives, resolve_ids
from tokenizers import Tokenizer, models, pre_tokenizers

from hn_datasets.batches import LABEL_COLUMNS, OUTPUT_FORMATS, TRAINABLE_FORMATS
from hn_datasets.errors import ArgumentError, ColumnError, ShortRowsWarning
from hn_datasets.filling import FILLED_ID
from hn_datasets.formats import format_dataset
from hn_datasets.texts import normalise

TEXT, TEXTS, NAN = Value("string"), List(Value("string")), float("nan")
MINED = {
    "negatives": TEXTS,
    "negative_ids": List(Value("int64")),
    "negative_scores": List(Value("float32")),
    "positive_score": Value("float32"),
    "ceiling": Value("float64"),
    "top_score": Value("float32"),
}


def make_mined(rows, positive=TEXT, optional=True):
    """A mined dataset from rows (anchor, positive, [(negative, score), ...], positive score), with an id column."""
    anchors, positives, found, scores = zip(*rows, strict=True) if rows else ([], [], [], [])
    columns = {
        "id": list(range(len(rows))),
        "question": list(anchors),
        "answer": list(positives),
        "negatives": [[text for text, _ in row] for row in found],
        "negative_ids": [[100 + rank for rank in range(len(row))] for row in found],
        "negative_scores": [[score for _, score in row] for row in found],
        "positive_score": list(scores),
        "ceiling": [math.inf] * len(rows),
        "top_score": [0.25] * len(rows),
    }
    features = {"id": Value("int64"), "question": TEXT, "answer": positive, **MINED}
    mined = Dataset.from_dict(columns, features=Features(features))
    return mined if optional else mined.remove_columns(["ceiling", "top_score"])


FULL = [
    ("q0", "a0", [("a1", 0.5), ("a2", 0.25)], 0.75),
    ("q1", "a1", [("a2", 0.5), ("a0", 0.125)], 1.0),
]
SHORT = [*FULL, ("q2", "a2", [("a0", 0.5)], 0.75), ("q3", "a3", [], 0.5), ("", "a4", [], NAN), (None, None, [], NAN)]


def quietly(*arguments, **options):
    """format_dataset without its warning about short rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShortRowsWarning)
        return format_dataset(*arguments, **options)


def rows_of(dataset):
    return [tuple(row.values()) for row in dataset]


# The reference: what sentence-transformers itself makes of the same corpus.

WORDS = [f"w{number}" for number in range(40)]


@pytest.fixture(scope="module")
def model():
    """A small model of random word vectors."""
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate([*WORDS, "[UNK]"])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = np.random.default_rng(3).normal(size=(len(WORDS) + 1, 16)).astype(np.float32)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)], device="cpu")


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(4)
    texts = [" ".join(rng.choice(WORDS, 6, replace=False)) for _ in range(24)]
    return Dataset.from_dict({"question": texts[:12], "answer": texts[12:]})


def mine_by_hand(model, pairs, max_score, num_negatives):
    """The mined columns for a cap on the score, by brute force."""
    anchors, passages = (model.encode(list(pairs[name]), normalize_embeddings=True) for name in pairs.column_names)
    scores = anchors @ passages.T
    rows = []
    for row, (anchor, positive) in enumerate(zip(pairs["question"], pairs["answer"], strict=True)):
        order = [p for p in np.argsort(-scores[row]).tolist() if p != row and scores[row, p] < max_score]
        found = [(pairs["answer"][place], float(scores[row, place])) for place in order[:num_negatives]]
        rows.append((anchor, positive, found, float(scores[row, row])))
    return make_mined(rows).remove_columns("id")


@pytest.mark.parametrize("output_scores", [False, True])
@pytest.mark.parametrize("output_format", TRAINABLE_FORMATS)
@pytest.mark.parametrize("max_score", [2.0, -0.1])
def test_formats_equal_those_of_sentence_transformers(model, pairs, output_format, output_scores, max_score):
    theirs = mine_hard_negatives(
        pairs,
        model,
        max_score=max_score,
        num_negatives=3,
        output_format=output_format,
        output_scores=output_scores,
        range_max=12,
        verbose=False,
    )
    mined = mine_by_hand(model, pairs, max_score, 3)
    shortest = min(map(len, mined["negatives"]))
    assert shortest == 3 if max_score == 2.0 else shortest == 0
    ours = quietly(mined, output_format, output_scores=output_scores, num_negatives=3)
    assert ours.column_names == theirs.column_names
    assert len(ours) == len(theirs) > 0
    for name in theirs.column_names:
        if name in ("score", "scores"):
            flat = [np.concatenate([np.atleast_1d(value) for value in table[name]]) for table in (ours, theirs)]
            assert flat[0] == pytest.approx(flat[1], abs=1e-6)
        else:
            assert list(ours[name]) == list(theirs[name])
            assert ours.features[name] == theirs.features[name]


@pytest.mark.parametrize(
    ("output_format", "columns"),
    [
        ("triplet", ["question", "answer", "negative"]),
        ("n-tuple", ["question", "answer", "negative_1", "negative_2"]),
    ],
)
def test_the_trainer_and_its_loss_read_anchor_positive_negatives(model, output_format, columns):
    table = format_dataset(make_mined([("w0 w1", "w2", [("w3", 0.5), ("w4", 0.25)], 0.75)]), output_format)
    assert table.column_names == columns
    batch = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)(list(table))
    inputs, labels = SentenceTransformerTrainer.collect_features(None, batch)
    assert len(inputs) == len(columns)
    assert labels is None
    assert inputs[0]["input_ids"].tolist() == [0, 1] * len(table)
    assert inputs[1]["input_ids"].tolist() == [2] * len(table)
    assert MultipleNegativesRankingLoss(model)(inputs, labels).item() > 0


@pytest.mark.parametrize("output_scores", [False, True])
@pytest.mark.parametrize("output_format", TRAINABLE_FORMATS)
def test_the_trainer_reads_no_other_column(output_format, output_scores):
    table = format_dataset(make_mined(FULL), output_format, output_scores=output_scores)
    inputs = [name for name in table.column_names if name not in LABEL_COLUMNS]
    assert inputs[:2] == ["question", "answer"]
    assert all(name.startswith("negative") for name in inputs[2:])
    assert table.column_names[: len(inputs)] == inputs


def test_the_label_columns_are_those_of_the_trainer():
    assert list(LABEL_COLUMNS) == SentenceTransformerDataCollator(preprocess_fn=None).valid_label_columns


# Positives in lists.

LISTS = [
    ("q0", ["a0", "b0"], [("a1", 0.5), ("a2", 0.25)], 0.75),
    ("q1", ["a1"], [("a0", 0.5), ("a2", 0.25)], 0.5),
]


def test_each_of_several_positives_becomes_a_row():
    mined = make_mined(LISTS, positive=TEXTS)
    assert rows_of(format_dataset(mined, "triplet")) == [
        ("q0", "a0", "a1"),
        ("q0", "a0", "a2"),
        ("q0", "b0", "a1"),
        ("q0", "b0", "a2"),
        ("q1", "a1", "a0"),
        ("q1", "a1", "a2"),
    ]
    assert rows_of(format_dataset(mined, "n-tuple")) == [
        ("q0", "a0", "a1", "a2"),
        ("q0", "b0", "a1", "a2"),
        ("q1", "a1", "a0", "a2"),
    ]


def test_labels_put_all_positives_first_and_each_negative_once():
    mined = make_mined(LISTS, positive=TEXTS)
    assert rows_of(format_dataset(mined, "labeled-pair"))[:5] == [
        ("q0", "a0", 1),
        ("q0", "b0", 1),
        ("q0", "a1", 0),
        ("q0", "a2", 0),
        ("q1", "a1", 1),
    ]
    assert rows_of(format_dataset(mined, "labeled-list")) == [
        ("q0", ["a0", "b0", "a1", "a2"], [1, 1, 0, 0]),
        ("q1", ["a1", "a0", "a2"], [1, 0, 0]),
    ]


@pytest.mark.parametrize("output_format", TRAINABLE_FORMATS)
def test_several_positives_have_no_scores_of_their_own(output_format):
    with pytest.raises(ArgumentError, match="explode the positives into rows before mining"):
        format_dataset(make_mined(LISTS, positive=TEXTS), output_format, output_scores=True)


def test_lists_of_one_positive_have_a_score():
    table = format_dataset(make_mined(LISTS[1:], positive=TEXTS), "triplet", output_scores=True)
    assert rows_of(table) == [("q1", "a1", "a0", [0.5, 0.5]), ("q1", "a1", "a2", [0.5, 0.25])]


# Short and skipped rows.


@pytest.mark.parametrize(
    ("output_format", "shortage", "anchors"),
    [
        ("triplet", None, ["q0", "q0", "q1", "q1", "q2"]),
        ("triplet", "drop", ["q0", "q0", "q1", "q1"]),
        ("n-tuple", None, ["q0", "q1"]),
        ("n-tuple", "fill", ["q0", "q1", "q2", "q3"]),
        ("labeled-pair", None, ["q0", "q0", "q0", "q1", "q1", "q1", "q2", "q2", "q3"]),
        ("labeled-list", "keep", ["q0", "q1", "q2"]),
        ("labeled-list", "drop", ["q0", "q1"]),
        ("labeled-list", "fill", ["q0", "q1", "q2", "q3"]),
        ("scored", None, ["q0", "q1", "q2", "q3", "", None]),
        ("scored", "drop", ["q0", "q1"]),
    ],
)
def test_short_rows_are_kept_dropped_or_filled_and_skipped_rows_never_train(output_format, shortage, anchors):
    assert list(quietly(make_mined(SHORT), output_format, shortage=shortage)["question"]) == anchors


@pytest.mark.parametrize(
    ("output_format", "shortage", "message"),
    [
        ("n-tuple", None, "2 of 6 rows have fewer than 2 negatives: dropped. 2 of 6 rows were skipped .*: left out."),
        ("triplet", None, "2 of 6 rows have .*: kept with what they have. Rows without any .*: 1. .*: left out."),
        ("labeled-pair", "fill", "2 of 6 rows have .*: filled with random passages. 2 of 6 rows .*: left out."),
        ("scored", "keep", "2 of 6 rows have .*: kept with what they have. 2 of 6 .*: kept without negatives."),
    ],
)
def test_one_warning_counts_short_and_skipped_rows(output_format, shortage, message):
    with pytest.warns(ShortRowsWarning, match=f"^{message}$") as caught:
        format_dataset(make_mined(SHORT), output_format, shortage=shortage)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_thousands_are_written_with_commas():
    with pytest.warns(ShortRowsWarning, match="^1,200 of 2,400 rows have fewer than 2 negatives: dropped.$"):
        format_dataset(make_mined([FULL[0], (*FULL[1][:2], [("a2", 0.5)], 1.0)] * 1200), "n-tuple")


def test_num_negatives_keeps_the_best():
    assert rows_of(format_dataset(make_mined(FULL), "triplet", num_negatives=1)) == [
        ("q0", "a0", "a1"),
        ("q1", "a1", "a2"),
    ]
    scored = format_dataset(make_mined(FULL), "scored", num_negatives=1)
    assert list(scored["negative_scores"]) == [[0.5], [0.5]]
    assert list(scored["negative_ids"]) == [[100], [100]]


# Filling.


def anchor_rows(count, width):
    """Rows with one negative each; every third anchor comes twice, with another positive."""
    return [(f"q{row - row % 3 // 2}", f"a{row}", [(f"a{(row + 10) % count}", 0.5)], 0.75) for row in range(count)][
        :width
    ]


def filled(mined, **options):
    """The negatives that were filled in, by anchor and positive."""
    scored = quietly(mined, "scored", shortage="fill", **options)
    assert all(len(row["negatives"]) == len(row["negative_ids"]) == len(row["negative_scores"]) for row in scored)
    return {
        (row["question"], row["answer"]): [
            text for text, passage in zip(row["negatives"], row["negative_ids"], strict=True) if passage == FILLED_ID
        ]
        for row in scored
    }


def test_filled_passages_are_marked_and_stand_last():
    scored = quietly(make_mined(SHORT), "scored", shortage="fill")
    row = scored[2]
    assert row["negatives"][0] == "a0"
    assert row["negatives"][1] in {"a1", "a3"}  # a2 is its own, a0 is there, a4 belongs to a skipped row
    assert row["negative_ids"] == [100, FILLED_ID]
    assert row["negative_scores"][0] == 0.5
    assert math.isnan(row["negative_scores"][1])
    assert scored[4]["negatives"] == []


@pytest.mark.parametrize("output_format", TRAINABLE_FORMATS)
def test_passages_that_were_filled_in_before_have_no_scores_to_train_on(output_format):
    filled_before = quietly(make_mined(SHORT), "scored", shortage="fill")
    with pytest.raises(
        ArgumentError, match=r"^Expected a score for every negative, got NaN.*; use output_scores=False"
    ):
        quietly(filled_before, output_format, output_scores=True)
    assert len(quietly(filled_before, output_format)) > 0
    mined = filled_before.select(range(3))  # the only one that was filled in is the second one of the last row
    assert quietly(mined, output_format, output_scores=True, num_negatives=1).column_names[:2] == ["question", "answer"]


def test_a_filled_passage_is_no_positive_of_the_anchor_and_no_negative_of_the_row():
    mined = make_mined(anchor_rows(30, 30))
    own = {}
    for anchor, positive in zip(mined["question"], mined["answer"], strict=True):
        own.setdefault(anchor, set()).add(positive)
    assert max(map(len, own.values())) == 2
    for row in quietly(mined, "scored", shortage="fill", num_negatives=20):
        assert len(set(row["negatives"])) == 20
        assert not own[row["question"]] & set(row["negatives"])


def test_texts_that_normalise_makes_equal_count_as_the_same():
    rows = [
        ("Who?", "Ann", [("BOB", 0.5)], 0.75),
        ("who? ", "Cid ", [("Dee", 0.5), ("Eve", 0.25)], 0.75),
        ("x", "ann", [("Dee", 0.5), ("Eve", 0.25)], 0.75),
        ("y", "bob", [("Dee", 0.5), ("Eve", 0.25)], 0.75),
        ("z", "CID", [("Dee", 0.5), ("Eve", 0.25)], 0.75),
        ("v", "ｗｈｏ?", [("Dee", 0.5), ("Eve", 0.25)], 0.75),
        ("w", "Fay", [("Dee", 0.5), ("Eve", 0.25)], 0.75),
        ("u", "FAY", [("Dee", 0.5), ("Eve", 0.25)], 0.75),
    ]
    (found,) = filled(make_mined(rows))["Who?", "Ann"]
    assert normalise(found) == "fay"
    with pytest.raises(ArgumentError, match="found only 2 that are"):
        filled(make_mined(rows[:1] + rows[2:]), num_negatives=4, seed=1)


def test_filling_depends_on_seed_and_anchor_alone():
    mined = make_mined(anchor_rows(2500, 2500))  # three batches
    found = filled(mined, num_negatives=4)
    assert all(len(passages) == 3 for passages in found.values())
    assert filled(mined.shuffle(seed=1), num_negatives=4) == found
    parts = DatasetDict(train=mined.select(range(900)), test=mined.select(range(900, 2500)))
    splits = quietly(parts, "n-tuple", shortage="fill", num_negatives=4)
    assert [row[3:] for row in rows_of(splits["train"])] == [tuple(row) for row in list(found.values())[:900]]
    assert filled(mined, num_negatives=4, seed=1) != found


def test_passages_are_drawn_uniformly():
    rows = [(f"q{row}", f"a{row % 10}", [], 0.75) for row in range(3000)]
    drawn = [passage for passages in filled(make_mined(rows), num_negatives=3).values() for passage in passages]
    counts = np.unique(drawn, return_counts=True)[1]
    assert counts.sum() == 9000
    assert ((counts - 900) ** 2 / 900).sum() < 27.9  # chi-square with 9 degrees of freedom: 1 in 1000


def test_nothing_is_filled_where_no_row_is_short():
    assert rows_of(format_dataset(make_mined(FULL), "n-tuple", shortage="fill")) == rows_of(
        format_dataset(make_mined(FULL), "n-tuple")
    )


# The lossless formats.


@pytest.mark.parametrize("optional", [True, False])
def test_scored_keeps_the_mined_columns_and_drops_the_rest(optional):
    mined = make_mined(SHORT, optional=optional)
    scored = quietly(mined, "scored")
    assert scored.column_names == [name for name in mined.column_names if name != "id"]
    for name in scored.column_names:
        np.testing.assert_equal(list(scored[name]), list(mined[name]))
        assert scored.features[name] == mined.features[name]


@pytest.mark.parametrize(("rows", "positive"), [(FULL, TEXT), (SHORT[:4], TEXT), (LISTS, TEXTS)])
def test_normalized_loses_no_text_and_no_score(rows, positive):
    tables = quietly(make_mined(rows, positive), "normalized")
    assert tables["queries"].features == Features({"query_id": Value("int64"), "query": TEXT})
    assert tables["documents"].features == Features({"document_id": Value("int64"), "document": TEXT})
    for name, number in (("query", "queries"), ("document", "documents")):
        assert list(tables[number][f"{name}_id"]) == list(range(len(tables[number])))
        assert len(set(tables[number][name])) == len(tables[number])
    join = resolve_ids({"query_id": tables["queries"], "document_ids": tables["documents"]}, output_format="lists")
    joined = tables["scores"].map(join, batched=True, remove_columns=["query_id", "document_ids"])
    back = []
    for row in joined:
        positives = [text for text, label in zip(row["documents"], row["labels"], strict=True) if label]
        pairs = zip(row["documents"], row["scores"], row["labels"], strict=True)
        found = [(text, score) for text, score, label in pairs if not label]
        back.append((row["query"], positives if positive is TEXTS else positives[0], found, row["scores"][0]))
    assert back == rows


def test_normalized_splits_share_their_texts():
    mined = DatasetDict(train=make_mined(FULL), test=make_mined([("q1", "a9", FULL[1][2], 0.5)]))
    tables = quietly(mined, "normalized")
    assert list(tables["queries"]["query"]) == ["q0", "q1"]
    assert tables["scores"].column_names == ["query_id", "document_ids", "scores", "labels", "split"]
    assert list(tables["scores"]["split"]) == ["train", "train", "test"]
    assert list(tables["scores"]["query_id"]) == [0, 1, 1]


def test_skipped_rows_are_left_out_of_normalized():
    with pytest.warns(ShortRowsWarning, match="2 of 6 rows were skipped as empty when mined: left out."):
        tables = format_dataset(make_mined(SHORT), "normalized")
    assert list(tables["queries"]["query"]) == ["q0", "q1", "q2", "q3"]
    assert list(tables["documents"]["document"]) == ["a0", "a1", "a2", "a3"]
    assert list(tables["scores"]["query_id"]) == [0, 1, 2, 3]
    assert list(tables["scores"]["labels"])[2:] == [[1, 0], [1]]


# Datasets of all kinds.


@pytest.mark.parametrize("output_scores", [False, True])
@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_results_without_rows_have_the_same_features(output_format, output_scores):
    def features(rows):
        result = quietly(make_mined(rows), output_format, output_scores=output_scores, num_negatives=2, shortage="drop")
        tables = result.values() if isinstance(result, DatasetDict) else [result]
        return [len(table) for table in tables][-1], [table.features for table in tables]

    full, expected = features(FULL)
    assert full
    assert features([]) == (0, expected)
    half = [(*row[:2], row[2][:1], row[3]) for row in FULL]
    assert [features([*half, FULL[0]])[1]] == [expected]
    with_none = quietly(make_mined(half), output_format, output_scores=output_scores, num_negatives=1)
    assert "null" not in str(with_none)


def test_a_result_that_lost_all_rows_has_text_columns():
    skipped = make_mined([("", "a4", [], NAN)] * 3)
    for output_format in TRAINABLE_FORMATS:
        table = quietly(skipped, output_format)
        assert len(table) == 0
        assert table.features["question"] == TEXT
        assert table.features["answer"] == (TEXTS if output_format == "labeled-list" else TEXT)


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_every_split_is_formatted_alike(output_format):
    untyped = Dataset.from_dict({name: [] for name in make_mined([]).column_names})
    mined = DatasetDict(empty=untyped, train=make_mined(FULL), test=make_mined(SHORT[2:]))
    result = quietly(mined, output_format)
    if output_format != "normalized":
        assert list(result) == ["empty", "train", "test"]
        assert len({str(split.features) for split in result.values()}) == 1
        assert len(result["train"])


def test_splits_with_strings_and_lists_as_positives_train_but_are_no_one_table():
    mined = DatasetDict(train=make_mined(FULL), test=make_mined([("q", ["a5", "a6"], *FULL[0][2:])], TEXTS))
    for output_format in TRAINABLE_FORMATS:
        assert len(quietly(mined, output_format)["test"]) > 0
    for output_format in ("scored", "normalized"):
        with pytest.raises(
            ColumnError, match=f"'{output_format}', got strings in 'train' and lists in 'test'; make lists"
        ):
            quietly(mined, output_format)
    lists = mined["train"].map(lambda row: {"answer": [row["answer"]]})
    assert len(quietly(DatasetDict(train=lists, test=mined["test"]), "normalized")["scores"]) == 3


def test_formats_and_selections_of_the_input_do_not_matter():
    mined = make_mined([*FULL, *FULL])
    expected = rows_of(format_dataset(make_mined(FULL), "n-tuple"))
    chosen = mined.with_format("numpy").select([2, 1])
    result = format_dataset(chosen, "n-tuple")
    assert rows_of(result) == expected
    assert result.format["type"] is None
    assert rows_of(format_dataset(mined.with_format(None, columns=["id"]).select([0, 3]), "n-tuple")) == expected


@pytest.mark.parametrize("positive", [Value("large_string"), LargeList(Value("large_string"))])
def test_large_texts_become_plain_ones(positive):
    rows = [row if positive == Value("large_string") else (row[0], [row[1]], *row[2:]) for row in FULL]
    mined = make_mined(rows, positive)
    for output_format in TRAINABLE_FORMATS:
        plain = format_dataset(make_mined(FULL), output_format)
        assert format_dataset(mined, output_format).features == plain.features
        assert rows_of(format_dataset(mined, output_format)) == rows_of(plain)


def test_columns_can_be_named():
    mined = make_mined(FULL).map(lambda row: {"other": row["answer"].upper()})
    table = format_dataset(mined, "triplet", positive_column_name="other")
    assert table.column_names == ["question", "other", "negative"]
    assert table[0] == {"question": "q0", "other": "A0", "negative": "a1"}


def test_the_map_cache_is_hit_by_another_process(tmp_path):
    make_mined(SHORT).to_parquet(tmp_path / "mined.parquet")
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from datasets import load_dataset\n"
        "from hn_datasets.formats import format_dataset\n"
        "mined = load_dataset('parquet', data_files=sys.argv[1], split='train', cache_dir=sys.argv[2])\n"
        "print(format_dataset(mined, 'n-tuple', shortage='fill', seed=5).cache_files[0]['filename'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "mined.parquet", tmp_path / "cache"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    made = list((tmp_path / "cache").rglob("cache-*.arrow"))
    assert [str(path) for path in made] == done.stdout.split()
    mined = load_dataset(
        "parquet", data_files=str(tmp_path / "mined.parquet"), split="train", cache_dir=tmp_path / "cache"
    )
    with pytest.warns(ShortRowsWarning):
        format_dataset(mined, "n-tuple", shortage="fill", seed=5)
    assert list((tmp_path / "cache").rglob("cache-*.arrow")) == made


# Errors.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"output_format": "tuples"}, ArgumentError, "Unknown output_format 'tuples'; choose one of triplet, n-tuple"),
        ({"shortage": "pad"}, ArgumentError, "Unknown shortage 'pad'; choose one of keep, drop, fill"),
        ({"output_format": "n-tuple", "shortage": "keep"}, ArgumentError, "use shortage='drop' or shortage='fill'"),
        ({"shortage": "fill", "output_scores": True}, ArgumentError, "use shortage='drop' or output_scores=False"),
        ({"num_negatives": 0}, ArgumentError, "num_negatives >= 1, got 0"),
        ({"num_negatives": 3}, ArgumentError, "at most 2, which the longest row has, got 3"),
        ({"anchor_column_name": "query"}, ColumnError, "'query', the dataset has the columns id .*question.*answer"),
        ({"positive_column_name": "negatives"}, ColumnError, "'negatives', the dataset has the columns"),
        ({"positive_column_name": "id"}, ColumnError, "strings or lists of strings in column 'id'"),
        ({"positive_column_name": "question", "anchor_column_name": "question"}, ColumnError, "two different columns"),
    ],
)
def test_wrong_arguments_say_what_to_do(arguments, error, message):
    with pytest.raises(error, match=message):
        format_dataset(make_mined(FULL), **{"output_format": "triplet", **arguments})


def test_more_negatives_than_there_are_can_be_filled():
    rows = [*FULL, ("q2", "a8", [], 0.5), ("q3", "a9", [], 0.5)]
    table = quietly(make_mined(rows), "n-tuple", num_negatives=3, shortage="fill")
    assert table["negative_3"][0] in {"a8", "a9"}
    assert {row[4] for row in rows_of(table)} <= {"a0", "a1", "a8", "a9"}
    assert sorted(table[2].values()) == ["a0", "a1", "a8", "a9", "q2"]


def test_what_was_not_mined_is_refused():
    with pytest.raises(ColumnError, match="no column negative_ids, positive_score; mine it first"):
        format_dataset(make_mined(FULL).remove_columns(["negative_ids", "positive_score"]), "triplet")
    with pytest.raises(ArgumentError, match="got IterableDataset; write its rows to a Dataset"):
        format_dataset(make_mined(FULL).to_iterable_dataset(), "triplet")
    with pytest.raises(ArgumentError, match="got list"):
        format_dataset([], "triplet")


@pytest.mark.parametrize("name", ["label", "scores", "negative", "negative_1"])
def test_a_column_that_would_be_mistaken_is_refused(name):
    mined = make_mined(FULL).rename_column("answer", name)
    with pytest.raises(ColumnError, match=f"another name than '{name}'"):
        format_dataset(mined, "n-tuple")
    assert quietly(mined, "scored").column_names[:2] == ["question", name]
