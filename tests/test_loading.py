"""From a name, a model or a spec to a teacher."""

import gc
import json

import numpy as np
import pytest

from hn_datasets import BM25Teacher, DenseTeacher, PrecomputedTeacher
from hn_datasets.errors import ArgumentError, TeacherError
from hn_datasets.teachers.loading import as_teacher, teacher_from_spec
from tests.static_model import make_static_model, save_static_model
from tests.teachers import HashTeacher

TEXTS = ["a hard negative", "right passage of text"]


@pytest.fixture
def folder(tmp_path):
    return save_static_model(tmp_path / "model")


def test_a_teacher_is_made_of_whatever_a_user_gives(folder):
    assert isinstance(as_teacher("bm25"), BM25Teacher)
    for given in (folder, str(folder), make_static_model()):
        assert isinstance(as_teacher(given), DenseTeacher)
    for ready in (HashTeacher(), BM25Teacher(), DenseTeacher(folder)):
        assert as_teacher(ready) is ready


def test_options_reach_the_model_and_those_not_set_do_not(folder):
    teacher = as_teacher(folder, query_prompt="query: ", corpus_prompt=None, batch_size=7)
    assert teacher.spec()["query_prompt"] == "query: "
    assert teacher.spec()["corpus_prompt"] == ""
    assert teacher.batch_size == 7


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        ("bm25", {"batch_size": 7, "query_prompt": "q"}, "batch_size, query_prompt has no effect on BM25"),
        (HashTeacher(), {"batch_size": 7}, "batch_size has no effect on a ready teacher"),
        (BM25Teacher(), {"corpus_prompt": "p"}, "corpus_prompt has no effect on a ready teacher"),
        (None, {}, "got NoneType"),
        (HashTeacher, {}, "Expected a teacher as 'bm25', .* got type"),
        (np.eye(2), {}, "got ndarray"),
    ],
)
def test_what_is_no_teacher_or_has_no_effect_is_refused(teacher, options, message):
    with pytest.raises(ArgumentError, match=message):
        as_teacher(teacher, **options)


def test_a_spec_finds_the_teacher_of_this_process_while_it_lives():
    teacher = as_teacher(HashTeacher(name="found by its spec"))
    spec = json.loads(json.dumps(teacher.spec()))
    assert teacher_from_spec(spec) is teacher
    del teacher
    gc.collect()
    with pytest.raises(TeacherError, match="type dense, bm25, precomputed, ensemble, got 'hash'"):
        teacher_from_spec(spec)


def test_a_dense_teacher_comes_back_from_its_spec(folder):
    teacher = DenseTeacher(folder, query_prompt="query ", truncate_dim=8)
    again = teacher_from_spec(json.loads(json.dumps(teacher.spec())))
    assert again is not teacher
    assert again.spec() == teacher.spec()
    for role in ("anchor", "passage"):
        assert again.space(role) == teacher.space(role)
        np.testing.assert_array_equal(again.encode(TEXTS, role), teacher.encode(TEXTS, role))


def test_a_bm25_teacher_comes_back_from_its_spec():
    teacher = BM25Teacher(variant="plus", k1=1.2)
    assert teacher_from_spec(json.loads(json.dumps(teacher.spec()))).spec() == teacher.spec()


def test_precomputed_vectors_come_back_by_their_address_alone():
    pair = (["a", "b"], np.eye(2))
    spec = PrecomputedTeacher(pair, pair, similarity="dot").spec()
    again = teacher_from_spec(json.loads(json.dumps(spec)))
    assert again.spec() == spec
    assert again.similarity == "dot"
    assert again.dimension == 2
    assert again.space("anchor") == PrecomputedTeacher(pair, pair, similarity="dot").space("anchor")
    with pytest.raises(TeacherError, match=r"first 'a'.*build the miner on all of them"):
        again.encode(["a"], "anchor")


def spec_of(kind, folder):
    pair = (["a", "b"], np.eye(2))
    makers = {
        "dense": lambda: DenseTeacher(folder),
        "bm25": BM25Teacher,
        "precomputed": lambda: PrecomputedTeacher(pair, pair),
    }
    return json.loads(json.dumps(makers[kind]().spec()))


@pytest.mark.parametrize("kind", ["dense", "bm25", "precomputed"])
def test_a_spec_with_a_field_missing_or_of_another_type_is_refused(folder, kind):
    spec = spec_of(kind, folder)
    assert teacher_from_spec(spec).spec() == spec
    for field in spec.keys() - {"type", "roles_differ"}:
        missing = {name: value for name, value in spec.items() if name != field}
        for wrong in (missing, {**spec, field: [1]}, {**spec, field: {"a": 1}}):
            with pytest.raises(ArgumentError, match=rf"{field}|\bspec\b") as caught:
                teacher_from_spec(wrong)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [None, "other", [1], {}])
def test_a_spec_of_an_unknown_type_is_refused(kind):
    with pytest.raises(TeacherError, match="Expected a teacher of type dense, bm25, precomputed"):
        teacher_from_spec({"type": kind})


def test_true_is_no_number(folder):
    with pytest.raises(ArgumentError, match=r"'dimension' \(int\) in the spec of a dense teacher, got True"):
        teacher_from_spec({**spec_of("dense", folder), "dimension": True})


def test_a_spec_runs_code_of_a_model_only_where_that_is_wanted(minilm_path):
    spec = {**DenseTeacher(minilm_path).spec(), "trust_remote_code": True}
    with pytest.raises(TeacherError, match="runs code of its own on this machine") as raised:
        teacher_from_spec(spec)
    assert "\n" not in str(raised.value)
    assert teacher_from_spec(spec, trust_remote_code=True).spec()["trust_remote_code"]
