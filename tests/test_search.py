"""Search against brute force, with scores that lie within the slack of one another, ties and exclusions."""

import threading

import numpy as np
import pyarrow as pa
import pytest
import torch

from hn_datasets import PrecomputedTeacher
from hn_datasets.scoring import DenseScorer
from hn_datasets.search import Search, k_best_below
from hn_datasets.store import EmbeddingStore
from hn_datasets.texts import Corpus, Ragged
from hn_datasets.threads import over_rows


class Table:
    """A scorer whose tiles are off by as much as its slack permits, and whose pairs are exact."""

    def __init__(self, exact, slack, *, tensors=False, seed=0):
        self.exact, self.bound, self.tensors = exact.astype(np.float32), slack, tensors
        noise = np.random.default_rng(seed).uniform(-1, 1, exact.shape) * slack * 0.999
        self.fast = (exact + noise).astype(np.float32) if slack else self.exact
        self.num_passages = exact.shape[1]

    def scores(self, anchors):
        return Rows(self, np.array([int(anchor) for anchor in anchors]))


class Rows:
    def __init__(self, table, rows):
        self.table, self.rows, self.num_passages = table, rows, table.num_passages
        self.slack = np.full(len(rows), table.bound, dtype=np.float32)

    def tile(self, start, stop):
        tile = np.ascontiguousarray(self.table.fast[self.rows, start:stop])
        return torch.from_numpy(tile) if self.table.tensors else tile

    def pairs(self, rows, ids):
        return self.table.exact[self.rows[rows], ids]


def brute_force(exact, ceilings, k, excluded):
    ids = np.full((len(exact), k), -1)
    for row, scores in enumerate(exact):
        allowed = [
            (-score, number)
            for number, score in enumerate(scores.tolist())
            if score < ceilings[row] and number not in excluded[row]
        ]
        best = [number for _, number in sorted(allowed)[:k]]
        ids[row, : len(best)] = best
    return ids


def lists(rng, num_rows, num_passages, most):
    rows = np.repeat(np.arange(num_rows), rng.integers(0, most + 1, num_rows))
    return Ragged.from_pairs(rows, rng.integers(0, num_passages, len(rows)), num_rows)


@pytest.mark.parametrize(
    ("slack", "tensors"),
    [(0.0, False), (1e-4, False), (0.05, False), (1e-4, True), (0.05, True)],
    ids=["exact", "close", "coarse", "close-tensors", "coarse-tensors"],
)
@pytest.mark.parametrize("num_passages", [1, 5, 300, 9000])
def test_the_k_best_below_a_ceiling(num_passages, slack, tensors):
    rng = np.random.default_rng(num_passages)
    exact = rng.standard_normal((40, num_passages)).astype(np.float32)
    ceilings = rng.uniform(-1, 2, 40)
    ceilings[:5] = np.inf
    ceilings[5] = -9  # nothing qualifies
    excluded = lists(rng, 40, num_passages, 30)
    table = Table(exact, slack, tensors=tensors)
    searches = [Search(ceilings, 4, excluded), Search(np.full(40, np.inf), 1, excluded)]
    below, best = k_best_below(table.scores(range(40)), searches)
    assert (below.ids == brute_force(exact, ceilings, 4, excluded)).all()
    assert (best.ids == brute_force(exact, np.full(40, np.inf), 1, excluded)).all()
    found = below.ids >= 0
    assert (below.scores[found] == exact[np.nonzero(found)[0], below.ids[found]]).all()
    assert np.isneginf(below.scores[~found]).all()


@pytest.mark.parametrize("slack", [0.0, 1e-5])
def test_ties_go_to_the_lower_id(slack):
    rng = np.random.default_rng(3)
    exact = rng.integers(0, 4, (30, 6000)).astype(np.float32) / 4
    ceilings = np.tile([0.75, 0.5, np.inf], 10)
    excluded = lists(rng, 30, 200, 10)
    (found,) = k_best_below(Table(exact, slack).scores(range(30)), [Search(ceilings, 6, excluded)])
    assert (found.ids == brute_force(exact, ceilings, 6, excluded)).all()


