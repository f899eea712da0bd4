"""The miner against brute force, for every method and kind of teacher, and what must not change a result."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from rank_bm25 import BM25Okapi

from hn_datasets import (
    BM25Teacher,
    EmbeddingStore,
    HardNegativeMiner,
    PrecomputedTeacher,
    RandomNegatives,
    TopK,
    TopKAbs,
    TopKMarginPos,
    TopKPercPos,
    TopKShifted,
    mine_negatives,
)
from hn_datasets.errors import (
    ArgumentError,
    ColumnError,
    ReplacedColumnsWarning,
    ShortRowsWarning,
    TeacherError,
    TextError,
    WeakTeacherWarning,
)
from tests import oracle

METHODS = [TopK(), TopKShifted(3), TopKAbs(0.2), TopKMarginPos(0.1), TopKPercPos(0.95), TopKPercPos(0.5)]
EXTRA = ["PASSAGE 3", "passage  4", "question 5", "ｐａｓｓａｇｅ 6"] + [f"extra {number}" for number in range(30)]


def setting_of(method):
    return getattr(method, method.setting) if method.setting else None


@pytest.fixture(scope="module")
def rows():
    """120 rows: repeated anchors, lists of positives, positives shared by several anchors."""
    rng = np.random.default_rng(7)
    return [
        (f"question {rng.integers(0, 90)}", [f"passage {n}" for n in rng.choice(60, rng.integers(1, 4), replace=False)])
        for _ in range(120)
    ]


def as_dataset(rows):
    return Dataset.from_dict(
        {"n": list(range(len(rows))), "query": [anchor for anchor, _ in rows], "answers": [list(p) for _, p in rows]}
    )


def vectors_of(texts, similarity, dimension=6):
    """Random vectors, among them equal ones (ties) and opposite ones (negative scores)."""
    rng = np.random.default_rng(len(texts))
    vectors = rng.standard_normal((len(texts), dimension))
    vectors[1::9] = vectors[0]
    vectors[2::9] = -vectors[-1]
    if similarity == "cosine":
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return np.round(vectors * 2).astype(np.float32) / 2  # coarse values: many exactly equal scores


def look_up(rows, extra, similarity="cosine"):
    """A teacher with ready vectors, and the score that brute force uses."""
    anchors = sorted({anchor for anchor, _ in rows})
    passages = sorted({text for _, positives in rows for text in positives} | set(extra))
    tables = [dict(zip(t, vectors_of(t, similarity), strict=True)) for t in (anchors, passages)]
    teacher = PrecomputedTeacher(
        (anchors, np.stack(list(tables[0].values()))),
        (passages, np.stack(list(tables[1].values()))),
        similarity=similarity,
    )
    score = lambda anchor, text: np.float32(tables[0][anchor].astype(np.float64) @ tables[1][text].astype(np.float64))  # noqa: E731
    return teacher, score


def build(rows, teacher, tmp_path, extra=EXTRA, **choices):
    return HardNegativeMiner.from_dataset(as_dataset(rows), teacher=teacher, corpus=extra, store=tmp_path, **choices)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_ready_vectors_equal_brute_force(rows, tmp_path, method, similarity):
    teacher, score = look_up(rows, EXTRA, similarity)
    mined = as_dataset(rows).map(build(rows, teacher, tmp_path, method=method), batched=True)
    oracle.assert_same(mined, oracle.mine(rows, EXTRA, score, (method.name, setting_of(method)), 4))


@pytest.mark.filterwarnings("ignore::hn_datasets.errors.WeakTeacherWarning")
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_bm25_equals_brute_force(tmp_path, method):
    rng = np.random.default_rng(1)
    text = lambda length: " ".join(f"w{n}" for n in rng.zipf(1.4, length) % 80)  # noqa: E731
    rows = [(text(4) + f" q{n % 50}", [text(12)]) for n in range(60)]
    extra = [text(9) for _ in range(60)]
    corpus = oracle.canonical([positives[0] for _, positives in rows] + extra)
    index = BM25Okapi([passage.split() for passage in corpus])
    ids = {passage: number for number, passage in enumerate(corpus)}
    cached = {anchor: index.get_scores(anchor.split()) for anchor, _ in rows}
    score = lambda anchor, passage: np.float32(cached[anchor][ids[passage]])  # noqa: E731
    mined = as_dataset(rows).map(build(rows, BM25Teacher(), tmp_path, extra, method=method), batched=True)
    expected = oracle.mine(rows, extra, score, (method.name, setting_of(method)), 4)
    assert mined["negatives"] == [row["negatives"] for row in expected]
    np.testing.assert_allclose(mined["positive_score"], [row["positive_score"] for row in expected], rtol=1e-6)
    np.testing.assert_allclose(
        np.concatenate(mined["negative_scores"][:]),
        np.concatenate([row["negative_scores"] for row in expected]),
        rtol=1e-6,
    )


def test_random_negatives_are_distinct_allowed_and_scored(rows, tmp_path):
    teacher, score = look_up(rows, EXTRA)
    miner = build(rows, teacher, tmp_path, method=RandomNegatives(), num_negatives=5)
    mined = as_dataset(rows).map(miner, batched=True)
    naive = oracle.mine(rows, EXTRA, score, ("topk", None), 1000)
    for row, allowed in zip(mined, naive, strict=True):
        assert len(set(row["negative_ids"])) == 5
        assert set(row["negative_ids"]) <= set(allowed["negative_ids"])
        assert row["negative_scores"] == sorted((score(row["query"], text) for text in row["negatives"]), reverse=True)
        assert row["top_score"] == np.float32(allowed["top_score"])
    other = as_dataset(rows).map(build(rows, teacher, tmp_path, method=RandomNegatives(), seed=1), batched=True)
    assert other["negative_ids"] != mined["negative_ids"]


@pytest.mark.parametrize("sampling", ["random", "softmax", "top1+softmax"])
def test_sampled_negatives_come_from_the_pool_below_the_ceiling(rows, tmp_path, sampling):
    teacher, score = look_up(rows, EXTRA)
    miner = build(rows, teacher, tmp_path, sampling=sampling, pool=12, num_negatives=3)
    mined = as_dataset(rows).map(miner, batched=True)
    pools = oracle.mine(rows, EXTRA, score, ("topk-percpos", 0.95), 12)
    for row, pool in zip(mined, pools, strict=True):
        assert set(row["negative_ids"]) <= set(pool["negative_ids"])
        assert len(row["negative_ids"]) == min(3, len(pool["negative_ids"]))
        assert row["negative_scores"] == sorted(row["negative_scores"], reverse=True)
    assert any(row["negative_ids"] != pool["negative_ids"][:3] for row, pool in zip(mined, pools, strict=True))


def test_no_positive_of_any_row_is_ever_a_negative_of_its_anchor(rows, tmp_path):
    teacher, _ = look_up(rows, EXTRA)
    mined = as_dataset(rows).map(build(rows, teacher, tmp_path, method=TopK(), num_negatives=20), batched=True)
    known = {}
    for anchor, positives in rows:
        known.setdefault(anchor, set()).update(map(oracle.folded, positives))
    for row in mined:
        assert not {oracle.folded(text) for text in row["negatives"]} & (known[row["query"]] | {row["query"]})


def same_results(one, other):
    columns = ["negatives", "negative_ids", "negative_scores", "positive_score", "ceiling", "top_score"]
    return all(one.select_columns(columns)[:][name] == other.select_columns(columns)[:][name] for name in columns)


@pytest.mark.parametrize("choices", [{}, {"sampling": "softmax"}, {"method": RandomNegatives()}], ids=repr)
def test_results_do_not_depend_on_batches_processes_or_order(rows, tmp_path, choices):
    teacher, _ = look_up(rows, EXTRA)
    dataset = as_dataset(rows)
    miner = build(rows, teacher, tmp_path, **choices)
    reference = dataset.map(miner, batched=True)
    for arguments in ({"batch_size": 1}, {"batch_size": 7}, {"batch_size": None}, {"num_proc": 2, "batch_size": 7}):
        assert same_results(dataset.map(miner, batched=True, load_from_cache_file=False, **arguments), reference)
    shuffled = [rows[number] for number in np.random.default_rng(0).permutation(len(rows))]
    again = build(shuffled, teacher, tmp_path / "other", EXTRA[::-1], **choices)
    assert same_results(dataset.map(again, batched=True), reference)
    assert again.corpus.digest == miner.corpus.digest


def test_a_store_filled_in_two_runs_gives_the_same_result(rows, tmp_path):
    teacher, _ = look_up(rows, EXTRA)
    HardNegativeMiner.from_dataset(as_dataset(rows[:30]), teacher=teacher, store=tmp_path / "two")
    mined = as_dataset(rows).map(build(rows, teacher, tmp_path / "two"), batched=True)
    assert same_results(mined, as_dataset(rows).map(build(rows, teacher, tmp_path / "one"), batched=True))


def test_rows_columns_and_order_stay(rows, tmp_path):
    teacher, _ = look_up(rows, EXTRA)
    dataset = as_dataset(rows)
    miner = build(rows, teacher, tmp_path)
    mined = dataset.map(miner, batched=True)
    assert mined.column_names[:3] == dataset.column_names
    assert mined.select_columns(dataset.column_names)[:] == dataset[:]
    assert mined.features == miner.features(dataset.features)
    assert mined.features["negatives"] == List(Value("string"))
    assert [miner.corpus[number] for number in mined[0]["negative_ids"]] == mined[0]["negatives"]


def test_columns_that_would_be_lost_are_named_once(rows, tmp_path):
    teacher, _ = look_up(rows, EXTRA)
    labelled = as_dataset(rows).add_column("negatives", ["mine"] * len(rows)).add_column("ceiling", [1] * len(rows))

    def build_for(dataset):
        return HardNegativeMiner.from_dataset(dataset, teacher=teacher, corpus=EXTRA, store=tmp_path)

    with pytest.warns(ReplacedColumnsWarning, match=r"negatives, ceiling, which .* would lose; rename them") as caught:
        build_for(DatasetDict({"train": labelled, "test": labelled}))
    assert [Path(warning.filename) for warning in caught] == [Path(__file__)]
    mined = as_dataset(rows).map(build_for(as_dataset(rows)), batched=True)
    assert same_results(mined, mined.map(build_for(mined), batched=True))  # mined again, without a warning


def test_a_first_batch_without_negatives_keeps_its_type(tmp_path):
    rows = [("q", ["only"]), ("r", ["b"]), ("s", ["c"])]
    teacher, _ = look_up(rows, ["d", "e", "f"])
    miner = build(rows, teacher, tmp_path, ["d", "e", "f"], method=TopKAbs(-0.999999))
    dataset = as_dataset(rows)
    for mined in (dataset.map(miner, batched=True, batch_size=1), dataset.map(miner, batched=True)):
        assert mined.features == miner.features(dataset.features)
        assert mined["negatives"][:] == [[], [], []]


def test_every_split_of_a_dataset_dict_is_mined_from_one_corpus(rows, tmp_path):
    teacher, score = look_up(rows, [])
    splits = DatasetDict({"train": as_dataset(rows[:80]), "test": as_dataset(rows[80:])})
    miner = HardNegativeMiner.from_dataset(splits, teacher=teacher, store=tmp_path)
    mined = splits.map(miner, batched=True)
    expected = oracle.mine(rows, [], score, ("topk-percpos", 0.95), 4)
    oracle.assert_same(mined["train"], expected[:80])
    oracle.assert_same(mined["test"], expected[80:])


def test_a_stream_is_mined_as_it_comes(rows, tmp_path):
    teacher, score = look_up(rows, EXTRA)
    single = list({anchor: (anchor, positives) for anchor, positives in rows}.values())
    corpus = [text for _, positives in single for text in positives] + EXTRA
    miner = HardNegativeMiner.from_corpus(
        corpus, teacher=teacher, anchor_column_name="query", positive_column_name="answers", store=tmp_path
    )
    stream = as_dataset(single).to_iterable_dataset(num_shards=2)
    mined = list(stream.map(miner, batched=True, batch_size=13))
    expected = oracle.mine(single, EXTRA, score, ("topk-percpos", 0.95), 4)
    oracle.assert_same({name: [row[name] for row in mined] for name in mined[0]}, expected)
    finite = HardNegativeMiner.from_dataset(stream, teacher=teacher, corpus=EXTRA, store=tmp_path)
    assert finite.corpus.digest == miner.corpus.digest
    typed = stream.map(miner, batched=True, features=miner.features(stream.features))
    assert list(next(iter(typed))["negative_ids"]) == expected[0]["negative_ids"]


def test_a_positive_outside_the_corpus_is_scored(rows, tmp_path):
    teacher, score = look_up(rows, EXTRA)
    miner = HardNegativeMiner.from_corpus(EXTRA, teacher=teacher, store=tmp_path, num_negatives=2)
    anchor, positives = rows[0]
    out = miner({"anchor": [anchor], "positive": [positives[0]]})
    assert out["positive_score"][0] == score(anchor, positives[0])
    assert set(out["negatives"][0]) <= set(EXTRA)


def test_skipped_rows_have_nan_and_no_negatives(rows, tmp_path):
    teacher, score = look_up(rows, EXTRA)
    broken = [
        *rows[:3],
        (None, ["passage 1"]),
        (" ", ["passage 1"]),
        ("question 1", []),
        ("question 1", [""]),
        *rows[3:],
    ]
    dataset = Dataset.from_dict({"query": [row[0] for row in broken], "answers": [row[1] for row in broken]})
    miner = HardNegativeMiner.from_dataset(dataset, teacher=teacher, corpus=EXTRA, on_empty="skip", store=tmp_path)
    mined = dataset.map(miner, batched=True, batch_size=5)
    assert mined["negatives"][3:7] == [[]] * 4
    assert np.isnan(mined["positive_score"][3:7]).all()
    kept = mined.select([*range(3), *range(7, len(mined))])
    oracle.assert_same(kept, oracle.mine(rows, EXTRA, score, ("topk-percpos", 0.95), 4))


def test_empty_texts_are_refused_with_their_rows(rows, tmp_path):
    teacher, _ = look_up(rows, EXTRA)
    dataset = Dataset.from_dict({"query": ["a", None, "c"], "answer": ["x", "y", "\t"]})
    with pytest.raises(TextError, match=r"2 rows \(1, 2\).*on_empty='skip'"):
        HardNegativeMiner.from_dataset(dataset, teacher=teacher, store=tmp_path)
    with pytest.raises(TextError, match=r"corpus.*1 rows \(1\)"):
        build(rows, teacher, tmp_path, ["extra 1", ""])


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"anchor_column_name": "qeury"}, ColumnError, r"'qeury'.*n \(int64\), query \(string\)"),
        ({"anchor_column_name": "n"}, ColumnError, "Expected strings in column 'n', got int64"),
        ({"anchor_column_name": "query", "positive_column_name": "query"}, ColumnError, "two different columns"),
        ({"num_negatives": 0}, ArgumentError, "num_negatives of at least 1"),
        ({"pool": 9}, ArgumentError, "pool has no effect"),
        ({"query_prompt": "query: "}, ArgumentError, "query_prompt has no effect"),
        ({"corpus_column_name": "text"}, ArgumentError, "corpus_column_name has no effect"),
        ({"teacher": 3}, ArgumentError, "Expected a teacher"),
        ({"teacher": "no/such-model"}, TeacherError, "HF_HUB_OFFLINE"),
        ({"teacher": "bm25", "corpus_prompt": "x: "}, ArgumentError, "no effect on BM25"),
    ],
)
def test_bad_input_is_one_clear_error_before_any_encoding(rows, tmp_path, choices, error, message):
    teacher, _ = look_up(rows, [])
    with pytest.raises(error, match=message) as raised:
        HardNegativeMiner.from_dataset(as_dataset(rows), **{"teacher": teacher, "store": tmp_path, **choices})
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "embeddings").exists()


def test_a_text_without_a_vector_is_named(rows, tmp_path):
    teacher, _ = look_up(rows, [])
    with pytest.raises(TeacherError, match=r"passages have none, first '.*add them to `passages`"):
        build(rows, teacher, tmp_path)


def test_a_batch_without_the_columns_is_refused(rows, tmp_path):
    teacher, _ = look_up(rows, EXTRA)
    miner = build(rows, teacher, tmp_path)
    with pytest.raises(ColumnError, match=r"'query', the batch has question; name it by anchor_column_name=\.\.\."):
        miner({"question": ["a"]})
    with pytest.raises(ColumnError, match=r"'answers', the batch has query; name it by positive_column_name=\.\.\."):
        miner({"query": ["a"]})
    with pytest.raises(ColumnError, match="Expected strings"):
        miner({"query": [{"a": 1}], "answers": ["b"]})


def test_bm25_as_the_only_teacher_warns_once(rows, tmp_path):
    with pytest.warns(WeakTeacherWarning, match=r"0\.5002") as caught:
        miner = build(rows, "bm25", tmp_path)
        as_dataset(rows).map(miner, batched=True)
    assert len(caught) == 1


@pytest.mark.parametrize("form", [None, "numpy", "arrow", "pandas"])
@pytest.mark.filterwarnings("ignore::hn_datasets.errors.WeakTeacherWarning")
def test_rows_of_every_format_are_mined(rows, tmp_path, form):
    teacher, _ = look_up(rows, EXTRA)
    miner = build(rows, teacher, tmp_path)
    plain = as_dataset(rows)
    for mine, options in ((miner, {}), (mine_negatives, {"teacher": "bm25"})):
        expected = plain.map(mine, batched=True, fn_kwargs=options)
        mined = plain.with_format(form).map(mine, batched=True, fn_kwargs=options).with_format(None)
        assert mined[:] == expected[:]
        if form != "pandas":  # whose strings are large ones
            assert mined.features == expected.features
    if form in ("arrow", "pandas"):  # one row is a table too
        one_by_one = plain.with_format(form).map(miner).with_format(None)
        assert one_by_one[:] == plain.map(miner, batched=True)[:]


@pytest.mark.parametrize("form", [None, "numpy"])
def test_one_row_in_the_place_of_a_batch_is_refused(rows, tmp_path, form):
    teacher, _ = look_up(rows, EXTRA)
    for mine in (build(rows, teacher, tmp_path), mine_negatives):
        with pytest.raises(ColumnError, match=r"got one row; call map\(\.\.\., batched=True\)"):
            as_dataset(rows).with_format(form).map(mine)


@pytest.mark.filterwarnings("ignore::hn_datasets.errors.WeakTeacherWarning")
def test_the_function_form_mines_within_the_batch(rows):
    dataset = as_dataset(rows).select_columns(["query", "answers"])
    whole = dataset.map(
        mine_negatives, batched=True, batch_size=None, fn_kwargs={"teacher": "bm25", "num_negatives": 2}
    )
    miner = HardNegativeMiner.from_dataset(dataset, teacher="bm25", num_negatives=2)
    assert same_results(whole, dataset.map(miner, batched=True))
    halves = dataset.map(mine_negatives, batched=True, batch_size=60, fn_kwargs={"teacher": "bm25", "num_negatives": 2})
    with pytest.warns(ShortRowsWarning, match=r"take larger batches, map\(\.\.\., batch_size=None\)"):
        dataset.select(range(3)).map(mine_negatives, batched=True, fn_kwargs={"teacher": "bm25", "num_negatives": 9})
    own = {text for row in dataset.select(range(60)) for text in row["answers"]}
    assert all(set(negatives) <= own for negatives in halves["negatives"][:60])


def test_features_of_texts_other_than_string(tmp_path):
    rows = [("q", ["a"]), ("r", ["b"])]
    teacher, _ = look_up(rows, ["c", "d"])
    features = Features({"query": Value("large_string"), "answers": List(Value("large_string"))})
    dataset = Dataset.from_dict({"query": ["q", "r"], "answers": [["a"], ["b"]]}, features=features)
    assert pa.types.is_large_string(dataset.features.arrow_schema.field("query").type)
    with pytest.warns(ShortRowsWarning, match="4 distinct passages"):
        miner = HardNegativeMiner.from_dataset(dataset, teacher=teacher, corpus=["c", "d"], store=tmp_path)
    assert len(dataset.map(miner, batched=True)) == 2


def test_the_store_argument_may_be_a_store(rows, tmp_path):
    teacher, _ = look_up(rows, EXTRA)
    store = EmbeddingStore(tmp_path)
    assert build(rows, teacher, store).store is store
