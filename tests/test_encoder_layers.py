"""Layers in bfloat16: what those of transformers compute, and no other model is touched."""

import copy
import multiprocessing

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from hn_datasets.teachers import encoder_layers, models
from hn_datasets.teachers.dense import DenseTeacher
from hn_datasets.teachers.encoder_layers import EncoderLayer, quicken_layers
from tests.tiny_transformer import make_tiny_model

TEXTS = ["one text", "another text " * 30, "x", "금리가 올랐다"]
SIZES = {"hidden_size": 32, "intermediate_size": 80, "num_attention_heads": 2, "num_hidden_layers": 3}
NETWORKS = {
    "bert": lambda **sizes: BertModel(BertConfig(vocab_size=99, **SIZES, **sizes)),
    "roberta": lambda **sizes: RobertaModel(RobertaConfig(vocab_size=99, **SIZES, **sizes)),
    "xlm-roberta": lambda **sizes: XLMRobertaModel(XLMRobertaConfig(vocab_size=99, **SIZES, **sizes)),
    "distilbert": lambda **sizes: DistilBertModel(
        DistilBertConfig(vocab_size=99, dim=32, hidden_dim=80, n_heads=2, n_layers=3, **sizes)
    ),
}


class Holder:
    """As much of a SentenceTransformer as there has to be."""

    def __init__(self, network):
        self.transformers_model = network


def make_network(kind, **sizes):
    """Return a network with weights as large as trained ones, so that every part of it matters."""
    torch.manual_seed(0)
    network = NETWORKS[kind](**sizes).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            drawn = torch.randn_like(parameter) / max(1, parameter.shape[-1]) ** 0.5
            parameter.copy_(drawn + 1 if parameter.ndim == 1 else drawn)
    return network


def quickened(network):
    """Return a copy in bfloat16, with the layers of this package if they fit."""
    quick = copy.deepcopy(network).to(torch.bfloat16)
    quicken_layers(Holder(quick))
    return quick


def layers_of(network):
    return [module for module in network.modules() if isinstance(module, EncoderLayer)]


def states_of(network, num_texts=3):
    """Return what a network makes of texts of 20, 7 and 1 tokens, float64, without padding."""
    ids = torch.randint(3, 99, (3, 20), generator=torch.Generator().manual_seed(1))[:num_texts]
    mask = (torch.arange(20) < torch.tensor([[20], [7], [1]])).long()[:num_texts]
    with torch.inference_mode():
        return network(input_ids=ids, attention_mask=mask).last_hidden_state.double()[mask.bool()]


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_states_are_those_of_transformers(kind, activation):
    network = make_network(kind, **{"activation" if kind == "distilbert" else "hidden_act": activation})
    quick = quickened(network)
    assert len(layers_of(quick)) == 3
    exact, rounded, found = states_of(network), states_of(copy.deepcopy(network).to(torch.bfloat16)), states_of(quick)
    error, usual = ((states - exact).norm() / exact.norm() for states in (found, rounded))
    assert error < 1.25 * usual < 0.05


def test_other_texts_and_their_padding_have_no_influence():
    quick = quickened(make_network("bert"))
    torch.testing.assert_close(states_of(quick, 1), states_of(quick)[:20], atol=0.02, rtol=0.02)


def test_layers_without_packed_weights(monkeypatch):
    network = make_network("bert")
    packed = states_of(quickened(network))
    monkeypatch.setattr(encoder_layers, "PACKS", False)
    assert (states_of(quickened(network)) - packed).abs().max() < 0.1


@pytest.mark.parametrize("size", [0.0, 1e-3, 0.1, 1.0, 4.0, 5.0, 100.0, 1e30])
def test_gelu(size):
    numbers = (torch.linspace(-1, 1, 1001) * size).bfloat16()[None]
    expected = torch.nn.functional.gelu(numbers.double())
    found = encoder_layers._gelu(numbers.clone()).double()
    assert ((found - expected).abs() <= 5e-5 + expected.abs() * 2**-8).all()


def test_numbers_that_are_none_stay_none():
    numbers = torch.tensor([[torch.nan, 1.0]]).bfloat16()
    assert encoder_layers._gelu(numbers).isnan().tolist() == [[True, False]]


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.encoder.layer[1].output.dense.register_forward_hook(lambda *_: None),
        lambda network: network.encoder.layer[1].register_forward_pre_hook(lambda *_: None),
        lambda network: setattr(network.encoder.layer[1].output, "dense", torch.nn.Sequential(torch.nn.Linear(80, 32))),
        lambda network: torch.nn.utils.parametrizations.weight_norm(network.encoder.layer[2].intermediate.dense),
        lambda network: setattr(network.config, "output_hidden_states", True),
        lambda network: setattr(network.config, "is_decoder", True),
        lambda network: setattr(network.config, "_attn_implementation_internal", "eager"),
    ],
    ids=["hook", "pre-hook", "wrapped", "parametrised", "hidden states", "decoder", "eager"],
)
def test_a_network_that_was_changed_keeps_all_its_layers(change):
    network = make_network("bert").to(torch.bfloat16)
    change(network)
    quicken_layers(Holder(network))
    assert not layers_of(network)


