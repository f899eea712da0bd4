"""Attention in bfloat16: what torch computes, to the precision, with padding and with large scores."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hn_datasets.teachers import attention, models
from hn_datasets.teachers.attention import NAME, attend
from hn_datasets.teachers.dense import DenseTeacher
from tests.tiny_transformer import make_tiny_model

SHAPE = (3, 4, 50, 32)
LAYER = SimpleNamespace(is_causal=False, training=False)


@pytest.fixture
def parts():
    """Query, key and value of 3 texts of 50, 20 and 1 tokens, and their mask."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(SHAPE, dtype=torch.bfloat16) for _ in range(3))
    real = torch.arange(50) < torch.tensor([[50], [20], [1]])
    return query, key, value, real[:, None, None, :].expand(3, 1, 50, 50)


def softmax(query, key, value, mask, scale):
    scores = query.double() @ key.double().transpose(2, 3) * scale
    weights = torch.softmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), dim=3)
    return (weights @ value.double()).transpose(1, 2)


def kernel_of_torch(query, key, value, mask):
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_the_values_are_weighted_by_a_softmax(parts, padded, scaling):
    *vectors, mask = parts
    mask = mask if padded else None
    found, _ = attend(LAYER, *vectors, mask, scaling=scaling)
    expected = softmax(*vectors, mask, scaling or 32**-0.5)
    assert found.shape == (3, 50, 4, 32)
    assert (found - expected).norm() / expected.norm() < 0.01


def test_padding_has_no_influence(parts):
    query, key, value, mask = parts
    before, _ = attend(LAYER, query, key, value, mask)
    key[1, :, 20:], value[1, :, 20:] = 3, -7
    after, _ = attend(LAYER, query, key, value, mask)
    assert (before == after).all()


@pytest.mark.parametrize("height", [1000, -1000, 90, -79])  # powers of two of 1443, -1443, 130 and -114
def test_high_and_low_scores_are_weighed_by_their_differences(parts, height):
    query, key, value, mask = parts
    before, _ = attend(LAYER, *parts)
    query[1], key[1] = height / 32**0.5, 1 + key[1] / 512
    found, _ = attend(LAYER, query, key, value, mask)
    scores = (query @ key.transpose(2, 3))[1].double() * 32**-0.5
    expected = torch.softmax(scores.masked_fill(~mask[1], -torch.inf), dim=2) @ value[1].double()
    assert (found[1] - expected.transpose(0, 1)).abs().max() < 0.02
    assert (found[[0, 2]] == before[[0, 2]]).all()


@pytest.mark.parametrize("key", [torch.nan, -torch.nan, torch.inf])
def test_numbers_that_are_none_stay_in_their_text(parts, key):
    before, _ = attend(LAYER, *parts)
    parts[1][1, :, 3, ::2], parts[1][1, :, 3, 1::2] = key, -key  # products of infinities of both signs are none
    found, _ = attend(LAYER, *parts)
    assert found[1].isnan().all()
    assert (found[[0, 2]] == before[[0, 2]]).all()


def test_a_text_without_tokens_takes_nothing(parts):
    *vectors, mask = parts
    found, _ = attend(LAYER, *vectors, mask & torch.tensor([True, False, True])[:, None, None, None])
    assert (found[1] == 0).all()


