"""Ensembles against brute force in every mode, and what must not change or break them."""

import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, List, Value
from rank_bm25 import BM25Okapi

from hn_datasets import (
    BM25Teacher,
    DenseTeacher,
    EnsembleTeacher,
    HardNegativeMiner,
    PrecomputedTeacher,
    RandomNegatives,
    Recipe,
    TopK,
    TopKAbs,
    TopKMarginPos,
    TopKPercPos,
    TopKShifted,
    audit_dataset,
    compute_statistics,
    format_dataset,
)
from hn_datasets.errors import ArgumentError, TeacherError, VectorError
from hn_datasets.record import MiningRecord
from hn_datasets.teachers.loading import teacher_from_spec
from tests import oracle
from tests.static_model import make_static_model, save_static_model
from tests.teachers import HashTeacher

MODES = ["cross-sample", "intra-sample", "mean-rank", "agree"]
METHODS = [TopK(), TopKShifted(3), TopKAbs(0.3), TopKMarginPos(0.1), TopKPercPos(0.95), TopKPercPos(0.4)]
EXTRA = ["PASSAGE w3 3", "passage  w4 4", *(f"extra w{number % 7} w{number % 5} {number}" for number in range(140))]


@pytest.fixture(scope="module")
def rows():
    """60 rows: repeated anchors, several positives; words that BM25 finds, and positives that share none."""
    rng = np.random.default_rng(7)
    return [
        (
            f"question w{rng.integers(0, 9)} w{rng.integers(0, 9)}",
            [f"passage w{n % 8} {n}" for n in rng.choice(60, rng.integers(1, 3), replace=False)],
        )
        for _ in range(60)
    ]


def as_dataset(rows):
    return Dataset.from_dict({"query": [anchor for anchor, _ in rows], "answers": [list(p) for _, p in rows]})


def texts_of(rows, extra):
    return sorted({anchor for anchor, _ in rows}), sorted({text for _, own in rows for text in own} | set(extra))


def dense(rows, seed, extra=EXTRA, similarity="cosine"):
    """A teacher with ready vectors, among them equal ones (ties) and opposite ones, and its score."""
    texts = texts_of(rows, extra)
    rng = np.random.default_rng(seed)
    tables = []
    for part in texts:
        vectors = rng.standard_normal((len(part), 5))
        vectors[1::9] = vectors[0]
        vectors[2::9] = -vectors[-1]
        if similarity == "cosine":
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        else:
            vectors = np.round(vectors * 2) / 2
        tables.append(vectors.astype(np.float32))
    teacher = PrecomputedTeacher((texts[0], tables[0]), (texts[1], tables[1]), similarity=similarity)
    places = [{text: number for number, text in enumerate(part)} for part in texts]
    score = lambda anchor, text: np.float32(  # noqa: E731
        tables[0][places[0][anchor]].astype(np.float64) @ tables[1][places[1][text]].astype(np.float64)
    )
    return teacher, score


def lexical(rows, extra=EXTRA):
    """BM25 and the scores of rank-bm25."""
    anchors, passages = texts_of(rows, extra)
    corpus = oracle.canonical(passages)
    index = BM25Okapi([passage.lower().split() for passage in corpus])
    scores = {anchor: np.float32(index.get_scores(anchor.lower().split())) for anchor in anchors}
    places = {passage: number for number, passage in enumerate(corpus)}
    return BM25Teacher(), lambda anchor, text: scores[anchor][places[text]]


def build(rows, teacher, store, extra=EXTRA, **choices):
    return HardNegativeMiner.from_dataset(as_dataset(rows), teacher=teacher, corpus=extra, store=store, **choices)


def setting_of(method):
    return getattr(method, method.setting) if method.setting else None


def assert_same(mined, expected, names):
    oracle.assert_same(mined, expected)
    assert mined["negative_teachers"][:] == [[names[m] for m in row["negative_teachers"]] for row in expected]


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_modes_of_ready_vectors_equal_brute_force(rows, tmp_path, mode, method, similarity):
    if mode == "agree" and method.name in ("topk", "topk-shifted"):
        pytest.skip("refused")
    pairs = [dense(rows, seed, similarity=similarity) for seed in range(3)]
    ranked = {"num_ranked": 9} if mode == "mean-rank" else {}
    teacher = EnsembleTeacher([one for one, _ in pairs], mode=mode, **ranked)
    mined = as_dataset(rows).map(build(rows, teacher, tmp_path, method=method), batched=True)
    expected = oracle.mine_ensemble(
        rows, EXTRA, [score for _, score in pairs], (method.name, setting_of(method)), 4, mode, **ranked
    )
    assert_same(mined, expected, ["precomputed", "precomputed-2", "precomputed-3"])
    assert any(row["negative_ids"] for row in expected)


