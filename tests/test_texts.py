import numpy as np
import pyarrow as pa
import pytest

from hn_datasets.errors import TextError
from hn_datasets.texts import AnchorPositives, Corpus, Ragged, digest_texts, find, is_empty, normalise


@pytest.mark.parametrize(
    ("one", "other"),
    [("Ｆｕｌｌ Width", "full  width"), ("STRASSE", "straße"), ("a\u00a0b\n", " A b"), ("한글", "한글")],
)
def test_texts_that_differ_only_in_width_case_and_space_count_as_the_same(one, other):
    assert normalise(one) == normalise(other)


def test_different_words_stay_different():
    assert normalise("margin 0.95") != normalise("margin 0.9 5")


def test_ids_depend_on_the_set_of_texts_alone(tmp_path):
    texts = [f"text {number}" for number in range(50)]
    one = Corpus.build([pa.array(texts), pa.array(texts[:5])], tmp_path / "one")
    other = Corpus.build([pa.array(texts[::-1][:30]), pa.array(texts[:20])], tmp_path / "other")
    assert one.digest == other.digest
    assert len(one) == 50
    assert (one.ids(texts) == other.ids(texts)).all()
    assert [one[number] for number in one.ids(texts)] == texts
    assert one.texts(one.ids(texts[7:9])) == texts[7:9]


def test_a_text_that_the_corpus_lacks_has_no_id(tmp_path):
    corpus = Corpus.build([pa.array(["a", "b"])], tmp_path)
    assert corpus.ids(["a", "c"]).tolist()[1] == -1
    assert corpus.ids([]).tolist() == []


def test_a_corpus_needs_a_text(tmp_path):
    with pytest.raises(TextError, match="at least one passage"):
        Corpus.build([pa.array([], pa.string())], tmp_path)


def test_passages_equal_after_folding_are_found_for_each_row(tmp_path):
    corpus = Corpus.build([pa.array(["Card", "card ", "ｃａｒｄ", "cards", "loan"])], tmp_path)
    same = corpus.ids_of_same(["CARD", "x", "LOAN", "loan"], np.array([0, 1, 2, 2]), 4)
    assert [sorted(corpus.texts(same[row])) for row in range(4)] == [["Card", "card ", "ｃａｒｄ"], [], ["loan"], []]


def test_an_anchor_has_the_positives_of_all_its_rows(tmp_path):
    positives = AnchorPositives.build(digest_texts(["q", "r", "q", "q"]), np.array([4, 1, 2, 4]), tmp_path)
    found = positives.of(["q", "unknown", "r"])
    assert [found[row].tolist() for row in range(3)] == [[2, 4], [], [1]]


def test_ragged_lists_are_distinct_and_rising():
    lists = Ragged.from_pairs(np.array([1, 1, 0, 1]), np.array([9, 3, 5, 3]), 3)
    assert [lists[row].tolist() for row in range(3)] == [[5], [3, 9], []]
    taken = lists.take(np.array([1, -1, 0]))
    assert [taken[row].tolist() for row in range(3)] == [[3, 9], [], [5]]
    assert taken.rows.tolist() == [0, 0, 2]


def test_find_in_nothing():
    assert find(digest_texts([]), digest_texts(["a"])).tolist() == [-1]


def test_what_counts_as_empty():
    assert is_empty(pa.array(["a", "", None, " \n\t", "\u3000"], pa.large_string())).tolist() == [0, 1, 1, 1, 1]
