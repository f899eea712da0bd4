import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset

from hn_datasets import PrecomputedTeacher
from hn_datasets.errors import ArgumentError, TeacherError, TextError, VectorError

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
        PrecomputedTeacher(
            (QUERIES[0] * 2, torch.eye(2, dtype=torch.bfloat16).repeat(2, 1)),
            [PASSAGES[0], torch.tensor(PASSAGES[1], requires_grad=True)],
        ),
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
        (([], []), {}, VectorError, r"shape \[0, d\]"),
        ((["p", "r"], [[1, 0], None]), {}, VectorError, "rows of numbers"),
        ((["p"], [["one", "zero"]]), {}, VectorError, "rows of numbers.*'one'"),
        ((["p"], 1.0), {}, VectorError, "rows of numbers.*float"),
        ((["p"], [[1e300, 0]]), {"similarity": "dot"}, VectorError, "infinite values in row 0"),
        ((["p"], "missing.npy"), {}, VectorError, "No such file"),
        ((["p", None], [[1, 0], [0, 1]]), {}, TextError, "got NoneType in row 1"),
        (("p", [[1, 0]]), {}, ArgumentError, r"passages as \(texts, vectors\)"),
        ([[1, 0]], {}, ArgumentError, r"passages as \(texts, vectors\)"),
        (np.eye(2), {}, ArgumentError, "got ndarray"),
    ],
)
def test_vectors_that_cannot_be_used(passages, options, error, message):
    with pytest.raises(error, match=message):
        PrecomputedTeacher(QUERIES, passages, **options)


def test_a_missing_text_is_counted_and_named():
    with pytest.raises(TeacherError, match=r"2 of 3 passages have none, first 'x'"):
        PrecomputedTeacher(QUERIES, PASSAGES).encode(["p1", "x", "y"], "passage")


@pytest.mark.parametrize("kind", ["text", "objects", "archive", "empty"])
def test_a_file_without_an_array_of_numbers_is_a_clear_error(tmp_path, kind):
    path = tmp_path / f"{kind}.npy"
    if kind == "objects":
        np.save(path, np.array([None, [1]], dtype=object), allow_pickle=True)
    elif kind == "archive":
        with path.open("wb") as file:
            np.savez(file, vectors=np.eye(2))
    else:
        path.write_text("no array" if kind == "text" else "")
    with pytest.raises(VectorError, match="Expected queries with vectors") as raised:
        PrecomputedTeacher((["q1", "q2"], path), PASSAGES)
    assert "\n" not in str(raised.value)


def test_vectors_stored_as_float16_count_as_unit_vectors():
    vectors = np.random.default_rng(0).standard_normal((100, 384))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    texts = [str(number) for number in range(100)]
    assert PrecomputedTeacher((texts, vectors), (texts, vectors)).dimension == 384


def test_the_users_arrays_are_neither_changed_nor_watched():
    vectors = np.array([[3.0, 4.0]], dtype=np.float32)
    teacher = PrecomputedTeacher((["q"], vectors), (["p"], vectors), normalize=True)
    assert vectors.tolist() == [[3, 4]]
    before = teacher.encode(["p"], "passage").tolist()
    vectors[:] = 0
    assert teacher.encode(["p"], "passage").tolist() == before


def test_it_travels_without_its_vectors():
    texts = [str(number) for number in range(1000)]
    vectors = np.tile([[1.0, 0.0]], (1000, 1))
    data = pickle.dumps(PrecomputedTeacher((texts, vectors), (texts, vectors)))
    assert len(data) < 1000
    with pytest.raises(TeacherError, match="stay in the process that made it"):
        pickle.loads(data).encode(["1"], "anchor")