@pytest.mark.parametrize("lexical_first", [False, True])
@pytest.mark.parametrize("mode", MODES[1:])
def test_modes_with_bm25_equal_brute_force(rows, tmp_path, mode, lexical_first):
    pairs = [dense(rows, 0), lexical(rows), dense(rows, 1)]
    if lexical_first:
        pairs = [pairs[1], pairs[0]]
    teacher = EnsembleTeacher([one for one, _ in pairs], mode=mode, names=["a", "b", "c"][: len(pairs)])
    mined = as_dataset(rows).map(build(rows, teacher, tmp_path, num_negatives=5), batched=True)
    scores = [score for _, score in pairs]
    expected = oracle.mine_ensemble(rows, EXTRA, scores, ("topk-percpos", 0.95), 5, mode)
    assert mined["negative_ids"][:] == [row["negative_ids"] for row in expected]
    assert mined["negative_teachers"][:] == [["abc"[m] for m in row["negative_teachers"]] for row in expected]
    for name in ("positive_score", "ceiling", "top_score"):
        np.testing.assert_allclose(mined[name], [row[name] for row in expected], rtol=1e-6)


def test_rows_are_full_where_what_all_allow_lies_far_down_the_ranking(tmp_path):
    """The other teacher lets through only what the first one ranks last, after equal scores over many pieces."""
    passages = [f"p{number}" for number in range(3000)]
    first = np.zeros((3000, 2), np.float32)
    first[:, 0] = np.repeat([0.5, 0.25, 0.125], 1000)
    second = np.full((3000, 2), 9.0, np.float32)
    second[-3:, 0] = 0.5
    second[1500, 0] = 0.5
    anchors, own = np.float32([[1, 0]]), np.float32([[1, 0]])
    members = [
        PrecomputedTeacher((["q"], anchors), (["right", *passages], np.concatenate([own, matrix])), similarity="dot")
        for matrix in (first, second)
    ]
    ids = oracle.canonical(["right", *passages])
    miner = HardNegativeMiner.from_dataset(
        Dataset.from_dict({"query": ["q"], "answer": ["right"]}),
        teacher=EnsembleTeacher(members, mode="agree"),
        corpus=passages,
        store=tmp_path,
    )
    batch = miner({"query": ["q"], "answer": ["right"]})
    wanted = sorted(["p1500", *passages[-3:]], key=lambda text: (text != "p1500", ids.index(text)))
    assert batch["negatives"][0] == wanted


def test_cross_sample_rows_are_those_of_one_teacher_alone(rows, tmp_path):
    members = {"one": dense(rows, 0)[0], "two": dense(rows, 1)[0], "words": BM25Teacher()}
    many = [(f"question w{number % 9} w{number % 8}", own) for number, (_, own) in enumerate(rows * 5)]
    members = {"one": dense(many, 0)[0], "two": dense(many, 1)[0], "words": BM25Teacher()}
    teacher = EnsembleTeacher(list(members.values()), mode="cross-sample", names=list(members))
    mined = as_dataset(many).map(build(many, teacher, tmp_path, method=TopK()), batched=True)
    alone = {}
    with pytest.warns(UserWarning, match="BM25 is the only teacher"):
        for name, member in members.items():
            alone[name] = as_dataset(many).map(build(many, member, tmp_path, method=TopK()), batched=True)
    shares = dict.fromkeys(members, 0)
    for number, row in enumerate(mined):
        (name,) = set(row.pop("negative_teachers"))
        assert row == alone[name][number]
        shares[name] += 1
    assert min(shares.values()) > 60
    other = as_dataset(many).map(build(many, teacher, tmp_path, method=TopK(), seed=1), batched=True)
    changed = [one != two for one, two in zip(mined["negative_teachers"], other["negative_teachers"], strict=True)]
    assert 0.4 < np.mean(changed) < 0.9
    assert len({(row["query"], row["negative_teachers"][0]) for row in mined}) == len({anchor for anchor, _ in many})