def test_somebodys_subclass_keeps_its_layers():
    network = make_network("bert").to(torch.bfloat16)
    kind = type(network.encoder.layer[0])
    network.encoder.layer[0].__class__ = type(kind.__name__, (kind,), {"__module__": "somebody"})
    quicken_layers(Holder(network))
    assert not layers_of(network)


@pytest.mark.parametrize("fast", [True, False])
def test_only_bfloat16_where_it_is_fast(minilm_path, tmp_path, monkeypatch, fast):
    monkeypatch.setattr(models, "fast_precision", lambda device: "bfloat16" if fast else "float32")
    model = make_tiny_model(minilm_path, tmp_path / "encoder")
    teacher = DenseTeacher(model, precision="bfloat16")
    assert len(layers_of(teacher._model)) == fast
    assert not layers_of(DenseTeacher(model, precision="float32")._model)
    assert not layers_of(model)  # the owner's model is left alone
    decoder = make_tiny_model(minilm_path, tmp_path / "decoder", decoder=True)
    assert not layers_of(DenseTeacher(decoder, precision="bfloat16")._model)
    exact = DenseTeacher(model, precision="float32").encode(TEXTS, "passage")
    assert (teacher.encode(TEXTS, "passage") * exact).sum(axis=1).min() > 0.999


def test_a_model_in_other_processes_has_the_layers_of_transformers(minilm_path, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "fast_precision", lambda device: "bfloat16")
    make_tiny_model(minilm_path, tmp_path / "parts").save(str(tmp_path / "model"))
    teacher = DenseTeacher(tmp_path / "model", precision="bfloat16", device=["cpu", "cpu"])
    alone = DenseTeacher(tmp_path / "model", precision="bfloat16", device="cpu").encode(TEXTS, "passage")
    assert (teacher.encode(TEXTS, "passage") * alone).sum(axis=1).min() > 0.999
    teacher.close()


def test_a_model_that_was_loaded_to_attend_otherwise_goes_on_so(minilm_path):
    model = SentenceTransformer(str(minilm_path), device="cpu", model_kwargs={"attn_implementation": "eager"})
    teacher = DenseTeacher(model, precision="bfloat16")
    assert not layers_of(teacher._model)
    assert np.isfinite(teacher.encode(["a text"], "passage")).all()


@pytest.mark.parametrize(
    ("amx", "instruction", "faster", "expected"),
    [
        (True, True, False, "bfloat16"),
        (False, True, True, "bfloat16"),
        (False, True, False, "float32"),
        (False, False, True, "float32"),
    ],
)
def test_bfloat16_has_to_be_faster(monkeypatch, amx, instruction, faster, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instruction)
    monkeypatch.setattr(models, "_multiplies_bfloat16_faster", lambda: faster)
    assert models.fast_precision(torch.device("cpu")) == expected


def test_what_is_measured_leaves_torch_as_it_was():
    before = torch.get_num_threads(), torch.get_default_dtype()
    with torch.device("meta"):  # a default that products cannot be timed on
        assert models._multiplies_bfloat16_faster.__wrapped__() in (True, False)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before


@pytest.mark.parametrize("built", ["in the worker", "before"])
def test_a_forked_worker_whose_parent_has_computed(minilm_path, monkeypatch, built):
    """The threads of the parent do not come along, and an operation that waits for them never ends."""
    monkeypatch.setattr(models, "fast_precision", lambda device: "bfloat16")
    expected = DenseTeacher(minilm_path, precision="bfloat16", device="cpu").encode(TEXTS * 30, "passage")
    teacher = DenseTeacher(minilm_path, precision="bfloat16", device="cpu") if built == "before" else None

    def encode():
        own = teacher or DenseTeacher(minilm_path, precision="bfloat16", device="cpu")
        assert (own.encode(TEXTS * 30, "passage") * expected).sum(axis=1).min() > 0.999

    worker = multiprocessing.get_context("fork").Process(target=encode)
    worker.start()
    worker.join(timeout=60)
    assert worker.exitcode == 0