def test_a_score_equal_to_the_ceiling_does_not_qualify():
    exact = np.array([[0.5, 0.25, 0.5, 0.125]])
    none = Ragged(np.zeros(2, np.int64), np.empty(0, np.int64))
    (found,) = k_best_below(Table(exact, 1e-3).scores([0]), [Search(np.array([0.5]), 3, none)])
    assert found.ids.tolist() == [[1, 3, -1]]


@pytest.mark.parametrize("tensors", [False, True])
def test_more_scores_within_the_slack_than_can_wait(tensors):
    exact = np.random.default_rng(0).standard_normal((20, 3000))
    exact[7, :500] = 9 + np.arange(500) * 1e-5
    exact[8] = 3 - np.arange(3000) * 1e-6  # rising: the best come last
    exact[9] = 3 + np.arange(3000) * 1e-6
    none = Ragged(np.zeros(21, np.int64), np.empty(0, np.int64))
    table = Table(exact, 1e-2, tensors=tensors)
    (found,) = k_best_below(table.scores(range(20)), [Search(np.full(20, np.inf), 3, none)])
    assert (found.ids == brute_force(table.exact, np.full(20, np.inf), 3, none)).all()


@pytest.mark.parametrize("columns", [1, 7, 64, 1000, 4096])
@pytest.mark.parametrize("slack", [0.0, 1e-3])
def test_the_answer_depends_on_no_tile_size(monkeypatch, columns, slack):
    monkeypatch.setattr("hn_datasets.search.TILE_COLUMNS", columns)
    rng = np.random.default_rng(5)
    exact = rng.integers(-50, 50, (25, 900)) / 64
    ceilings = rng.uniform(-0.7, 0.7, 25)
    excluded = lists(rng, 25, 900, 40)
    (found,) = k_best_below(Table(exact, slack).scores(range(25)), [Search(ceilings, 5, excluded)])
    assert (found.ids == brute_force(exact.astype(np.float32), ceilings, 5, excluded)).all()


@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_scores_rounded_to_bfloat16_give_the_same_answer(shift):
    rng = np.random.default_rng(6)
    exact = (rng.standard_normal((30, 5000)) + shift).astype(np.float32)
    ceilings = rng.uniform(-1, 2, 30) + shift
    excluded = lists(rng, 30, 5000, 30)

    class Rounded(Table):
        def scores(self, anchors):
            rows = super().scores(anchors)
            fast = rows.tile
            rows.tile = lambda start, stop: fast(start, stop).bfloat16()
            return rows

    table = Rounded(exact, 1e-3, tensors=True)
    (found,) = k_best_below(table.scores(range(30)), [Search(ceilings, 4, excluded)])
    assert (found.ids == brute_force(exact, ceilings, 4, excluded)).all()


def test_threads_of_others_keep_their_number_of_torch_threads():
    before, found = torch.get_num_threads(), []
    over_rows(lambda begin, end: None, 100)
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *found] == [before, before]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_dense_tiles_are_within_the_slack(monkeypatch, precision, similarity, tmp_path):
    rng = np.random.default_rng(7)
    lengths = rng.uniform(0.1, 30, (400, 1)) if similarity == "dot" else np.ones((400, 1))
    vectors = rng.standard_normal((400, 96))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * lengths).astype(np.float32)
    texts = [f"text {number}" for number in range(400)]
    corpus = Corpus.build([pa.array(texts[100:])], tmp_path)
    teacher = PrecomputedTeacher((texts[:100], vectors[:100]), (texts[100:], vectors[100:]), similarity=similarity)
    store = EmbeddingStore(tmp_path)
    store.embed(teacher, "passage", corpus.column, corpus.digests)
    scorer = DenseScorer(teacher, corpus, store, device="cpu", precision=precision)
    scores = scorer.scores(texts[:100])
    tile = torch.as_tensor(scores.tile(0, 300))
    exact = scores.pairs(np.repeat(np.arange(100), 300), np.tile(np.arange(300), 100)).reshape(100, 300)
    rounding = 2.0**-8 * tile.abs().double().numpy() if precision == torch.bfloat16 else 0
    off = np.abs(tile.double().numpy() - exact) - rounding
    assert tile.dtype == precision
    assert (off <= scores.slack[:, None]).all()
    assert off.max() > 1e-9
