import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import dill
import numpy as np
import pyarrow as pa
import pytest
import rank_bm25
from datasets.fingerprint import Hasher

from hn_datasets.errors import ArgumentError, TeacherError
from hn_datasets.teachers.base import Encoder, Ranker
from hn_datasets.teachers.bm25 import BM25Teacher
from hn_datasets.teachers.tokenizers import make_tokenizer
from hn_datasets.texts import Corpus

ORACLES = {"okapi": rank_bm25.BM25Okapi, "l": rank_bm25.BM25L, "plus": rank_bm25.BM25Plus}
SETTINGS = [
    ("okapi", {}),
    ("okapi", {"k1": 0.9, "b": 0.4, "epsilon": 1.0}),
    ("l", {}),
    ("l", {"k1": 2.0, "b": 0.95, "delta": 0.0}),
    ("plus", {}),
    ("plus", {"k1": 1.2, "b": 0.0, "delta": 0.3}),
]
KOREAN = [
    "한국은행은 기준금리를 0.25%p 올렸다.",
    "기준금리가 오르면 대출금리도 오른다.",
    "대출금리와 예금금리의 차이는 예대마진이다.",
    "은행의 대출 심사가 강화됐다.",
    "ETF는 지수를 따라가는 펀드다.",
    "펀드 보수가 낮으면 수익률이 높아진다.",
]
TOKENISED = []
BARRIER = Barrier(2)


def count_and_split(text):
    TOKENISED.append(text)
    return text.split()


def split_together(text):
    """Let two builds start at the same time."""
    if text.startswith("first"):
        BARRIER.wait(timeout=30)
    return text.split()


def fail_at_bad(text):
    return None if text == "bad" else text.split()


def zipf_texts(num_texts, seed, num_terms=60):
    """Texts in which a few terms stand in more than half of the passages, so that okapi's idf turns negative."""
    rng = np.random.default_rng(seed)
    chances = 1 / np.arange(1, num_terms + 1)
    lengths = rng.integers(1, 25, num_texts)
    return [" ".join(f"t{term}" for term in rng.choice(num_terms, n, p=chances / chances.sum())) for n in lengths]


PASSAGES = [*zipf_texts(200, seed=0), "...", "!?"]
ANCHORS = [*zipf_texts(20, seed=1), "t0 t0 t0 t5 t5", "unknown t3 words", "nothing known", "...", "t0"]
"""Among them repeated tokens, unknown tokens, an anchor without a known token and one without any token."""


def open_scorer(teacher, passages, directory):
    return teacher.scorer(Corpus.build([pa.array(passages)], directory / "corpus"), directory / "bm25")


def all_scores(scorer, anchors):
    tiles = [tile.copy() for _, tile in scorer.scores(anchors).tiles(0, len(anchors))]
    return np.concatenate(tiles, axis=1)


def oracle_scores(teacher, passages, anchors, directory):
    """What rank-bm25 gives for the same tokens, shape [num_anchors, num_passages]."""
    corpus = Corpus.build([pa.array(passages)], directory / "corpus")
    texts = [corpus[number] for number in range(len(corpus))]
    numbers = {name: value for name, value in teacher.spec().items() if name not in ("type", "variant", "tokenizer")}
    oracle = ORACLES[teacher.spec()["variant"]](teacher.tokenizer.tokenize(texts), **numbers)
    return np.array([oracle.get_scores(tokens) for tokens in teacher.tokenizer.tokenize(anchors)])


@pytest.mark.parametrize(("variant", "numbers"), SETTINGS)
def test_scores_are_those_of_rank_bm25(variant, numbers, tmp_path):
    teacher = BM25Teacher(variant, **numbers)
    expected = oracle_scores(teacher, PASSAGES, ANCHORS, tmp_path)
    scores = all_scores(open_scorer(teacher, PASSAGES, tmp_path), ANCHORS)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("variant", ORACLES)
