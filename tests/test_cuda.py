"""The paths of a CUDA device: the same rows as those of the CPU. Skipped where there is none."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset

from hn_datasets import (
    CrossEncoderGuard,
    DenseTeacher,
    HardNegativeMiner,
    HeldOut,
    NearDuplicate,
    PrecomputedTeacher,
    SimilarToPositive,
    TopK,
    TopKMarginPos,
    TopKPercPos,
    TopKShifted,
)
from hn_datasets.scoring import DenseScorer
from hn_datasets.search import Search, k_best_below
from hn_datasets.store import EmbeddingStore
from hn_datasets.texts import Corpus, Ragged, digest_texts
from tests.tiny_cross_encoder import save_tiny_cross_encoder
from tests.tiny_transformer import make_tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

NUM_ROWS, NUM_PASSAGES, DIMENSION = 300, 5000, 96
WORDS = ["passage", "anchor", *map(str, range(NUM_PASSAGES))]


@pytest.fixture(scope="module")
def world():
    """Pairs, further passages, and their teacher: passages around topics, some of them twice."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((50, DIMENSION))
    passages = topics[rng.integers(0, 50, NUM_PASSAGES)] + rng.standard_normal((NUM_PASSAGES, DIMENSION)) + 0.2
    passages[::7] = passages[3]
    anchors = passages[:NUM_ROWS] + 0.8 * rng.standard_normal((NUM_ROWS, DIMENSION))
    texts = [f"passage {number}" for number in range(NUM_PASSAGES)]
    pairs = {"anchor": [f"anchor {number}" for number in range(NUM_ROWS)], "positive": texts[:NUM_ROWS]}
    vectors = [(part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in (anchors, passages)]
    return Dataset.from_dict(pairs), texts, PrecomputedTeacher((pairs["anchor"], vectors[0]), (texts, vectors[1]))


@pytest.fixture
def mine(world, tmp_path, monkeypatch):
    """Mine the pairs on a device; returns all columns."""
    pairs, texts, teacher = world

    def call(device, **choices):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
        miner = HardNegativeMiner.from_dataset(pairs, teacher=teacher, corpus=texts, store=tmp_path / device, **choices)
        assert miner.scorer.device.type == device
        return pairs.map(miner, batched=True, batch_size=113, load_from_cache_file=False).to_dict()

    return call


@pytest.mark.parametrize("allowed", ["highest", "medium"])
@pytest.mark.parametrize("on_device", [True, False])
def test_the_k_best_below_a_ceiling(world, tmp_path, monkeypatch, on_device, allowed):
    pairs, texts, teacher = world
    if not on_device:  # a matrix that is too large stays where it is, and comes in tiles
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 0))
    store, corpus = EmbeddingStore(tmp_path), Corpus.build([pa.array(texts)], tmp_path / "corpora")
    store.embed(teacher, "passage", pa.array(texts), digest_texts(texts))
    scorer = DenseScorer(teacher, corpus, store, device="cuda")
    assert (scorer.matrix.device.type == "cuda") is on_device
    scores = scorer.scores(pairs["anchor"][:])
    exact = np.stack([scores.pairs(np.full(len(corpus), row), np.arange(len(corpus))) for row in range(NUM_ROWS)])
    ceilings = np.random.default_rng(1).uniform(0, 0.8, NUM_ROWS)
    excluded = Ragged(np.arange(NUM_ROWS + 1), corpus.ids(pairs["positive"][:]))
    blocked = np.random.default_rng(2).random(len(corpus)) < 0.5
    allowed_before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(allowed)
    try:
        below, best, rest = k_best_below(
            scores,
            [
                Search(ceilings, 5, excluded),
                Search(np.full(NUM_ROWS, np.inf), 1, excluded),
                Search(ceilings, 5, excluded, blocked),
            ],
        )
    finally:
        torch.set_float32_matmul_precision(allowed_before)
    exact[np.arange(NUM_ROWS), excluded.values] = np.inf
    for found, values, k in ((below, exact, 5), (rest, np.where(blocked, np.inf, exact), 5)):
        order = np.argsort(np.where(values < ceilings[:, None], -values, np.inf), axis=1, kind="stable")[:, :k]
        assert (found.ids == order).all()
        assert (found.scores == np.take_along_axis(exact, order, axis=1)).all()
    assert (best.ids[:, 0] == np.where(np.isinf(exact), -np.inf, exact).argmax(axis=1)).all()


@pytest.mark.parametrize("method", [TopKPercPos(0.95), TopKMarginPos(0.05), TopK(), TopKShifted(3)])
def test_rows_are_those_of_the_cpu(mine, method):
    assert mine("cuda", method=method) == mine("cpu", method=method)


def test_guarded_rows_are_those_of_the_cpu(mine, tmp_path):
    judge = CrossEncoderGuard(save_tiny_cross_encoder(tmp_path / "judge", WORDS), pool=8)
    held_out = HeldOut([f"passage {number}" for number in range(0, NUM_PASSAGES, 3)])
    for guards in ((SimilarToPositive(),), (held_out, SimilarToPositive()), (NearDuplicate(0.6),), (judge,)):
        found, expected = (mine(device, guards=guards, relabel_candidates=True) for device in ("cuda", "cpu"))
        assert found == expected
        assert sum(map(sum, found["guard_removals"])) > 0


@pytest.mark.parametrize("decoder", [False, True])
def test_vectors_are_those_of_the_cpu_to_the_precision(minilm_path, tmp_path, decoder):
    make_tiny_model(minilm_path, tmp_path / "parts", decoder=decoder).save(str(tmp_path / "model"))
    texts = ["one text", "another " * 300, *(f"number {number} " * (number % 40 + 1) for number in range(500))]
    expected = DenseTeacher(tmp_path / "model", device="cpu", precision="float32").encode(texts, "passage")
    quick = DenseTeacher(tmp_path / "model")
    assert quick.spec()["precision"] == "bfloat16"
    exact = DenseTeacher(tmp_path / "model", device="cuda", precision="float32")
    assert (quick.encode(texts, "passage") * expected).sum(axis=1).min() > 0.995
    np.testing.assert_allclose(exact.encode(texts, "passage"), expected, atol=1e-4)
