"""Layers in bfloat16: what those of transformers compute, and no other model is touched."""

import copy
import multiprocessing

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.models.bert.modeling_bert import BertSelfAttention

from hn_datasets.teachers import encoder_layers, models
from hn_datasets.teachers.dense import DenseTeacher
from hn_datasets.teachers.encoder_layers import EncoderLayer, quicken_layers
from tests.tiny_transformer import make_tiny_model

TEXTS = ["one text", "another text " * 30, "x", "금리가 올랐다"]
SIZES = {"hidden_size": 32, "intermediate_size": 80, "num_attention_heads": 2, "num_hidden_layers": 3}
NETWORKS = {
    "bert": lambda **sizes: BertModel(BertConfig(**SIZES, **sizes)),
    "roberta": lambda **sizes: RobertaModel(RobertaConfig(**SIZES, **sizes)),
    "xlm-roberta": lambda **sizes: XLMRobertaModel(XLMRobertaConfig(**SIZES, **sizes)),
    "distilbert": lambda **sizes: DistilBertModel(
        DistilBertConfig(dim=32, hidden_dim=80, n_heads=2, n_layers=3, **sizes)
    ),
}


@pytest.fixture
def make_model(minilm_path, tmp_path):
    def make(kind="bert", **sizes):
        """Return a model with weights as large as trained ones, so that every part of it matters."""
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(minilm_path)
        network = NETWORKS[kind](vocab_size=len(tokenizer), **sizes)
        with torch.no_grad():
            for parameter in network.parameters():
                drawn = torch.randn_like(parameter) / max(1, parameter.shape[-1]) ** 0.5
                parameter.copy_(drawn + 1 if parameter.ndim == 1 else drawn)
        network.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return SentenceTransformer(modules=[Transformer(str(tmp_path)), Pooling(32, "mean")], device="cpu").eval()

    return make


def quickened(model):
    """Return a copy in bfloat16, with the layers of this package if they fit."""
    quick = copy.deepcopy(model)
    quick[0].to(torch.bfloat16)
    quicken_layers(quick)
    return quick


def layers_of(model):
    return [module for module in model.modules() if isinstance(module, EncoderLayer)]


def states_of(model, num_texts=3):
    """Return what a network makes of texts of 20, 7 and 1 tokens, float64, without padding."""
    ids = torch.randint(3, 99, (3, 20), generator=torch.Generator().manual_seed(1))[:num_texts]
    mask = (torch.arange(20) < torch.tensor([[20], [7], [1]])).long()[:num_texts]
    with torch.inference_mode():
        return model[0].model(input_ids=ids, attention_mask=mask).last_hidden_state.double()[mask.bool()]


def set_scaling(network):
    for layer in network.encoder.layer:
        layer.attention.self.scaling = 0.5


def halved(model):
    rounded = copy.deepcopy(model)
    rounded[0].to(torch.bfloat16)
    return rounded


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_states_are_those_of_transformers(make_model, kind, activation):
    model = make_model(kind, **{"activation" if kind == "distilbert" else "hidden_act": activation})
    if kind == "bert":
        set_scaling(model[0].model)
    quick = quickened(model)
    assert len(layers_of(quick)) == 3
    exact, rounded, found = states_of(model), states_of(halved(model)), states_of(quick)
    error, usual = ((states - exact).norm() / exact.norm() for states in (found, rounded))
    assert error < 1.25 * usual < 0.05


def test_other_texts_and_their_padding_have_no_influence(make_model):
    quick = quickened(make_model())
    torch.testing.assert_close(states_of(quick, 1), states_of(quick)[:20], atol=0.02, rtol=0.02)


def test_layers_without_packed_weights(make_model, monkeypatch):
    model = make_model()
    packed = states_of(quickened(model))
    monkeypatch.setattr(encoder_layers, "PACKS", False)
    assert (states_of(quickened(model)) - packed).abs().max() < 0.1


def test_a_default_device_does_not_matter(make_model):
    model = make_model()
    expected = quickened(model).encode(TEXTS[:1])
    with torch.device("meta"):
        quick = halved(model)
        quicken_layers(quick)
    features = quick.preprocess(TEXTS[:1])
    with torch.device("meta"), torch.inference_mode():
        found = quick[0](features)["token_embeddings"].float().mean(dim=1)
    assert len(layers_of(quick)) == 3
    np.testing.assert_allclose(found.numpy(), expected, atol=0.02)


@pytest.mark.parametrize("size", [0.0, 1e-3, 0.1, 1.0, 4.0, 5.0, 100.0, 1e30])
def test_gelu(size):
    numbers = (torch.linspace(-1, 1, 1001) * size).bfloat16()[None]
    expected = torch.nn.functional.gelu(numbers.double())
    found = encoder_layers._gelu(numbers.clone()).double()
    assert ((found - expected).abs() <= 5e-5 + expected.abs() * 2**-8).all()


