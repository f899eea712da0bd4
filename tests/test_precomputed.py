import numpy as np
import pytest
from datasets import Dataset

from hn_datasets import PrecomputedTeacher
from hn_datasets.errors import ArgumentError, TeacherError, VectorError

QUERIES = (["q1", "q2"], np.array([[1, 0], [0, 1]]))
PASSAGES = (["p1", "p2", "p3"], np.array([[1, 0], [0.6, 0.8], [0, -1]]))


def test_vectors_come_back_by_text():
    teacher = PrecomputedTeacher(QUERIES, PASSAGES)
    assert teacher.encode(["p3", "p1"], "passage").tolist() == [[0, -1], [1, 0]]
    assert teacher.encode(["q2"], "anchor").tolist() == [[0, 1]]


def test_vectors_from_columns_lists_and_files_are_the_same_teacher(tmp_path):
    np.save(tmp_path / "q.npy", QUERIES[1].astype(np.float32))
    dataset = Dataset.from_dict({"text": PASSAGES[0], "vector": PASSAGES[1].tolist()})
    teachers = [
        PrecomputedTeacher(QUERIES, PASSAGES),
        PrecomputedTeacher((QUERIES[0], tmp_path / "q.npy"), (dataset["text"], dataset["vector"])),
        PrecomputedTeacher((QUERIES[0][::-1], QUERIES[1][::-1]), (PASSAGES[0], PASSAGES[1].tolist())),
    ]
    assert len({teacher.space("passage") + teacher.space("anchor") for teacher in teachers}) == 1


def test_other_vectors_have_another_address():
    moved = (PASSAGES[0], np.array([[1, 0], [0.8, 0.6], [0, -1]]))
    one, other = PrecomputedTeacher(QUERIES, PASSAGES), PrecomputedTeacher(QUERIES, moved)
    assert one.space("passage") != other.space("passage")
    assert one.space("anchor") == other.space("anchor")


def test_lengths_are_brought_to_one_on_request():
    teacher = PrecomputedTeacher(QUERIES, (["p"], [[3, 4]]), normalize=True)
    np.testing.assert_allclose(teacher.encode(["p"], "passage"), [[0.6, 0.8]], atol=1e-7)
    assert PrecomputedTeacher(QUERIES, (["p"], [[3, 4]]), similarity="dot").encode(["p"], "passage").tolist() == [
        [3, 4]
    ]


@pytest.mark.parametrize(
    ("passages", "options", "error", "message"),
    [
        ((["p"], [[1, 0], [0, 1]]), {}, VectorError, r"shape \[1, d\], got \[2, 2\]"),
        ((["p"], [1.0]), {}, VectorError, "shape"),
        ((["p", "r"], [[1, 0], [1]]), {}, VectorError, "one length"),
        ((["p"], [[1, 0, 0]]), {}, VectorError, "Expected one dimension"),
        ((["p", "r"], [[1, 0], [np.nan, 0]]), {}, VectorError, "row 1"),
        ((["p"], [[np.inf, 0]]), {}, VectorError, "finite"),
        ((["p"], [[3, 4]]), {}, VectorError, "length 5.0000 in row 0.*normalize=True"),
        ((["p"], [[0, 0]]), {"normalize": True}, VectorError, "all zeros in row 0"),
        ((["p", "p"], [[1, 0], [0, 1]]), {}, VectorError, "one vector per text"),
        ((["p"], [[3, 4]]), {"similarity": "dot", "normalize": True}, ArgumentError, "contradicts"),
        ((["p"], [[1, 0]]), {"similarity": "l2"}, ArgumentError, "'cosine' or 'dot'"),
    ],
)
def test_vectors_that_cannot_be_used(passages, options, error, message):
    with pytest.raises(error, match=message):
        PrecomputedTeacher(QUERIES, passages, **options)


def test_a_missing_text_is_counted_and_named():
    with pytest.raises(TeacherError, match=r"2 of 3 passages have none, first 'x'"):
        PrecomputedTeacher(QUERIES, PASSAGES).encode(["p1", "x", "y"], "passage")
