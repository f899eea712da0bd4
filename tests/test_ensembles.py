"""Ensembles against brute force in every mode, and what must not change or break them."""

import json
import re

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, List, Value
from rank_bm25 import BM25Okapi

from hn_datasets import (
    BM25Teacher,
    CardMetadata,
    DenseTeacher,
    EnsembleTeacher,
    HardNegativeMiner,
    HeldOut,
    NearDuplicate,
    PrecomputedTeacher,
    RandomNegatives,
    Recipe,
    SameGroup,
    SimilarToPositive,
    TopK,
    TopKAbs,
    TopKMarginPos,
    TopKPercPos,
    TopKShifted,
    audit,
    audit_dataset,
    compute_statistics,
    format_dataset,
    publish,
    reproduce,
)
from hn_datasets.errors import ArgumentError, TeacherError, VectorError, WeakTeacherWarning
from hn_datasets.inspection.rebuilding import choose_teacher
from hn_datasets.planning import plan_mining
from hn_datasets.record import MiningRecord
from hn_datasets.release.card_choices import hide_paths, list_choices
from hn_datasets.teachers.loading import teacher_from_spec
from tests import oracle
from tests.static_model import save_static_model
from tests.teachers import HashTeacher

MODES = ["cross-sample", "intra-sample", "mean-rank", "agree"]
METHODS = [
    (TopK(), "cosine"), (TopKShifted(3), "dot"), (TopKAbs(0.3), "cosine"), (TopKMarginPos(0.1), "cosine"),
    (TopKPercPos(0.95), "dot"), (TopKPercPos(0.4), "cosine"),
]  # fmt: skip


def words(seed):
    return " ".join(f"w{number}" for number in np.random.default_rng(seed).choice(9, 4, replace=False))


PASSAGES = [f"passage {words(number)} {number}" for number in range(60)]
EXTRA = [PASSAGES[3].upper(), PASSAGES[4].replace(" ", "  "), *(f"extra {words(n)} {n}" for n in range(60, 200))]


