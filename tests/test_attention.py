"""Attention in bfloat16: what torch computes, to the precision, with padding and with large scores."""

import pytest
import torch

from hn_datasets.teachers import attention
from hn_datasets.teachers.attention import attend

SHAPE = (3, 4, 50, 32)
SCALING = 32**-0.5


@pytest.fixture
def parts():
    """Query, key and value of 3 texts of 50, 20 and 1 tokens, and what counts."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(SHAPE, dtype=torch.bfloat16) for _ in range(3))
    return query, key, value, torch.arange(50) < torch.tensor([[50], [20], [1]])


def softmax(query, key, value, counted):
    scores = query.double() @ key.double().transpose(2, 3) * SCALING
    if counted is not None:
        scores = scores.masked_fill(~counted[:, None, None], -torch.inf)
    return torch.softmax(scores, dim=3) @ value.double()


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("scores", [1 << 22, 7 * 50 * 50, 3 * 50, 1])
def test_the_values_are_weighted_by_a_softmax(parts, monkeypatch, padded, scores):
    monkeypatch.setattr(attention, "BLOCK_SCORES", scores)
    *vectors, counted = parts
    counted = counted if padded else None
    found = attend(*vectors, SCALING, counted)
    expected = softmax(*vectors, counted)
    assert found.shape == SHAPE
    assert (found - expected).norm() / expected.norm() < 0.01


def test_padding_has_no_influence(parts):
    query, key, value, counted = parts
    before = attend(query, key, value, SCALING, counted)
    key[1, :, 20:], value[1, :, 20:] = 3, -7
    assert (before == attend(query, key, value, SCALING, counted)).all()


@pytest.mark.parametrize("height", [1000, -1000, 90, -79])  # powers of two of 1443, -1443, 130 and -114
def test_high_and_low_scores_are_weighed_by_their_differences(parts, height):
    query, key, value, counted = parts
    before = attend(*parts[:3], SCALING, parts[3])
    query[1], key[1] = height / 32**0.5, 1 + key[1] / 512
    found = attend(query, key, value, SCALING, counted)
    scores = (query @ key.transpose(2, 3))[1].double() * 32**-0.5
    expected = torch.softmax(scores.masked_fill(~counted[1], -torch.inf), dim=2) @ value[1].double()
    assert (found[1] - expected).abs().max() < 0.02
    assert (found[[0, 2]] == before[[0, 2]]).all()


@pytest.mark.parametrize("key", [torch.nan, -torch.nan, torch.inf])
def test_numbers_that_are_none_stay_in_their_text(parts, key):
    before = attend(*parts[:3], SCALING, parts[3])
    parts[1][1, :, 3, ::2], parts[1][1, :, 3, 1::2] = key, -key  # products of infinities of both signs are none
    found = attend(*parts[:3], SCALING, parts[3])
    assert found[1].isnan().all()
    assert (found[[0, 2]] == before[[0, 2]]).all()


def test_a_text_without_tokens_takes_nothing(parts):
    *vectors, counted = parts
    found = attend(*vectors, SCALING, counted & torch.tensor([[True], [False], [True]]))
    assert (found[1] == 0).all()


@pytest.mark.parametrize("num_tokens", [1, 2, 15, 16, 17, 63, 64, 65, 130])
def test_weights_are_those_of_a_softmax(num_tokens):
    torch.manual_seed(num_tokens)
    query, key = (torch.randn(2, 3, num_tokens, 8).bfloat16() * 3 for _ in range(2))
    value = torch.eye(num_tokens).bfloat16().repeat(2, 3, 1, 1)
    found = attend(query, key, value, 8**-0.5)
    expected = torch.softmax((query @ key.transpose(2, 3)).double() * 8**-0.5, dim=3)
    assert (found - expected).abs().max() < 2**-8
    assert (found.double() / expected - 1)[expected > 2**-100].abs().max() < 2**-7


def test_no_texts(parts):
    query, key, value, counted = (part[:0] for part in parts)
    assert attend(query, key, value, SCALING, counted).shape == (0, 4, 50, 32)
