"""SameGroup and HeldOut against brute force: what they take out, that rows stay full, and what they refuse."""

import datetime
import unicodedata
import warnings

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict, Value
from oracle import canonical

from hn_datasets import (
    EmbeddingStore,
    HardNegativeMiner,
    HeldOut,
    PrecomputedTeacher,
    RandomNegatives,
    Recipe,
    SameGroup,
    SimilarToPositive,
    TopK,
    TopKPercPos,
)
from hn_datasets.errors import ArgumentError, ColumnError, HNDatasetsError
from hn_datasets.guards import guard_from_dict

NUM_ROWS, NUM_PASSAGES, NUM_NEGATIVES = 50, 160, 4
TITLES = [f"Title {number}" for number in range(12)]
DAYS = [datetime.date(2024, 1, 1) + datetime.timedelta(days=number) for number in range(9)]


@pytest.fixture(scope="module")
def world():
    """Rows whose anchors and positives repeat, in groups by title and day, and a corpus with titles of its own."""
    rng = np.random.default_rng(1)
    texts = [f"Passage {number}" for number in range(NUM_PASSAGES)]
    rows = []
    for number in range(NUM_ROWS):
        own = rng.choice(NUM_PASSAGES // 2, rng.integers(1, 3), replace=False).tolist()
        title = TITLES[own[0] % len(TITLES)] if number % 7 else None
        anchor = f"anchor {number if number % 5 else 0}"
        positives = [texts[place] for place in own]
        rows.append({"anchor": anchor, "positive": positives, "title": title, "day": DAYS[int(rng.integers(9))]})
    corpus = [
        {"text": text, "title": TITLES[int(rng.integers(12))] if place % 4 else None, "day": DAYS[place % 9]}
        for place, text in enumerate(texts)
    ]
    vectors = rng.standard_normal((NUM_ROWS + NUM_PASSAGES, 8)) + 0.5
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    anchors = {f"anchor {number}": vectors[number] for number in range(NUM_ROWS)}
    return rows, corpus, anchors, dict(zip(texts, vectors[NUM_ROWS:], strict=True))


@pytest.fixture
def build(world, tmp_path):
    """Make the miner of the rows."""
    rows, corpus, anchors, passages = world

    def call(dataset=None, *, stream=False, **arguments):
        teacher = PrecomputedTeacher(
            (list(anchors), np.stack(list(anchors.values()))), (list(passages), np.stack(list(passages.values())))
        )
        arguments = {"teacher": teacher, "num_negatives": NUM_NEGATIVES, "store": tmp_path, **arguments}
        further = arguments.pop("corpus", Dataset.from_list(corpus))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if stream:
                return HardNegativeMiner.from_corpus(further, corpus_column_name="text", **arguments)
            if further is not None:
                arguments |= {"corpus": further, "corpus_column_name": "text"}
            return HardNegativeMiner.from_dataset(dataset or Dataset.from_list(rows), **arguments)

    return call


def groups_of_passages(rows, corpus, column):
    groups = {entry["text"]: set() for entry in corpus}
    for row in rows:
        for text in row["positive"]:
            groups[text].add(row[column])
    for entry in corpus:
        groups[entry["text"]].add(entry[column])
    return {text: {str(group) for group in found if group is not None} for text, found in groups.items()}


def brute_force(world, columns=("title",), *, method=None, taken=(), known_rows=None):
    """For each row its negatives, and how many each column takes out of the negatives without guards."""
    rows, corpus, anchors, passages = world
    groups = {column: groups_of_passages(rows if known_rows is None else known_rows, corpus, column)
              for column in columns}  # fmt: skip
    expected = []
    for row in rows:
        known = {text for other in rows if other["anchor"] == row["anchor"] for text in other["positive"]}
        known = known if known_rows is None else set(row["positive"])
        vector = anchors[row["anchor"]].astype(np.float64)
        scores = {text: np.float32(vector @ passages[text].astype(np.float64)) for text in canonical(passages)}
        ceiling = (method or TopK()).ceiling(np.array([min(scores[text] for text in known)]))[0]
        below = sorted((text for text in scores if text not in known and scores[text] < ceiling),
                       key=lambda text: -scores[text])  # fmt: skip
        counts, allowed = [], below
        for column in columns:
            out = {str(row[column])} if row[column] is not None else set()
            out = out.union(*(groups[column][text] for text in known))
            counts.append(sum(bool(groups[column][text] & out) for text in below[:NUM_NEGATIVES]))
            allowed = [text for text in allowed if not groups[column][text] & out]
        expected.append(([text for text in allowed if text not in taken][:NUM_NEGATIVES], counts))
    return expected


def assert_mined(mined, expected):
    assert mined["negatives"] == [negatives for negatives, _ in expected]
    assert mined["guard_removals"] == [counts for _, counts in expected]


@pytest.mark.parametrize("method", [TopK(), TopKPercPos(0.9)])
def test_no_passage_of_the_same_group(world, build, method):
    mined = Dataset.from_list(world[0]).map(build(guards=(SameGroup("title"),), method=method), batched=True)
    expected = brute_force(world, method=method)
    assert_mined(mined, expected)
    assert sum(sum(counts) for _, counts in expected) > NUM_ROWS / 5
    assert expected != brute_force(world, (), method=method)


def test_groups_of_two_columns_one_of_them_dates(world, build):
    mined = Dataset.from_list(world[0]).map(
        build(guards=(SameGroup("day"), SameGroup("title")), method=TopK()), batched=True, batch_size=7
    )
    assert_mined(mined, brute_force(world, ("day", "title")))


def test_only_rows_know_groups_where_the_corpus_has_none(world, build):
    rows, corpus, *_ = world
    bare = [{**entry, "title": None} for entry in corpus]
    expected = brute_force((rows, bare, *world[2:]))
    for further in (bare, [{"text": entry["text"]} for entry in corpus]):
        miner_ = build(guards=(SameGroup("title"),), method=TopK(), corpus=Dataset.from_list(further))
        assert_mined(Dataset.from_list(rows).map(miner_, batched=True), expected)


def test_whole_numbers_name_the_same_group_in_columns_of_integers_and_of_floats(world, build):
    """As pandas has it, which makes integers floats where one is missing."""
    rows, corpus, *_ = world
    rows, corpus = ([{**row, "title": row["title"] and TITLES.index(row["title"])} for row in rows_]
                    for rows_ in (rows, corpus))  # fmt: skip
    floats = Dataset.from_pandas(pd.DataFrame(rows))
    assert floats.features["title"] == Value("float64")
    further = Dataset.from_list(corpus)
    assert further.features["title"] == Value("int64")
    made = build(floats, guards=(SameGroup("title"),), method=TopK(), corpus=further)
    assert_mined(floats.map(made, batched=True), brute_force((rows, corpus, *world[2:])))


def test_groups_depend_neither_on_processes_nor_on_blocks(world, build, monkeypatch):
    dataset = Dataset.from_list(world[0])
    made = build(guards=(SameGroup("title"),), method=TopK())
    expected = brute_force(world)
    assert_mined(dataset.map(made, batched=True, num_proc=2, batch_size=9), expected)
    monkeypatch.setattr("hn_datasets.row_mining.BLOCK_EXCLUDED", 100)
    assert 1 <= made._block_rows < 10
    assert_mined(dataset.map(made, batched=True, load_from_cache_file=False), expected)


def test_every_passage_of_the_corpus_has_its_groups_as_a_positive(world, build):
    """Whichever id it has: here each of four passages is the positive once, and its group is the corpus's."""
    texts = [f"Passage {number}" for number in range(4)]
    further = Dataset.from_list([{"text": text, "title": f"Title {place % 2}"} for place, text in enumerate(texts)])
    for place, text in enumerate(texts):
        row = Dataset.from_list([{"anchor": "anchor 1", "positive": text, "title": None}])
        made = build(row, corpus=further, guards=(SameGroup("title"),), method=TopK())
        mined = row.cast_column("title", Value("string")).map(made, batched=True)
        assert sorted(mined[0]["negatives"]) == [other for other in texts if other not in (text, texts[place - 2])]


def test_groups_of_all_splits_count(world, build):
    splits = DatasetDict(a=Dataset.from_list(world[0][:20]), b=Dataset.from_list(world[0][20:]))
    mined = splits.map(build(splits, guards=(SameGroup("title"),), method=TopK()), batched=True)
    expected = brute_force(world)
    assert_mined(mined["a"], expected[:20])
    assert_mined(mined["b"], expected[20:])


def test_groups_of_a_stream_come_from_the_corpus(world, build):
    stream = Dataset.from_list(world[0]).to_iterable_dataset()
    mined = list(stream.map(build(stream=True, guards=(SameGroup("title"),), method=TopK()), batched=True))
    expected = brute_force(world, known_rows=[])
    assert [(row["negatives"], row["guard_removals"]) for row in mined] == expected


def test_a_stream_can_be_the_dataset(world, build):
    stream = Dataset.from_list(world[0]).to_iterable_dataset()
    made = build(stream, guards=(SameGroup("title"),), method=TopK())
    assert_mined(Dataset.from_list(world[0]).map(made, batched=True), brute_force(world))


def test_other_groups_give_another_fingerprint(world, build):
    same, other = (Dataset.from_list([{**row, "title": row["title"] and row["title"] + mark} for row in world[0]])
                   for mark in ("", " again"))  # fmt: skip
    states = [build(dataset, guards=(SameGroup("title"),)).__getstate__() for dataset in (same, same, other)]
    assert states[0] == states[1] != states[2]


def fold(text):
    once = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", once).split())


def test_held_out_texts_are_no_negatives(world, build):
    rows, _, _, passages = world
    texts = [f"  PASSAGE  {number}" for number in range(1, NUM_PASSAGES, 3)] + ["no passage at all"]
    guard = HeldOut(texts)
    assert (guard.num_texts, guard.to_dict()["num_texts"]) == (len(texts), len(texts))
    mined = Dataset.from_list(rows).map(build(guards=(guard,), method=TopK()), batched=True)
    folded = {fold(text) for text in texts}
    out = {text for text in passages if fold(text) in folded}
    expected, plain = brute_force(world, (), taken=out), brute_force(world, ())
    assert mined["negatives"] == [negatives for negatives, _ in expected]
    assert mined["guard_removals"] == [[len(out & set(negatives))] for negatives, _ in plain]
    assert sum(map(sum, mined["guard_removals"])) > NUM_ROWS / 2


def test_texts_of_a_dataset_are_held_out(world, build):
    texts = [f"passage {number}" for number in range(40)]
    queries = Dataset.from_dict({"query": texts[:10], "number": list(range(10))})
    answers = Dataset.from_dict({"query": [None, "x", "y"], "passages": [texts[10:30], [], texts[30:]]})
    whole = HeldOut(DatasetDict(test=queries, dev=answers))
    assert whole == HeldOut([*texts, "x", "y"]) != HeldOut(texts)
    assert HeldOut(answers, columns="passages") == HeldOut(texts[10:])
    assert HeldOut(queries.to_iterable_dataset(), columns=["query"]) == HeldOut(texts[:10])


def test_a_recipe_finds_its_held_out_texts_in_the_store(world, build, tmp_path):
    texts = [f"Passage {number}" for number in range(0, NUM_PASSAGES, 2)]
    made = build(guards=(HeldOut(texts),), method=TopK())
    recipe = Recipe.from_json(made.recipe.to_json())
    again = [guard_from_dict(guard) for guard in recipe.guards]
    rows = Dataset.from_list(world[0])
    assert (
        rows.map(build(guards=again, method=TopK()), batched=True)["negatives"]
        == (rows.map(made, batched=True, num_proc=2)["negatives"])
    )
    assert not any("Passage" in text for text in made.__getstate__().values())
    EmbeddingStore(tmp_path).prune(unused_days=0)
    with pytest.raises(ArgumentError, match=r"Expected the 80 held-out texts of the recipe in the store"):
        build(guards=again)


def test_drawn_negatives_keep_to_the_rules(world, build):
    rows, corpus, *_ = world
    out = [f"passage {number}" for number in range(0, NUM_PASSAGES, 3)]
    made = build(guards=(SameGroup("title"), HeldOut(out)), method=RandomNegatives(), seed=3)
    mined = Dataset.from_list(rows).map(made, batched=True)
    groups = groups_of_passages(rows, corpus, "title")
    for row in mined:
        known = {text for other in rows if other["anchor"] == row["anchor"] for text in other["positive"]}
        banned = {str(row["title"])}.union(*(groups[text] for text in known)) - {"None"}
        assert len(row["negatives"]) == NUM_NEGATIVES
        for text in row["negatives"]:
            assert not groups[text] & banned
            assert text.lower() not in out
    drawn = Dataset.from_list(rows).map(build(method=RandomNegatives(), seed=3), batched=True)
    counts = np.array(mined["guard_removals"])
    assert counts[:, 1].tolist() == [sum(text.lower() in out for text in negatives) for negatives in drawn["negatives"]]


@pytest.mark.parametrize(
    ("guards", "error", "message"),
    [
        (
            (SameGroup("ticker"),),
            ColumnError,
            r"a column 'ticker', for SameGroup, the dataset has the columns anchor .*; name one of them",
        ),
        ((SameGroup("positive"),), ColumnError, "strings, numbers or dates in column 'positive'"),
        ((SameGroup("nothing"),), ColumnError, "Expected values in column 'nothing'"),
        ((SameGroup("title"), SameGroup("title")), ArgumentError, "one guard of each kind"),
        ((HeldOut([f"passage {number}" for number in range(NUM_PASSAGES)]),), ArgumentError, "160 that all are"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_encoded(world, build, tmp_path, guards, error, message):
    rows = Dataset.from_list([{**row, "nothing": None} for row in world[0]])
    with pytest.raises(error, match=message) as caught:
        build(rows, guards=guards)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "embeddings").exists()


def test_a_stream_needs_groups_in_its_corpus(world, build):
    with pytest.raises(ColumnError, match="the dataset has the columns text"):
        build(stream=True, corpus=Dataset.from_dict({"text": ["a"]}), guards=(SameGroup("title"),))
    with pytest.raises(ColumnError, match="got strings alone"):
        HardNegativeMiner.from_corpus(["a"], teacher="bm25", guards=(SameGroup("title"),))
    made = build(stream=True, guards=(SameGroup("title"),))
    with pytest.raises(ColumnError, match="Expected a column 'title', the batch has anchor, positive"):
        made({"anchor": ["anchor 1"], "positive": ["Passage 1"]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SameGroup(""), "name of a column"),
        (lambda: HeldOut([]), "at least one text"),
        (lambda: HeldOut("a text"), "strings or a dataset"),
        (lambda: HeldOut(["a", None]), "needs strings"),
        (lambda: HeldOut(["a"], columns=["text"]), "no effect on a list"),
        (lambda: HeldOut(Dataset.from_dict({"a": ["x"]}), columns=["b"]), "strings or lists of strings in 'b'"),
        (lambda: HeldOut(Dataset.from_dict({"a": [1]})), "the dataset has the columns a"),
        (lambda: guard_from_dict({"name": "held-out", "num_texts": 3}), "Unknown setting of the guard 'held-out'"),
        (lambda: guard_from_dict({"name": "same-group", "col": "x"}), "Unknown setting of the guard 'same-group'"),
    ],
)
def test_settings_that_are_refused(make, message):
    with pytest.raises(HNDatasetsError, match=message):
        make()


def test_several_sets_can_be_held_out(world, build):
    out = ([f"passage {number}" for number in range(40)], [f"passage {number}" for number in range(40, 80)])
    made = build(guards=(*map(HeldOut, out), SimilarToPositive(1.0)), method=TopK())
    mined = Dataset.from_list(world[0]).map(made, batched=True)
    assert not {text.lower() for row in mined["negatives"] for text in row} & {*out[0], *out[1]}
    assert np.array(mined["guard_removals"])[:, :2].any(axis=0).all()