@pytest.mark.parametrize("tokenizer", ["words", "char-bigrams", "kiwi"])
def test_korean_scores_are_those_of_rank_bm25(variant, tokenizer, tmp_path):
    teacher = BM25Teacher(variant, tokenizer=tokenizer)
    anchors = ["기준금리를 올리면 대출금리가 오르나요?", "ETF 보수", "금리 금리 은행"]
    expected = oracle_scores(teacher, KOREAN, anchors, tmp_path)
    assert expected.any()
    scores = all_scores(open_scorer(teacher, KOREAN, tmp_path), anchors)
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-12)


def test_average_idf_below_zero_gives_negative_scores_as_in_rank_bm25(tmp_path):
    passages = ["a b", "a b c", "a b d", "a"]
    teacher = BM25Teacher(tokenizer=str.split)
    expected = oracle_scores(teacher, passages, ["a", "a b"], tmp_path)
    assert (expected < 0).any()
    np.testing.assert_allclose(
        all_scores(open_scorer(teacher, passages, tmp_path), ["a", "a b"]), expected, rtol=1e-6, atol=1e-12
    )


@pytest.mark.parametrize("variant", ORACLES)
def test_tiles_pairs_and_texts_give_the_same_bits_for_all_blocks(variant, tmp_path, monkeypatch):
    scorer = open_scorer(BM25Teacher(variant), PASSAGES, tmp_path)
    corpus = Corpus.build([pa.array(PASSAGES)], tmp_path / "corpus")
    whole = all_scores(scorer, ANCHORS)
    scores = scorer.scores(ANCHORS)
    assert not scores.slack.any()
    some = np.concatenate([tile.copy() for _, tile in scores.tiles(3, 9)], axis=1)
    assert some.tobytes() == whole[3:9].tobytes()
    for width in (1, 7, 64):
        monkeypatch.setattr("hn_datasets.teachers.bm25.TILE_PASSAGES", width)
        assert all_scores(scorer, ANCHORS).tobytes() == whole.tobytes()
    for number, anchor in enumerate(ANCHORS):
        assert all_scores(scorer, [anchor]).tobytes() == whole[number].tobytes()
    rows, ids = (part.ravel() for part in np.indices(whole.shape))
    shuffled = np.random.default_rng(0).permutation(len(rows))
    rows, ids = rows[shuffled], ids[shuffled]
    assert scores.pairs(rows, ids).tobytes() == whole[rows, ids].tobytes()
    assert scores.of_texts(rows, corpus.texts(ids)).tobytes() == whole[rows, ids].tobytes()
    assert scores.of_texts(rows[:3], corpus.texts(ids[:3])).tobytes() == whole[rows[:3], ids[:3]].tobytes()


def test_text_outside_the_corpus_is_scored_with_the_statistics_of_the_corpus(tmp_path):
    teacher = BM25Teacher("plus")
    text = "t3 t3 t9 new words count for the length"
    scores = open_scorer(teacher, PASSAGES, tmp_path).scores(["t3 t9 t1"])
    oracle = rank_bm25.BM25Plus(teacher.tokenizer.tokenize(sorted(set(PASSAGES))))
    lengths = 1.5 * (0.25 + 0.75 * 9 / oracle.avgdl)
    expected = sum(oracle.idf[term] * (1 + n * 2.5 / (n + lengths)) for term, n in (("t3", 2), ("t9", 1), ("t1", 0)))
    np.testing.assert_allclose(scores.of_texts(np.array([0]), [text]), [expected], rtol=1e-6)
    constant = sum(oracle.idf[term] for term in ("t3", "t9", "t1"))
    np.testing.assert_allclose(scores.of_texts(np.array([0, 0]), ["", "?!"]), [constant] * 2, rtol=1e-6)


def test_blocks_may_be_empty(tmp_path):
    scorer = open_scorer(BM25Teacher(), PASSAGES, tmp_path)
    nothing = np.empty(0, dtype=np.int64)
    assert all_scores(scorer, []).shape == (0, scorer.num_passages)
    assert len(scorer.scores(["t0"]).pairs(nothing, nothing)) == 0
    assert len(scorer.scores(["t0"]).of_texts(nothing, [])) == 0


