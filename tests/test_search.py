"""Search against brute force, with scores that lie within the slack of one another, ties and exclusions."""

import numpy as np
import pytest
import torch

from hn_datasets.search import Search, k_best_below
from hn_datasets.texts import Ragged


class Table:
    """A scorer whose tiles are off by as much as its slack permits, and whose pairs are exact."""

    def __init__(self, exact, slack, *, tensors=False, seed=0):
        self.exact, self.bound, self.tensors = exact.astype(np.float32), slack, tensors
        noise = np.random.default_rng(seed).uniform(-1, 1, exact.shape) * slack * 0.999
        self.fast = (exact + noise).astype(np.float32) if slack else self.exact
        self.num_passages = exact.shape[1]
        self.opened = []

    def scores(self, anchors):
        self.opened.append(len(anchors))
        return Rows(self, np.array([int(anchor) for anchor in anchors]))


class Rows:
    def __init__(self, table, rows):
        self.table, self.rows = table, rows
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
    searches = [Search(ceilings, 4), Search(np.full(40, np.inf), 1)]
    below, best = k_best_below(table, [str(row) for row in range(40)], searches, excluded)
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
    (found,) = k_best_below(Table(exact, slack), [str(row) for row in range(30)], [Search(ceilings, 6)], excluded)
    assert (found.ids == brute_force(exact, ceilings, 6, excluded)).all()


def test_a_score_equal_to_the_ceiling_does_not_qualify():
    exact = np.array([[0.5, 0.25, 0.5, 0.125]])
    none = Ragged(np.zeros(2, np.int64), np.empty(0, np.int64))
    (found,) = k_best_below(Table(exact, 1e-3), ["0"], [Search(np.array([0.5]), 3)], none)
    assert found.ids.tolist() == [[1, 3, -1]]


def test_only_rows_without_proof_are_searched_again():
    exact = np.random.default_rng(0).standard_normal((20, 3000))
    exact[7, :500] = 9 + np.arange(500) * 1e-7  # far more scores within the slack than the first heap holds
    none = Ragged(np.zeros(21, np.int64), np.empty(0, np.int64))
    table = Table(exact, 1e-3)
    (found,) = k_best_below(table, [str(row) for row in range(20)], [Search(np.full(20, np.inf), 3)], none)
    assert (found.ids == brute_force(table.exact, np.full(20, np.inf), 3, none)).all()
    assert table.opened[0] == 20
    assert max(table.opened[1:]) < 20
