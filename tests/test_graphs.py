"""Models with the ONNX or OpenVINO backend: they work as teachers, and nothing else ever gets their vectors."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModel

from hn_datasets.errors import ArgumentError, TeacherError
from hn_datasets.teachers.cross_encoder import PairScorer
from hn_datasets.teachers.dense import DenseTeacher
from hn_datasets.teachers.loading import teacher_from_spec
from tests import exported_graphs
from tests.tiny_transformer import make_tiny_model

TEXTS = [
    "What is a hard negative?",
    "A passage that looks right and is not.",
    "",
    *(f"text {n} " * n for n in range(99)),
]


@pytest.fixture
def folder(minilm_path, tmp_path, monkeypatch):
    exported_graphs.install(monkeypatch)
    make_tiny_model(minilm_path, tmp_path / "parts").save(str(tmp_path / "model"), create_model_card=False)
    return str(tmp_path / "model")


def load(folder, backend, **options):
    return SentenceTransformer(folder, device="cpu", backend=backend, model_kwargs=options)


def change_weights(folder):
    network = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        next(network.parameters())[0, 0] += 1e-3
    network.save_pretrained(folder)


@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_vectors_are_those_of_the_model_also_in_another_process(folder, backend):
    teacher = DenseTeacher(load(folder, backend))
    expected = load(folder, backend).encode(TEXTS, normalize_embeddings=True, batch_size=1)
    atol = 2e-2 if backend == "openvino" else 1e-6  # bfloat16 depends on the padding
    np.testing.assert_allclose(teacher.encode(TEXTS, "passage"), expected, atol=atol)
    again = pickle.loads(pickle.dumps(teacher))
    assert again._model.get_backend() == backend
    assert (again.encode(TEXTS, "passage") == teacher.encode(TEXTS, "passage")).all()


def test_backend_precision_and_file_are_in_the_spec(folder):
    half, onnx = DenseTeacher(load(folder, "openvino")).spec(), DenseTeacher(load(folder, "onnx")).spec()
    assert (half["backend"], half["precision"], half.get("file")) == ("openvino", "bfloat16", None)
    assert (onnx["backend"], onnx["precision"], onnx["file"]) == ("onnx", "as exported", "model.onnx")
    assert not {"backend", "file"} & DenseTeacher(folder, precision="float32").spec().keys()


def test_every_backend_precision_and_file_has_vectors_of_its_own(folder):
    (Path(folder) / "model_bf16.onnx").touch()
    teachers = [
        DenseTeacher(folder, precision="float32"),
        DenseTeacher(folder, precision="bfloat16"),
        DenseTeacher(load(folder, "openvino")),
        DenseTeacher(load(folder, "openvino", ov_config={"INFERENCE_PRECISION_HINT": "f32"})),
        DenseTeacher(load(folder, "onnx")),
        DenseTeacher(load(folder, "onnx", file_name="model_bf16.onnx")),
    ]
    assert len({teacher.space("anchor") for teacher in teachers}) == len(teachers)


@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_the_graph_is_known_by_its_weights_beside_those_of_torch(folder, backend, tmp_path):
    """The dense layer after the transformer has weights in torch, and they alone say nothing of the graph."""
    first, again = (DenseTeacher(load(folder, backend)) for _ in range(2))
    assert first.space("anchor") == again.space("anchor")
    change_weights(folder)
    assert DenseTeacher(load(folder, backend)).space("anchor") != first.space("anchor")
    with pytest.raises(TeacherError, match="the model has changed"):
        pickle.loads(pickle.dumps(first)).encode(TEXTS, "anchor")


def test_a_precision_that_was_chosen_travels_with_the_teacher(folder, monkeypatch):
    exact = DenseTeacher(load(folder, "openvino", ov_config={"INFERENCE_PRECISION_HINT": "f32"}))
    assert exact.spec()["precision"] == "float32"
    expected = exact.encode(TEXTS, "anchor")
    assert (pickle.loads(pickle.dumps(exact)).encode(TEXTS, "anchor") == expected).all()
    assert np.abs(DenseTeacher(load(folder, "openvino")).encode(TEXTS, "anchor") - expected).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float32"}, "openvino backend, which computes in bfloat16"),
        ({"device": ["cpu", "cpu"]}, "openvino backend, which uses all cores"),
    ],
)
def test_options_without_effect(folder, options, message):
    with pytest.raises(ArgumentError, match=message):
        DenseTeacher(load(folder, "openvino"), **options)


def test_a_backend_that_is_not_installed_is_one_line(folder, monkeypatch):
    spec = DenseTeacher(load(folder, "openvino")).spec()
    monkeypatch.setitem(exported_graphs.sys.modules, "optimum.intel.openvino", None)
    with pytest.raises(
        TeacherError, match=r"OpenVINO.*install what the openvino backend needs, or use .*'torch'"
    ) as raised:
        teacher_from_spec(spec).encode(TEXTS, "anchor")
    assert "\n" not in str(raised.value)


def test_a_cross_encoder_is_known_by_its_graph_too(folder):
    """Torch sees no weights of it at all."""

    def space():
        return PairScorer(CrossEncoder(folder, num_labels=1, device="cpu", backend="onnx")).space("pair")

    before = space()
    assert space() == before
    change_weights(folder)
    assert space() != before