def test_repeated_passages_count_once_and_their_order_does_not_matter(tmp_path):
    once = all_scores(open_scorer(BM25Teacher(), PASSAGES, tmp_path / "once"), ANCHORS)
    twice = all_scores(open_scorer(BM25Teacher(), [*PASSAGES[::-1], *PASSAGES], tmp_path / "twice"), ANCHORS)
    assert once.tobytes() == twice.tobytes()


def test_second_open_tokenises_no_passage(tmp_path):
    passages = ["a b", "b c", "c d d"]
    TOKENISED.clear()
    scores = all_scores(open_scorer(BM25Teacher(tokenizer=count_and_split), passages, tmp_path), ["b d"])
    assert sorted(TOKENISED) == sorted([*passages, "b d"])
    TOKENISED.clear()
    again = all_scores(open_scorer(BM25Teacher(tokenizer=count_and_split), passages, tmp_path), ["b d"])
    assert TOKENISED == ["b d"]
    assert again.tobytes() == scores.tobytes()


def test_other_settings_and_other_passages_get_their_own_postings(tmp_path):
    texts, anchors = ["a b", "b c c", "d"], ["b c"]
    for teacher, passages in [
        (BM25Teacher(), texts),
        (BM25Teacher(k1=1.0), texts),
        (BM25Teacher("plus"), texts),
        (BM25Teacher(tokenizer="char-bigrams"), texts),
        (BM25Teacher(), [*texts, "b"]),
    ]:
        scores = all_scores(open_scorer(teacher, passages, tmp_path), anchors)
        expected = oracle_scores(teacher, passages, anchors, tmp_path)
        np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-12)
    assert len(list((tmp_path / "bm25").iterdir())) == 5


def test_leftovers_of_a_killed_build_do_no_harm(tmp_path):
    leftover = tmp_path / "bm25" / ".writing-0123"
    leftover.mkdir(parents=True)
    (leftover / "terms.arrow").write_bytes(b"torn")
    teacher = BM25Teacher()
    expected = oracle_scores(teacher, PASSAGES, ANCHORS, tmp_path)
    scores = all_scores(open_scorer(teacher, PASSAGES, tmp_path), ANCHORS)
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-12)


def test_failed_build_leaves_nothing(tmp_path):
    with pytest.raises(TeacherError, match=r"fail_at_bad.*'bad'"):
        open_scorer(BM25Teacher(tokenizer=fail_at_bad), ["good", "bad", "fine"], tmp_path)
    assert not (tmp_path / "bm25").exists()


def test_two_builds_at_once_give_one_index(tmp_path):
    passages, teacher = ["first", "second passage"], BM25Teacher(tokenizer=split_together)
    with ThreadPoolExecutor(2) as executor:
        opened = [executor.submit(open_scorer, teacher, passages, tmp_path) for _ in range(2)]
    one, two = (all_scores(scorer.result(), ["second"]) for scorer in opened)
    assert one.tobytes() == two.tobytes()
    assert len(list((tmp_path / "bm25").iterdir())) == 1


