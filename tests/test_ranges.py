"""What a corpus in pieces shares with a whole one: the same texts, ids and postings, and sums to the last bit."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hn_datasets import BM25Teacher, EmbeddingStore
from hn_datasets.ray_engine.ranges import (
    build_texts,
    drop_texts,
    overlapping_stores,
    range_store,
    ranges_of,
    read_spills,
    spill,
)
from hn_datasets.ray_engine.searching import index_of_piece, merge_found
from hn_datasets.ray_engine.sliced import SlicedCorpus
from hn_datasets.ray_engine.sliced_scores import cut
from hn_datasets.search import Found, Search
from hn_datasets.sums import UNIT, column_sums, mean_vector
from hn_datasets.teachers.bm25 import BM25Scorer
from hn_datasets.teachers.bm25_index import Index
from hn_datasets.teachers.bm25_pieces import build_piece, count_piece, merge_terms
from hn_datasets.texts import Corpus, Ragged, digest_texts
from tests.teachers import HashTeacher

TEXTS = [f"Text {number % 37} of rate {number % 11} and bond {number}" for number in range(120)]
SAME = ["TEXT 1  of rate 1 and bond 1", "text 5 OF rate 5 and bond 5"]


def digest(text):
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


@pytest.fixture(params=[1, 3, 16, 200])
def pieces(request, tmp_path):
    """The corpus in so many ranges, from two spill files that overlap; with 200 ranges some are empty."""
    for number, part in enumerate((TEXTS[:70], [*TEXTS[50:], *SAME])):
        spill(
            tmp_path / f"{number}.arrow", digest_texts(part), {"text": pa.array(part, pa.large_string())}, distinct=True
        )
    files = sorted(tmp_path.glob("*.arrow"))
    return [build_texts(files, number, request.param, tmp_path / "corpora") for number in range(request.param)]


def test_pieces_have_the_ids_of_the_whole(pieces, tmp_path):
    whole, sliced = Corpus.build([pa.array([*TEXTS, *SAME])], tmp_path / "whole"), SlicedCorpus(pieces)
    assert len(sliced) == len(whole) == 122
    everything = np.arange(122)
    assert sliced.texts(everything) == whole.texts(everything) == sorted({*TEXTS, *SAME}, key=digest)
    asked = [*TEXTS[::7], "not there", *SAME]
    assert np.array_equal(sliced.ids(asked), whole.ids(asked))
    assert np.array_equal(sliced.digests_of(everything), whole.digests)
    rows = np.arange(len(asked)) // 2
    mine, theirs = (corpus.ids_of_same(asked, rows, 20) for corpus in (sliced, whole))
    assert np.array_equal(mine.offsets, theirs.offsets)
    assert np.array_equal(mine.values, theirs.values)
    keys = np.unique(digest_texts(["text 1 of rate 1 and bond 1"]))
    assert np.array_equal(sliced.have_form(keys), whole.have_form(keys))
    assert sliced.have_form(keys).sum() == 2


def test_a_range_begins_where_the_one_before_ends(tmp_path):
    digests = digest_texts(TEXTS)
    spill(tmp_path / "x.arrow", digests, {"number": pa.array(range(120))})
    for count in (1, 2, 7, 1000):
        numbers = ranges_of(digests, count)
        assert np.array_equal(numbers, [int.from_bytes(digest(text)[:4], "big") * count >> 32 for text in TEXTS])
        read = [set() for _ in range(count)]
        for number in range(count):
            for table in read_spills([tmp_path / "x.arrow"], number, count):
                read[number] |= set(table["number"].to_pylist())
        assert read == [set(np.flatnonzero(numbers == number).tolist()) for number in range(count)]


def test_texts_that_are_dropped_are_gone(tmp_path):
    path = Corpus.build([pa.array(TEXTS)], tmp_path).path
    left = drop_texts(path, digest_texts(TEXTS[3:5]), tmp_path)
    assert set(Corpus(left).texts(np.arange(118))) == {*TEXTS[:3], *TEXTS[5:]}
    assert drop_texts(path, digest_texts(["other"]), tmp_path) == path
    assert drop_texts(path, digest_texts(TEXTS), tmp_path) is None


def test_vectors_of_other_ranges_are_found(tmp_path):
    EmbeddingStore(tmp_path)
    teacher = HashTeacher()
    digests = digest_texts(TEXTS)
    for number in range(2):
        own = ranges_of(digests, 2) == number
        range_store(tmp_path, number, 2).embed(teacher, "passage", pa.array(TEXTS).filter(pa.array(own)), digests[own])
    for number in range(3):
        wanted = digests[ranges_of(digests, 3) == number]
        stores = list(overlapping_stores(tmp_path, number, 3))
        assert len(stores) == [2, 3, 2][number]  # the whole store, and the halves that a third has a part in
        found = set()
        for store in stores:
            missing = store.space(teacher, "passage").missing(wanted)
            found |= set(np.delete(wanted, missing).tolist())
        assert found == set(wanted.tolist())


@pytest.mark.parametrize("variant", ["okapi", "l", "plus"])
def test_postings_in_pieces_score_as_those_of_the_whole(pieces, tmp_path, variant):
    teacher = BM25Teacher(variant)
    whole = Corpus.build([pa.array([*TEXTS, *SAME])], tmp_path / "whole")
    scorer = teacher.scorer(whole, tmp_path / "index")
    filled = [path for path in pieces if path is not None]
    for path in filled:
        count_piece(Corpus(path), teacher.tokenizer, tmp_path / "counts" / path.stem)
    merge_terms(
        [tmp_path / "counts" / path.stem for path in filled],
        teacher.tokenizer,
        teacher.formula,
        tmp_path / "terms.arrow",
    )
    anchors = ["rate 3 bond 7 bond", "text of nothing"]
    want = next(scorer.scores(anchors).tiles(0, 2))[1].copy()
    start = 0
    for path in filled:
        build_piece(tmp_path / "counts" / path.stem, tmp_path / "terms.arrow", teacher.formula, tmp_path / path.stem)
        piece = BM25Scorer(teacher, Index(tmp_path / path.stem, tmp_path / "terms.arrow"))
        got = next(piece.scores(anchors).tiles(0, 2))[1]
        assert np.array_equal(got, want[:, start : start + piece.num_passages])
        start += piece.num_passages
    assert start == 122
    assert Index(tmp_path / filled[0].stem, tmp_path / "terms.arrow").vocabulary == scorer.index.vocabulary


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 300), max_size=4))
def test_sums_do_not_depend_on_the_order_or_the_cuts(seed, cuts):
    random = np.random.default_rng(seed)
    vectors = (random.standard_normal((300, 5)) * random.choice([1e-3, 1, 30])).astype(np.float32)
    whole = column_sums(vectors)
    parts = np.split(vectors[random.permutation(300)], sorted(cuts))
    assert tuple(map(sum, zip(*(column_sums(part) for part in parts), strict=True))) == whole
    assert np.allclose(mean_vector(whole, 300), vectors.astype(np.float64).mean(axis=0), rtol=0, atol=UNIT)


def test_a_cut_search_and_merged_answers():
    excluded = Ragged(np.array([0, 3, 4]), np.array([1, 5, 9, 6]))
    search = Search(np.array([0.5, 0.6]), 2, excluded, np.arange(10) % 2 == 0)
    own = cut(search, 5, 9)
    assert own.excluded.offsets.tolist() == [0, 1, 2]
    assert own.excluded.values.tolist() == [0, 1]
    assert own.blocked.tolist() == [False, True, False, True]
    low, nothing = np.float32(-np.inf), -1
    parts = [Found(np.array([[1, 3]]), np.array([[0.4, 0.2]], np.float32)),
             Found(np.array([[7, nothing]]), np.array([[0.4, low]], np.float32))]  # fmt: skip
    merged = merge_found(parts, 2)
    assert merged.ids.tolist() == [[1, 7]]


def test_a_piece_has_its_share_of_the_lists():
    assert index_of_piece("IVF4096,SQ8", 64) == "IVF64,SQ8"
    assert index_of_piece("IVF8,SQ8", 100) == "IVF1,SQ8"