def test_numbers_that_are_none_stay_none():
    numbers = torch.tensor([[torch.nan, 1.0]]).bfloat16()
    assert encoder_layers._gelu(numbers).isnan().tolist() == [[True, False]]


@pytest.mark.parametrize("numbers", [[torch.nan] * 4, [1e20, -1e20, 1, 0], [3e38, 3e38, -3e38, 1]])
def test_norms_of_what_float32_does_not_hold_are_none(numbers):
    norm = encoder_layers._Norm(torch.nn.LayerNorm(4).bfloat16())
    assert norm(torch.tensor([numbers]).bfloat16(), torch.ones(1, 4).bfloat16()).isnan().all()


class OwnAttention(BertSelfAttention):
    """Somebody's own."""


class GELUActivation(torch.nn.Module):
    """Somebody's own, by a known name."""


CHANGES = {
    "hook": lambda network: network.encoder.layer[1].output.dense.register_forward_hook(lambda *_: None),
    "pre-hook": lambda network: network.encoder.layer[1].register_forward_pre_hook(lambda *_: None),
    "wrapped": lambda network: setattr(network.encoder.layer[1].output, "dense", torch.nn.Identity()),
    "replaced": lambda network: setattr(network.encoder.layer[1], "intermediate", GELUActivation()),
    "parametrised": lambda network: torch.nn.utils.parametrizations.weight_norm(
        network.encoder.layer[2].intermediate.dense
    ),
    "forward": lambda network: setattr(network.encoder.layer[2].output, "forward", lambda *_: None),
    "attention": lambda network: setattr(
        network.encoder.layer[0].attention, "self", OwnAttention(network.config).bfloat16()
    ),
    "activation": lambda network: setattr(
        network.encoder.layer[0].intermediate, "intermediate_act_fn", GELUActivation()
    ),
    "precision": lambda network: network.encoder.layer[0].attention.output.LayerNorm.float(),
    "network": lambda network: setattr(network, "__class__", type("BertModel", (BertModel,), {})),
    "hidden states": lambda network: setattr(network.config, "output_hidden_states", True),
    "decoder": lambda network: setattr(network.config, "is_decoder", True),
    "eager": lambda network: network.set_attn_implementation("eager"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_was_changed_keeps_all_its_layers(make_model, change):
    model = halved(make_model())
    CHANGES[change](model[0].model)
    quicken_layers(model)
    assert not layers_of(model)


def test_a_network_of_another_kind_or_at_another_place_keeps_its_layers(make_model):
    model = halved(make_model())
    for others in ([Pooling(32, "mean"), model[0]], [torch.nn.Identity()]):
        other = SentenceTransformer(modules=others, device="cpu")
        quicken_layers(other)
        assert not layers_of(other)
    model[0].modality_config["text"]["method_output_name"] = ("hidden_states", -2)
    quicken_layers(model)
    assert not layers_of(model)


def test_more_than_tokens_and_a_mask_is_refused(make_model):
    layer = quickened(make_model())[0].model.encoder.layer[0]
    states = torch.zeros(1, 2, 32).bfloat16()
    for given, named in (((None, states), {}), ((torch.zeros(1, 1, 2, 2),), {}), ((), {"past_key_values": ()})):
        with pytest.raises(NotImplementedError, match="use precision='float32'"):
            layer(states, *given, **named)


@pytest.mark.parametrize("fast", [True, False])
def test_only_bfloat16_where_it_is_fast(minilm_path, tmp_path, monkeypatch, fast):
    monkeypatch.setattr(models, "fast_precision", lambda device: "bfloat16" if fast else "float32")
    model = make_tiny_model(minilm_path, tmp_path / "encoder")
    teacher = DenseTeacher(model, precision="bfloat16")
    assert len(layers_of(teacher._model)) == (1 if fast else 0)
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
    ("amx", "instruction", "amd", "expected"),
    [
        (True, False, False, "bfloat16"),
        (True, True, False, "bfloat16"),
        (False, True, True, "bfloat16"),
        (False, True, False, "float32"),
        (False, False, True, "float32"),
    ],
)
def test_the_instruction_alone_is_not_enough(monkeypatch, amx, instruction, amd, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instruction)
    monkeypatch.setattr(models, "_is_of_amd", lambda: amd)
    assert models.fast_precision(torch.device("cpu")) == expected


@pytest.mark.parametrize(("vendor", "expected"), [("AuthenticAMD", True), ("GenuineIntel", False)])
@pytest.mark.parametrize("linux", [True, False])
def test_the_maker_of_the_processor(monkeypatch, vendor, expected, linux):
    def read(path, **_):
        if not linux:
            raise FileNotFoundError(path)
        return f"processor : 0\nvendor_id : {vendor}\n"

    monkeypatch.setattr(models.Path, "read_text", read)
    monkeypatch.setattr("platform.processor", lambda: "x86_64" if linux else f"AMD64 Family 25, {vendor}")
    assert models._is_of_amd.__wrapped__() == expected


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
    worker.join(timeout=300)
    assert worker.exitcode == 0