def test_corpus_without_tokens_names_the_tokeniser(tmp_path):
    with pytest.raises(TeacherError, match=r'"words".*2 passages'):
        open_scorer(BM25Teacher(), ["...", "?!"], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "bm42"}, "okapi, l, plus"),
        ({"delta": 0.5}, "delta=0.5 has no effect"),
        ({"variant": "l", "epsilon": 0.25}, "epsilon=0.25 has no effect"),
        ({"variant": "plus", "epsilon": 0.25}, "epsilon=0.25 has no effect"),
        ({"k1": -0.1}, "k1"),
        ({"k1": float("nan")}, "k1"),
        ({"k1": "1.5"}, "k1"),
        ({"b": 1.01}, "between 0 and 1"),
        ({"b": True}, "b to be a number"),
        ({"epsilon": -1}, "epsilon"),
        ({"variant": "plus", "delta": float("inf")}, "delta"),
        ({"tokenizer": 7}, "tokeniser"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        BM25Teacher(**arguments)


@pytest.mark.parametrize("change", [{"type": "dense"}, {"variant": "l"}, {"variant": "bm42"}, {"k2": 1.0}])
def test_specs_of_something_else_are_refused(change):
    with pytest.raises(ArgumentError):
        BM25Teacher.from_spec({**BM25Teacher().spec(), **change})


@pytest.mark.parametrize(
    "teacher",
    [
        BM25Teacher(),
        BM25Teacher("l", k1=1, b=0, delta=2),
        BM25Teacher("plus", tokenizer="char-bigrams"),
        BM25Teacher(tokenizer=count_and_split, epsilon=0),
    ],
)
def test_teacher_travels_as_its_spec(teacher):
    spec = json.loads(json.dumps(teacher.spec()))
    assert spec == teacher.spec()
    for again in (
        BM25Teacher.from_spec(spec),
        pickle.loads(pickle.dumps(teacher)),
        dill.loads(dill.dumps(teacher)),
    ):
        assert again.spec() == spec
        assert again.tokenizer.tokenize(["a,b c"]) == teacher.tokenizer.tokenize(["a,b c"])
        assert Hasher.hash(again) == Hasher.hash(teacher)


def test_whole_and_decimal_numbers_are_the_same_teacher():
    assert json.dumps(BM25Teacher(k1=1, b=1).spec()) == json.dumps(BM25Teacher(k1=1.0, b=1.0).spec())


def test_use_does_not_change_the_hash_and_another_process_computes_the_same(tmp_path):
    teacher = BM25Teacher("plus", tokenizer=str.split)
    before = Hasher.hash(teacher)
    scores = all_scores(open_scorer(teacher, PASSAGES, tmp_path), ["t1 t4"])
    assert Hasher.hash(teacher) == before
    script = (
        "import sys, pathlib, numpy, pyarrow, datasets\n"
        "from hn_datasets.teachers.bm25 import BM25Teacher\n"
        "from hn_datasets.texts import Corpus\n"
        "teacher = BM25Teacher('plus', tokenizer=str.split)\n"
        "corpus = Corpus(next(pathlib.Path(sys.argv[1], 'corpus').iterdir()))\n"
        "scores = teacher.scorer(corpus, pathlib.Path(sys.argv[1], 'bm25')).scores(['t1 t4'])\n"
        "[(_, tile)] = scores.tiles(0, 1)\n"
        "print(datasets.fingerprint.Hasher.hash(teacher), tile.tobytes().hex())\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert output == [before, scores.tobytes().hex()]
    assert len(list((tmp_path / "bm25").iterdir())) == 1


def test_teacher_with_a_lambda_scores_but_says_why_it_cannot_travel(tmp_path):
    teacher = BM25Teacher(tokenizer=lambda text: text.split())
    assert all_scores(open_scorer(teacher, ["a b", "c", "d"], tmp_path), ["a"]).max() > 0
    with pytest.raises(TeacherError, match="top level of a module"):
        pickle.loads(pickle.dumps(teacher))


def test_teacher_with_a_pretrained_tokeniser_travels(minilm_path, tmp_path):
    teacher = pickle.loads(pickle.dumps(BM25Teacher(tokenizer=minilm_path)))
    expected = oracle_scores(teacher, PASSAGES, ANCHORS, tmp_path)
    np.testing.assert_allclose(
        all_scores(open_scorer(teacher, PASSAGES, tmp_path), ANCHORS), expected, rtol=1e-6, atol=1e-12
    )


def test_teacher_is_a_ranker_and_no_encoder():
    assert isinstance(BM25Teacher(), Ranker)
    assert not isinstance(BM25Teacher(), Encoder)
    assert BM25Teacher().tokenizer.spec == make_tokenizer("words").spec