@pytest.mark.parametrize("num_tokens", [1, 2, 15, 16, 17, 63, 64, 65, 130])
def test_weights_are_those_of_a_softmax(num_tokens):
    torch.manual_seed(num_tokens)
    query, key = (torch.randn(2, 3, num_tokens, 8).bfloat16() * 3 for _ in range(2))
    value = torch.eye(num_tokens).bfloat16().expand(2, 3, num_tokens, num_tokens)
    found, _ = attend(LAYER, query, key, value, None)
    expected = torch.softmax((query @ key.transpose(2, 3)).double() * 8**-0.5, dim=3).transpose(1, 2)
    assert (found - expected).abs().max() < 2**-8
    assert (found.double() / expected - 1)[expected > 2**-100].abs().max() < 2**-7


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (SimpleNamespace(is_causal=True, training=False), {}),
        (LAYER, {"position_bias": torch.randn(1, 4, 50, 50).bfloat16()}),
    ],
)
def test_what_is_more_than_a_softmax_is_left_to_torch(parts, layer, options):
    query, key, value, _ = parts
    found, _ = attend(layer, query, key, value, None, **options)
    expected, _ = sdpa_attention_forward(layer, query, key, value, None, **options)
    assert (found == expected).all()
    assert (found - attend(LAYER, query, key, value, None)[0]).abs().max() > 0.1


def test_other_precisions_and_gradients_are_left_to_torch(parts):
    *vectors, mask = parts
    vectors = [part.float().requires_grad_() for part in vectors]
    found, _ = attend(LAYER, *vectors, mask)
    assert (found == kernel_of_torch(*vectors, mask)).all()
    (gradient,) = torch.autograd.grad(found.sum(), vectors[0])
    half, _ = attend(LAYER, *(part.bfloat16() for part in vectors), mask)
    (expected,) = torch.autograd.grad(half.sum(), vectors[0])
    assert (gradient - expected).abs().max() < 0.1


def test_no_texts(parts):
    query, key, value, mask = (part[:0] for part in parts)
    assert attend(LAYER, query, key, value, mask)[0].shape == (0, 50, 4, 32)


def test_more_scores_than_memory_should_hold_are_left_to_torch(parts, monkeypatch):
    monkeypatch.setattr(attention, "MOST_SCORES", 3 * 4 * 50 * 50 - 1)
    found, _ = attend(LAYER, *parts)
    assert (found == kernel_of_torch(*parts)).all()


@pytest.mark.parametrize(("fast", "expected"), [(True, NAME), (False, "sdpa")])
def test_only_bfloat16_where_it_is_fast(minilm_path, tmp_path, monkeypatch, fast, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    def used_by(teacher):
        return teacher._model.transformers_model.config._attn_implementation

    model = make_tiny_model(minilm_path, tmp_path / "encoder")
    teacher = DenseTeacher(model, precision="bfloat16")
    assert used_by(teacher) == expected
    assert used_by(DenseTeacher(model, precision="float32")) == "sdpa"
    assert model.transformers_model.config._attn_implementation == "sdpa"  # the owner's model is left alone
    decoder = make_tiny_model(minilm_path, tmp_path / "decoder", decoder=True)
    assert used_by(DenseTeacher(decoder, precision="bfloat16")) == "sdpa"
    texts = ["one text", "another text " * 30, "x"]
    exact = DenseTeacher(model, precision="float32").encode(texts, "passage")
    assert (teacher.encode(texts, "passage") * exact).sum(axis=1).min() > 0.999


def test_a_model_in_other_processes_attends_as_torch_does(minilm_path, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "fast_precision", lambda device: "bfloat16")
    make_tiny_model(minilm_path, tmp_path / "parts").save(str(tmp_path / "model"))
    teacher = DenseTeacher(tmp_path / "model", precision="bfloat16", device=["cpu", "cpu"])
    texts = ["one text", "another text"]
    alone = DenseTeacher(tmp_path / "model", precision="bfloat16", device="cpu").encode(texts, "passage")
    assert (teacher.encode(texts, "passage") * alone).sum(axis=1).min() > 0.999
    teacher.close()


def test_a_model_that_was_loaded_to_attend_otherwise_goes_on_so(minilm_path):
    model = SentenceTransformer(str(minilm_path), device="cpu", model_kwargs={"attn_implementation": "eager"})
    teacher = DenseTeacher(model, precision="bfloat16")
    assert teacher._model.transformers_model.config._attn_implementation == "eager"
    assert np.isfinite(teacher.encode(["a text"], "passage")).all()
