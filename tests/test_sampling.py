import numpy as np
import pytest

from hn_datasets.methods import TopKShifted
from hn_datasets.recipe import Recipe
from hn_datasets.sampling import choose, draw_uniformly, row_seeds, uniforms
from hn_datasets.search import Found
from hn_datasets.texts import Ragged, digest_texts

ROWS = 4000
SEEDS = row_seeds(0, digest_texts([f"anchor {number}" for number in range(ROWS)]))
KEYS = digest_texts([f"passage {number}" for number in range(50)]).view(np.uint64).reshape(-1, 2)[:, 0]


def pool(width, scores):
    return Found(np.tile(np.arange(width), (ROWS, 1)), np.tile(np.asarray(scores, np.float32), (ROWS, 1)))


def shares(found, width):
    return np.bincount(found.ids.ravel(), minlength=width) / ROWS


def test_uniforms_are_uniform_and_differ_by_seed_and_key():
    numbers = uniforms(SEEDS[:, None], KEYS)
    assert abs(numbers.mean() - 0.5) < 0.005
    assert np.histogram(numbers, bins=10, range=(0, 1))[0].min() > 0.095 * numbers.size
    assert len(np.unique(numbers)) == numbers.size


def test_random_takes_every_passage_of_the_pool_equally_often():
    recipe = Recipe(teacher={}, sampling="random", pool=8, num_negatives=2)
    found = choose(pool(8, np.linspace(1, 0, 8)), recipe, SEEDS, KEYS.__getitem__)
    np.testing.assert_allclose(shares(found, 8), 0.25, atol=0.03)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert (found.ids[:, 0] != found.ids[:, 1]).all()


def test_softmax_follows_the_scores():
    scores = np.log([4.0, 2.0, 1.0, 1.0])
    recipe = Recipe(teacher={}, sampling="softmax", pool=4, num_negatives=1)
    found = choose(pool(4, scores), recipe, SEEDS, KEYS.__getitem__)
    np.testing.assert_allclose(shares(found, 4), [0.5, 0.25, 0.125, 0.125], atol=0.03)


def test_a_low_temperature_is_like_top():
    recipe = Recipe(teacher={}, sampling="softmax", pool=4, num_negatives=2, temperature=1e-3)
    found = choose(pool(4, [0.9, 0.8, 0.7, 0.6]), recipe, SEEDS, KEYS.__getitem__)
    assert (found.ids == [0, 1]).all()


def test_top1_plus_softmax_always_has_the_best():
    recipe = Recipe(teacher={}, sampling="top1+softmax", pool=6, num_negatives=3)
    found = choose(pool(6, np.linspace(1, 0, 6)), recipe, SEEDS, KEYS.__getitem__)
    assert (found.ids[:, 0] == 0).all()
    assert shares(found, 6)[1:].min() > 0.2


@pytest.mark.parametrize("sampling", ["top", "random", "softmax", "top1+softmax"])
def test_short_pools_stay_padded_at_the_end(sampling):
    ids = np.tile(np.array([5, 7, -1, -1, -1, -1, -1, -1, -1, -1]), (ROWS, 1))
    scores = np.where(ids < 0, -np.inf, 0.5).astype(np.float32)
    found = choose(Found(ids, scores), Recipe(teacher={}, sampling=sampling), SEEDS, KEYS.__getitem__)
    assert found.ids.shape == (ROWS, 4)
    assert (np.sort(found.ids[:, :2], axis=1) == [5, 7]).all()
    assert (found.ids[:, 2:] == -1).all()


def test_the_shift_leaves_out_the_best():
    recipe = Recipe(teacher={}, method=TopKShifted(3), num_negatives=2)
    found = choose(pool(5, [0.9, 0.8, 0.7, 0.6, 0.5]), recipe, SEEDS, KEYS.__getitem__)
    assert (found.ids == [3, 4]).all()


@pytest.mark.parametrize("num_passages", [9, 50], ids=["by order", "by retries"])
def test_uniform_draws_leave_out_what_is_excluded(num_passages):
    excluded = Ragged(np.arange(ROWS + 1) * 2, np.tile([1, 4], ROWS))
    drawn = draw_uniformly(SEEDS, num_passages, 3, excluded)
    counts = np.bincount(drawn.ravel(), minlength=num_passages) / ROWS
    assert counts[[1, 4]].tolist() == [0, 0]
    np.testing.assert_allclose(np.delete(counts, [1, 4]), 3 / (num_passages - 2), atol=0.04)
    assert all(len(set(row)) == 3 for row in drawn.tolist())


def test_a_row_without_enough_passages_is_padded():
    excluded = Ragged(np.arange(ROWS + 1) * 2, np.tile([0, 2], ROWS))
    drawn = draw_uniformly(SEEDS, 4, 3, excluded)
    assert (np.sort(drawn[:, :2], axis=1) == [1, 3]).all()
    assert (drawn[:, 2] == -1).all()