@pytest.fixture(scope="module")
def rows():
    """60 rows: repeated anchors, several positives; words that BM25 finds, and positives that share none."""
    rng = np.random.default_rng(7)
    return [
        (
            f"question {words(rng.integers(40))}",
            [PASSAGES[n] for n in rng.choice(60, rng.integers(1, 3), replace=False)],
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


@pytest.mark.parametrize(("method", "similarity"), METHODS, ids=repr)
@pytest.mark.parametrize("mode", MODES[1:])
def test_modes_of_ready_vectors_equal_brute_force(rows, tmp_path, mode, method, similarity):
    if mode == "agree" and method.name in ("topk", "topk-shifted"):
        method = TopKPercPos(1.0)
    pairs = [dense(rows, seed, similarity=similarity) for seed in range(3)]
    ranked = {"num_ranked": 9} if mode == "mean-rank" else {}
    teacher = EnsembleTeacher([one for one, _ in pairs], mode=mode, **ranked)
    mined = as_dataset(rows).map(build(rows, teacher, tmp_path, method=method), batched=True)
    expected = oracle.mine_ensemble(
        rows, EXTRA, [score for _, score in pairs], (method.name, setting_of(method)), 4, mode, **ranked
    )
    assert_same(mined, expected, ["precomputed", "precomputed-2", "precomputed-3"])
    assert any(row["negative_ids"] for row in expected)


@pytest.mark.parametrize("mode", MODES[1:])
def test_guards_hold_for_what_every_teacher_names(rows, tmp_path, mode):
    """By the vectors of the first teacher, also for what BM25 names; and it is counted what they take out."""
    pairs = [dense(rows, 0), lexical(rows), dense(rows, 1)]
    vectors = {text: pairs[0][0].encode([text], "passage")[0].astype(np.float64) for text in texts_of(rows, EXTRA)[1]}
    refuses = lambda own, text: max(np.float32(vectors[text] @ vectors[one]) for one in own) >= 0.1  # noqa: E731
    teacher = EnsembleTeacher([one for one, _ in pairs], mode=mode)
    miner = build(rows, teacher, tmp_path, guards=(SimilarToPositive(max_score=0.1),))
    mined = as_dataset(rows).map(miner, batched=True)
    scores, method = [score for _, score in pairs], ("topk-percpos", 0.95)
    expected = oracle.mine_ensemble(rows, EXTRA, scores, method, 4, mode, refuses=refuses)
    assert_same(mined, expected, ["precomputed", "bm25", "precomputed-2"])
    known = {}
    for anchor, own in rows:
        known.setdefault(anchor, set()).update(own)
    free = oracle.mine_ensemble(rows, EXTRA, scores, method, 4, mode)
    counts = [
        [sum(refuses(known[row[0]], text) for text in one["negatives"])] for row, one in zip(rows, free, strict=True)
    ]
    assert mined["guard_removals"][:] == counts
    assert sum(map(sum, counts)) > 0


@pytest.mark.parametrize("mode", MODES[1:])
def test_groups_and_held_out_texts_hold_for_every_teacher(rows, tmp_path, mode):
    pairs = [dense(rows, 0), lexical(rows), dense(rows, 1)]
    titles = [f"title {number % 3}" for number in range(len(rows))]
    groups = {}
    for (_, own), title in zip(rows, titles, strict=True):
        for text in own:
            groups.setdefault(text, set()).add(title)
    held_out = EXTRA[2::3]
    dataset = as_dataset(rows).add_column("title", titles)
    miner = HardNegativeMiner.from_dataset(
        dataset, teacher=EnsembleTeacher([one for one, _ in pairs], mode=mode), corpus=EXTRA, store=tmp_path,
        guards=(SameGroup("title"), HeldOut(held_out)),
    )  # fmt: skip
    mined = dataset.map(miner, batched=True, batch_size=13)
    same = lambda own, text: bool(groups.get(text, set()) & set().union(*map(groups.get, own)))  # noqa: E731
    expected = oracle.mine_ensemble(
        rows, EXTRA, [score for _, score in pairs], ("topk-percpos", 0.95), 4, mode,
        refuses=lambda own, text: text in held_out or same(own, text),
    )  # fmt: skip
    assert_same(mined, expected, ["precomputed", "bm25", "precomputed-2"])
    assert (np.array(mined["guard_removals"]).sum(axis=0) > 0).all()


def test_guards_that_go_down_a_ranking_need_one_teacher(rows, tmp_path):
    teacher = EnsembleTeacher([dense(rows, 0)[0], "bm25"], mode="agree")
    with pytest.raises(ArgumentError, match="'near-duplicate' looks at one teacher's ranking, got an ensemble"):
        build(rows, teacher, tmp_path, guards=(NearDuplicate(),))


def test_a_guard_of_vectors_needs_them_in_the_first_teacher(rows, tmp_path):
    teacher = EnsembleTeacher(["bm25", dense(rows, 0)[0]], mode="agree")
    with pytest.raises(ArgumentError, match="needs a teacher that gives passages vectors, got BM25Teacher"):
        build(rows, teacher, tmp_path, guards=(SimilarToPositive(),))


def test_guards_hold_in_the_rows_of_every_teacher(rows, tmp_path):
    first, _ = dense(rows, 0)
    guard = SimilarToPositive(max_score=0.1)
    teacher = EnsembleTeacher([first, dense(rows, 1)[0], "bm25"], mode="cross-sample", names=["a", "b", "words"])
    mined = as_dataset(rows).map(build(rows, teacher, tmp_path, guards=(guard,)), batched=True)
    free = as_dataset(rows).map(build(rows, teacher, tmp_path), batched=True)
    alone = as_dataset(rows).map(build(rows, first, tmp_path, guards=(guard,)), batched=True)
    known = {}
    for anchor, own in rows:
        known.setdefault(anchor, []).extend(own)
    for row, other, single in zip(mined, free, alone, strict=True):
        near = lambda text: (first.encode(known[row["query"]], "passage") @ first.encode([text], "passage")[0]).max()  # noqa: B023, E731
        assert all(near(text) < 0.1 + 1e-6 for text in row["negatives"])
        assert row["guard_removals"] == [sum(near(text) >= 0.1 for text in other["negatives"])]
        if row["negative_teachers"][:1] == ["a"]:
            assert row["negative_ids"] == single["negative_ids"]


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
    many = [(f"question {words(number % 72)}", own) for number, (_, own) in enumerate(rows * 5)]
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


def same(one, other):
    names = [name for name in one.column_names if name not in ("query", "answers")]
    return "negative_teachers" in names and all(one[name][:] == other[name][:] for name in names)


@pytest.mark.parametrize("mode", MODES)
def test_results_do_not_depend_on_batches_processes_or_order(rows, tmp_path, mode):
    dataset = as_dataset(rows)
    teacher = EnsembleTeacher([dense(rows, 0)[0], "bm25", dense(rows, 1)[0]], mode=mode)
    miner = build(rows, teacher, tmp_path)
    reference = dataset.map(miner, batched=True)
    for arguments in ({"batch_size": 1}, {"batch_size": 7}, {"num_proc": 2, "batch_size": 11}):
        assert same(dataset.map(miner, batched=True, load_from_cache_file=False, **arguments), reference)
    order = np.random.default_rng(0).permutation(len(rows))
    again = build([rows[number] for number in order], teacher, tmp_path / "other", EXTRA[::-1])
    assert same(dataset.map(again, batched=True), reference)
    assert reference.features == miner.features(dataset.features)
    assert reference.features["negative_teachers"] == List(Value("string"))
    splits = DatasetDict(train=dataset.select(range(40)), test=dataset.select(range(40, 60)))
    assert same(splits.map(miner, batched=True)["test"], reference.select(range(40, 60)))


def test_sampling_draws_from_what_all_allow(rows, tmp_path):
    pairs = [dense(rows, 0), dense(rows, 1)]
    teacher = EnsembleTeacher([one for one, _ in pairs], mode="agree")
    mined = as_dataset(rows).map(build(rows, teacher, tmp_path, sampling="softmax", pool=12), batched=True)
    pools = oracle.mine_ensemble(rows, EXTRA, [score for _, score in pairs], ("topk-percpos", 0.95), 12, "agree")
    for row, pool in zip(mined, pools, strict=True):
        assert set(row["negative_ids"]) <= set(pool["negative_ids"])
        assert len(row["negative_ids"]) == min(4, len(pool["negative_ids"]))
    assert any(row["negative_ids"] != pool["negative_ids"][:4] for row, pool in zip(mined, pools, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_a_stream_is_mined_as_it_comes(rows, tmp_path, mode):
    single = list({anchor: (anchor, own) for anchor, own in rows}.values())
    corpus = [text for _, own in single for text in own] + EXTRA
    teacher = EnsembleTeacher([dense(rows, 0)[0], dense(rows, 1)[0], "bm25"], mode=mode)
    names = {"anchor_column_name": "query", "positive_column_name": "answers"}
    miner = HardNegativeMiner.from_corpus(corpus, teacher=teacher, store=tmp_path, **names)
    mined = list(as_dataset(single).to_iterable_dataset().map(miner, batched=True, batch_size=13))
    known = as_dataset(single).map(build(single, teacher, tmp_path), batched=True)
    assert [list(row["negative_ids"]) for row in mined] == known["negative_ids"][:]
    assert [row["negative_teachers"] for row in mined] == known["negative_teachers"][:]


def test_skipped_rows_and_batches_without_negatives_keep_their_types(rows, tmp_path):
    dataset = Dataset.from_dict({"query": [None, rows[0][0]], "answers": [[PASSAGES[1]], rows[0][1]]})
    teacher = EnsembleTeacher([dense(rows, 0)[0], "bm25"], mode="agree")
    miner = HardNegativeMiner.from_dataset(dataset, teacher=teacher, corpus=EXTRA, on_empty="skip", store=tmp_path)
    for mined in (dataset.map(miner, batched=True, batch_size=1), dataset.map(miner, batched=True)):
        assert mined.features == miner.features(dataset.features)
        assert mined["negative_teachers"][:] == [[], ["precomputed"] * len(mined["negatives"][1])]


def test_a_teacher_above_whose_ceiling_all_passages_are_has_no_say(rows, tmp_path):
    """BM25 gives the positive 0, and no passage less; as the first teacher it has its say."""
    teacher, _ = dense([("w1 w2", ["other words"]), *rows], 0)
    dataset = Dataset.from_dict({"query": ["w1 w2"], "answers": [["other words"]]})
    mined = {}
    for name, members, mode in (
        ("alone", None, None),
        ("agree", [teacher, "bm25"], "agree"),
        ("first", ["bm25", teacher], "agree"),
        ("turns", [teacher, "bm25"], "intra-sample"),
        ("turns of it", ["bm25", teacher], "intra-sample"),
        ("ranks", [teacher, "bm25"], "mean-rank"),
    ):
        chosen = EnsembleTeacher(members, mode=mode) if members else teacher
        miner = HardNegativeMiner.from_dataset(dataset, teacher=chosen, corpus=EXTRA, store=tmp_path)
        mined[name] = miner(dataset[:])["negatives"][0]
    assert len(mined["alone"]) == 4
    assert list(mined["alone"]) == mined["agree"] == mined["turns"] == mined["ranks"]
    assert len(mined["first"]) == len(mined["turns of it"]) == 0


@pytest.mark.parametrize("mode", MODES)
def test_rows_are_empty_where_nothing_is_below_the_ceilings(rows, tmp_path, mode):
    teacher = EnsembleTeacher([dense(rows, 0)[0], dense(rows, 1)[0]], mode=mode)
    mined = as_dataset(rows).map(build(rows, teacher, tmp_path, method=TopKAbs(-2.0)), batched=True)
    assert mined["negative_ids"][:] == mined["negative_teachers"][:] == [[]] * len(rows)
    assert np.isfinite(mined["top_score"]).all()


def test_an_ensemble_comes_back_from_its_spec_and_its_recipe(rows, tmp_path):
    teacher = EnsembleTeacher(
        [DenseTeacher(save_static_model(tmp_path / "one", seed=1)), BM25Teacher("plus"), "bm25"],
        mode="mean-rank",
        num_ranked=20,
    )
    assert teacher.names == ("one", "bm25", "bm25-2")
    spec = Recipe.from_json(Recipe(teacher.spec()).to_json()).teacher
    assert spec == teacher.spec()
    miner = build(rows, teacher, tmp_path)
    mined = as_dataset(rows).map(miner, batched=True)
    fingerprint = mined._fingerprint
    del teacher, miner.__dict__["_teacher"], miner.__dict__["_scorers"]
    again = teacher_from_spec(spec)
    assert again.spec() == spec
    rebuilt = as_dataset(rows).map(build(rows, again, tmp_path), batched=True)
    assert rebuilt._fingerprint == fingerprint
    assert same(as_dataset(rows).map(miner, batched=True, load_from_cache_file=False), mined)
    assert choose_teacher(Recipe(spec), None, trust_remote_code=False).spec() == spec
    with pytest.raises(ArgumentError, match="'members' \\(list\\) in the spec of a ensemble teacher"):
        teacher_from_spec({name: value for name, value in spec.items() if name != "members"})
    with pytest.raises(ArgumentError, match="Expected an ensemble with mode"):
        Recipe({**spec, "names": ["one"]})
    with pytest.raises(TeacherError, match="Teacher 'bm25' of the ensemble: Expected a teacher of type"):
        teacher_from_spec({**spec, "members": [spec["members"][0], {"type": "none"}, spec["members"][2]]})


@pytest.mark.parametrize(
    ("members", "choices", "error", "message"),
    [
        (["bm25"], {}, ArgumentError, "at least two teachers in an ensemble, got 1"),
        ([], {}, ArgumentError, "at least two teachers in an ensemble, got 0"),
        ("bm25", {}, ArgumentError, "a list of teachers, got str"),
        (["bm25", BM25Teacher()], {}, ArgumentError, "'bm25' and 'bm25-2' are the same"),
        ([HashTeacher(), HashTeacher()], {}, ArgumentError, "'hash' and 'hash-2' are the same"),
        (["bm25", 3], {}, ArgumentError, "Teacher 2 of the ensemble: Expected a teacher as 'bm25'.*got int"),
        (["bm25", "no/such-model"], {}, TeacherError, "Teacher 'no/such-model' of the ensemble: Could not load"),
        (["bm25", BM25Teacher("plus")], {"mode": "all"}, ArgumentError, "mode to be one of cross-sample.*'all'"),
        (["bm25", BM25Teacher("plus")], {"num_ranked": 9}, ArgumentError, "num_ranked has no effect in mode 'agree'"),
        (["bm25", BM25Teacher("plus")], {"mode": "mean-rank", "num_ranked": 0}, ArgumentError, "num_ranked of at lea"),
        (["bm25", BM25Teacher("plus")], {"names": ["a", "a"]}, ArgumentError, "2 different names"),
        (["bm25", BM25Teacher(tokenizer="no/such")], {}, TeacherError, "Teacher 2 of the ensemble: .*no/such"),
    ],
)
def test_an_ensemble_that_cannot_be_is_one_clear_error(members, choices, error, message):
    with pytest.raises(error, match=message) as raised:
        EnsembleTeacher(members, **{"mode": "agree", **choices})
    assert "\n" not in str(raised.value)
    if not choices:
        return
    with pytest.raises(ArgumentError, match="got an ensemble; give its members"):
        EnsembleTeacher(["bm25", EnsembleTeacher(["bm25", BM25Teacher("plus")], mode="agree")], mode="agree")


@pytest.mark.parametrize(
    ("mode", "choices", "message"),
    [
        ("agree", {"method": RandomNegatives()}, "no effect with RandomNegatives"),
        ("agree", {"method": TopK()}, "'agree' has no effect with 'topk', which has no ceiling"),
        ("agree", {"method": TopKShifted(3)}, "'agree' has no effect with 'topk-shifted'"),
        ("agree", {"seed": 1}, "seed has no effect"),
        ("agree", {"method": TopKMarginPos()}, "one scale with 'topk-marginpos'.*bm25 and cosine"),
        ("cross-sample", {"method": TopKAbs()}, "one scale with 'topk-abs'"),
        ("intra-sample", {"sampling": "random"}, "'random' is not defined for mode 'intra-sample'"),
        ("mean-rank", {"sampling": "softmax"}, "'softmax' is not defined for mode 'mean-rank'"),
        ("mean-rank", {"num_negatives": 51}, "num_ranked of at least 51, which a row needs, got 50"),
        ("mean-rank", {"query_prompt": "query: "}, "no effect on a ready teacher"),
    ],
)
def test_what_has_no_meaning_together_is_refused_before_any_work(rows, tmp_path, mode, choices, message):
    teacher = EnsembleTeacher([dense(rows, 0)[0], "bm25"], mode=mode)
    with pytest.raises(ArgumentError, match=message) as raised:
        build(rows, teacher, tmp_path, **choices)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


class Failing(HashTeacher):
    """Fails in its third call, if it has an error to raise."""

    call_characters = 200

    def __init__(self, error, log):
        super().__init__(name="failing", log=log)
        self.error = error

    def encode(self, texts, role):
        if self.error is not None and self.calls == 2:
            raise self.error
        return super().encode(texts, role)


@pytest.mark.parametrize("error", [VectorError("Expected finite vectors."), RuntimeError("out of memory")], ids=repr)
def test_one_member_that_fails_is_named_and_nothing_is_lost(rows, tmp_path, error):
    logs = tmp_path / "first.log", tmp_path / "second.log"
    members = [HashTeacher(log=logs[0]), Failing(error, logs[1])]
    with pytest.raises(type(error)) as raised:
        build(rows, EnsembleTeacher(members, mode="agree", names=["good", "bad"]), tmp_path / "store")
    assert "Teacher 'bad' of the ensemble" in str(raised.value) + "".join(getattr(raised.value, "__notes__", ()))
    done = [log.read_text().splitlines() for log in logs]
    assert len(done[0]) == len(set(done[0])) == sum(map(len, texts_of(rows, EXTRA)))
    assert done[1]
    mended = EnsembleTeacher([members[0], Failing(None, logs[1])], mode="agree", names=["good", "bad"])
    build(rows, mended, tmp_path / "store")
    lines = [log.read_text().splitlines() for log in logs]
    assert lines[0] == done[0]  # all of it was in the store
    assert lines[1][: len(done[1])] == done[1]
    assert sorted(lines[1]) == sorted(lines[0])  # what the failing one had encoded was in the store too


def test_a_member_that_cannot_index_is_named_before_anything_is_encoded(rows, tmp_path):
    log = tmp_path / "log"
    teacher = EnsembleTeacher([HashTeacher(log=log), "bm25"], mode="agree")
    signs = Dataset.from_dict({"query": ["?"] * 9, "answers": ["." * number for number in range(1, 10)]})
    with pytest.raises(TeacherError, match="Teacher 'bm25' of the ensemble"):
        HardNegativeMiner.from_dataset(signs, teacher=teacher, store=tmp_path / "store")
    assert not log.exists()


def test_bm25_in_an_ensemble_does_not_warn(rows, tmp_path, recwarn):
    build(rows, EnsembleTeacher([dense(rows, 0)[0], "bm25"], mode="agree"), tmp_path)
    assert not [one for one in recwarn if issubclass(one.category, WeakTeacherWarning)]


@pytest.mark.parametrize("mode", MODES)
def test_what_comes_out_passes_the_audit_and_is_counted(rows, tmp_path, mode):
    dataset = as_dataset(rows)
    teacher = EnsembleTeacher([dense(rows, 0)[0], dense(rows, 1)[0], "bm25"], mode=mode, names=["a", "b", "words"])
    miner = build(rows, teacher, tmp_path)
    mined = dataset.map(miner, batched=True)
    record = MiningRecord.of(mined, miner)
    names = [name for row in mined["negative_teachers"] for name in row]
    counts = record.statistics.negatives_per_teacher
    assert counts == {name: names.count(name) for name in sorted(set(names))}
    assert set(counts) == ({"a"} if mode == "agree" else {"a", "b", "words"})
    assert f"By teacher: a {counts['a']:,}" in record.statistics.to_table()
    report = audit_dataset(mined, anchor="query", positive="answers")
    assert [one.name for one in report.findings if one.severity == "broken"] == []
    halves = [mined.select(range(9)), mined.select(range(9, 60))]
    batches = ({name: half[name][:] for name in half.column_names} for half in halves)
    assert compute_statistics(batches, num_negatives=4).negatives_per_teacher == counts


@pytest.mark.filterwarnings("ignore::hn_datasets.errors.ShortRowsWarning")
def test_formats_keep_the_teachers_of_what_they_keep(rows, tmp_path):
    teacher = EnsembleTeacher([dense(rows, 0)[0], "bm25"], mode="agree", names=["a", "words"])
    miner = build(rows, teacher, tmp_path, num_negatives=12, method=TopKPercPos(0.3))
    mined = as_dataset(rows).map(miner, batched=True)
    scored = format_dataset(mined, "scored", num_negatives=3)
    assert scored["negative_teachers"][:] == [row[:3] for row in mined["negative_teachers"]]
    filled = format_dataset(mined, "scored", num_negatives=12, shortage="fill")
    missing = [12 - len(negatives) for negatives in mined["negatives"]]
    assert max(missing) > 0
    assert filled["negative_teachers"][:] == [["a"] * (12 - number) + [None] * number for number in missing]
    assert compute_statistics(filled).negatives_per_teacher == {"a": 12 * len(rows) - sum(missing)}
    assert "negative_teachers" not in format_dataset(mined, "triplet").column_names
    assert set(format_dataset(mined, "normalized")) == {"queries", "documents", "scores"}


def test_the_plan_has_the_stages_of_every_member(rows, tmp_path):
    teacher = EnsembleTeacher([HashTeacher(), BM25Teacher()], mode="agree")
    plan = plan_mining(as_dataset(rows), teacher=teacher, corpus=EXTRA)
    names = [stage.name for stage in plan.stages]
    assert names == ["collect", "encode", "index", "search", "index", "search"]
    assert [stage.work.split(":")[0] for stage in plan.stages[1:]] == ["hash"] * 3 + ["bm25"] * 2


def test_the_card_names_all_members_and_hides_their_folders(rows, tmp_path):
    model = save_static_model(tmp_path / "one", seed=1)
    miner = build(rows, EnsembleTeacher([model, "bm25"], mode="intra-sample"), tmp_path)
    record = MiningRecord.of(as_dataset(rows).map(miner, batched=True), miner)
    choices = dict(list_choices(record, CardMetadata("mit")))
    assert choices["Teachers"] == "`one` and BM25"
    assert choices["Mode"].startswith("`intra-sample`: ")
    assert choices["`bm25`: settings"].startswith("variant `okapi`")
    assert "`one`: digest of the weights" in choices
    assert str(tmp_path) not in hide_paths(record.recipe).to_json()


def test_a_release_of_an_ensemble_is_audited_described_and_mined_again(rows, tmp_path, monkeypatch):
    model = save_static_model(tmp_path / "one", seed=1)
    teacher = EnsembleTeacher([model, "bm25"], mode="cross-sample")
    miner = build(rows, teacher, tmp_path / "store", [], method=TopK())
    mined = as_dataset(rows).map(miner, batched=True)
    folder = tmp_path / "release"
    metadata = CardMetadata(license="mit", language=("en",))
    publish(mined, miner=miner, version="1.0.0", metadata=metadata, layouts=("scored", "n-tuple"), to_folder=folder)
    assert audit(folder).ok
    card = (folder / "README.md").read_text()
    assert "found by `one` and BM25" in card
    assert re.search(r"\| negative 1 by `(one|bm25)` \| ", card)
    counts = compute_statistics(mined).negatives_per_teacher
    assert f"Negatives by teacher: `bm25` {counts['bm25']:,}, `one` {counts['one']:,}." in card
    assert "| `negative_teachers` | list of string | the teacher that each negative comes from |" in card
    monkeypatch.chdir(tmp_path)  # a release gives the name of the model's folder only
    again = reproduce(folder, store=tmp_path / "empty")
    assert (again.rows, again.identical, again.differences) == (60, 60, {})
    record = json.loads((folder / "mining.json").read_text())
    record["statistics"]["negatives_per_teacher"]["one"] += 1
    (folder / "mining.json").write_text(json.dumps(record))
    assert "statistics-differ" in [one.name for one in audit(folder).findings]
