"""Dense teachers: what their vectors are, and that no other model ever gets them."""

import copy
import pickle
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from hn_datasets.errors import ArgumentError, MissingPromptWarning, TeacherError
from hn_datasets.teachers.dense import DenseTeacher, digest_model
from hn_datasets.teachers.loading import as_teacher, teacher_from_spec
from tests.use_module import UseModule

TEXTS = ["What is a hard negative?", "A passage that looks right and is not.", "금리가 올랐다", "x " * 400]


@pytest.fixture(scope="module")
def model(minilm_path):
    return SentenceTransformer(str(minilm_path), device="cpu")


@pytest.fixture(scope="module")
def reference(model):
    return model.encode(TEXTS, normalize_embeddings=True)


def test_vectors_are_those_of_sentence_transformers(minilm_path, reference):
    teacher = DenseTeacher(minilm_path, precision="float32")
    np.testing.assert_allclose(teacher.encode(TEXTS, "anchor"), reference, atol=1e-6)
    assert teacher.dimension == 384
    assert teacher.similarity == "cosine"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_lower_precision_stays_close(minilm_path, reference, precision):
    vectors = DenseTeacher(minilm_path, precision=precision).encode(TEXTS, "passage")
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors * reference).sum(axis=1).min() > 0.999


def test_a_loaded_model_is_not_changed(model):
    before = digest_model(model), model.max_seq_length, next(model.parameters()).dtype
    teacher = DenseTeacher(model, precision="bfloat16", max_seq_length=8, query_prompt="query: ")
    teacher.encode(TEXTS, "anchor")
    assert (digest_model(model), model.max_seq_length, next(model.parameters()).dtype) == before


def test_all_that_decides_a_vector_is_in_its_address(model):
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        next(tuned.parameters())[0, 0] += 1e-3
    variants = [
        DenseTeacher(model),
        DenseTeacher(tuned),
        DenseTeacher(model, query_prompt="query: "),
        DenseTeacher(model, max_seq_length=100),
        DenseTeacher(model, truncate_dim=128),
        DenseTeacher(model, precision="bfloat16"),
    ]
    assert len({teacher.space("anchor") for teacher in variants}) == len(variants)


def test_roles_share_vectors_only_when_their_prompts_are_equal(model):
    plain = DenseTeacher(model)
    assert plain.space("anchor") == plain.space("passage")
    prompted = DenseTeacher(model, query_prompt="query: ")
    assert prompted.space("anchor") != prompted.space("passage") == plain.space("passage")


def test_prompts_are_put_before_the_texts(model, minilm_path):
    teacher = DenseTeacher(model, query_prompt="query: ", corpus_prompt="passage: ")
    plain = DenseTeacher(model)
    for role, prompt in (("anchor", "query: "), ("passage", "passage: ")):
        expected = plain.encode([prompt + text for text in TEXTS[:3]], "anchor")
        np.testing.assert_allclose(teacher.encode(TEXTS[:3], role), expected, atol=1e-6)


def test_prompts_by_name_and_the_models_own(minilm_path):
    model = SentenceTransformer(
        str(minilm_path), device="cpu", prompts={"query": "Q: ", "passage": "P: ", "other": "O: "}
    )
    own = DenseTeacher(model).spec()
    assert (own["query_prompt"], own["corpus_prompt"]) == ("Q: ", "P: ")
    assert DenseTeacher(model, query_prompt="other").spec()["query_prompt"] == "O: "
    assert DenseTeacher(model, query_prompt="").spec()["query_prompt"] == ""
    with pytest.raises(ArgumentError, match="'qeury' is no prompt of the model"):
        DenseTeacher(model, query_prompt="qeury")


def test_a_family_that_needs_prompts_says_so(minilm_path, tmp_path):
    folder = tmp_path / "multilingual-e5-small"
    shutil.copytree(minilm_path, folder)
    with pytest.warns(MissingPromptWarning, match="query_prompt='query: '"):
        DenseTeacher(folder)
    DenseTeacher(folder, query_prompt="query: ", corpus_prompt="passage: ")
    DenseTeacher(folder, query_prompt="", corpus_prompt="")


def test_a_model_that_cannot_be_loaded(tmp_path):
    with pytest.raises(TeacherError, match=r"no/such-model.*folder.*Hub.*HF_HUB_OFFLINE=1"):
        DenseTeacher("no/such-model")
    with pytest.raises(TeacherError, match="Could not load"):
        DenseTeacher(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int8"}, "precision to be one of"),
        ({"batch_size": 0}, "batch_size of at least 1"),
        ({"max_seq_length": 0}, "max_seq_length of at least 1"),
        ({"truncate_dim": 1000}, "truncate_dim of at most 384"),
        ({"revision": "main"}, "no effect on a loaded model"),
    ],
)
def test_arguments_out_of_range_or_without_effect(model, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        DenseTeacher(model, **arguments)


def test_a_truncated_dimension_is_of_unit_length_again(model, reference):
    vectors = DenseTeacher(model, truncate_dim=64).encode(TEXTS, "anchor")
    cut = reference[:, :64] / np.linalg.norm(reference[:, :64], axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, cut, atol=1e-6)


def test_a_teacher_travels_as_its_spec(minilm_path):
    teacher = DenseTeacher(minilm_path, precision="float32", max_seq_length=32)
    data = pickle.dumps(teacher)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert again.spec() == teacher.spec()
    np.testing.assert_allclose(again.encode(TEXTS, "anchor"), teacher.encode(TEXTS, "anchor"), atol=1e-6)
    assert teacher_from_spec(as_teacher(teacher).spec()) is teacher


def test_weights_that_changed_since_are_refused(minilm_path, model, tmp_path):
    folder = tmp_path / "model"
    model.save(str(folder))
    teacher = pickle.loads(pickle.dumps(DenseTeacher(folder)))
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        next(tuned.parameters())[0, 0] += 1e-3
    tuned.save(str(folder))
    with pytest.raises(TeacherError, match="the model has changed"):
        teacher.encode(TEXTS, "anchor")


def test_several_devices_give_the_same_vectors(minilm_path, reference):
    teacher = DenseTeacher(minilm_path, precision="float32", device=["cpu", "cpu"])
    np.testing.assert_allclose(teacher.encode(TEXTS, "passage"), reference, atol=1e-6)
    teacher.close()


def test_other_similarities(model):
    dot = copy.deepcopy(model)
    dot.similarity_fn_name = "dot"
    assert DenseTeacher(dot).similarity == "dot"
    dot.similarity_fn_name = "euclidean"
    with pytest.raises(ArgumentError, match="cosine or dot similarity, got 'euclidean'"):
        DenseTeacher(dot)


def test_a_model_without_weights_is_known_by_its_vectors():
    class Other(UseModule):
        def forward(self, features, **_):
            return {**features, "sentence_embedding": features["vectors"].flip(1)}

    Other.__qualname__ = "UseModule"
    use, other = (SentenceTransformer(modules=[kind()], device="cpu") for kind in (UseModule, Other))
    teacher = DenseTeacher(use)
    assert teacher.space("anchor") != DenseTeacher(other).space("anchor")
    korean = teacher.encode(["기준금리가 올랐다", "중앙은행이 이자율을 인상했다", "오늘은 비가 온다"], "passage")
    assert korean[0] @ korean[1] > korean[0] @ korean[2]
