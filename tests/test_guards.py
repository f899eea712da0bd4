"""Guards against brute force: what they take out, that rows stay full, and what they refuse."""

import warnings

import numpy as np
import pytest
from datasets import Dataset
from oracle import canonical

from hn_datasets import (
    BM25Teacher,
    HardNegativeMiner,
    PrecomputedTeacher,
    RandomNegatives,
    SimilarToPositive,
    TopK,
    TopKPercPos,
)
from hn_datasets.errors import ArgumentError

NUM_ROWS, NUM_PASSAGES = 60, 400


@pytest.fixture(scope="module")
def world():
    """Rows with one or two positives each, 400 passages around 40 topics, and unit vectors for all of them."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((40, 16))
    passages = topics[rng.integers(0, 40, NUM_PASSAGES)] + 0.7 * rng.standard_normal((NUM_PASSAGES, 16)) + 0.4
    own = [rng.choice(NUM_PASSAGES, rng.integers(1, 3), replace=False).tolist() for _ in range(NUM_ROWS)]
    anchors = np.stack([passages[ids].mean(axis=0) for ids in own]) + 0.5 * rng.standard_normal((NUM_ROWS, 16))
    unit = [(part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in (anchors, passages)]
    texts = [f"passage {number}" for number in range(NUM_PASSAGES)]
    rows = {"anchor": [f"anchor {number}" for number in range(NUM_ROWS)],
            "positive": [[texts[number] for number in ids] for ids in own]}  # fmt: skip
    return (
        Dataset.from_dict(rows),
        texts,
        dict(zip(rows["anchor"], unit[0], strict=True)),
        dict(zip(texts, unit[1], strict=True)),
    )


@pytest.fixture
def mine(world, tmp_path):
    """Mine the rows; returns the mined dataset."""
    pairs, texts, anchors, passages = world

    def call(dataset=pairs, **arguments):
        teacher = PrecomputedTeacher(
            (list(anchors), np.stack(list(anchors.values()))), (texts, np.stack(list(passages.values())))
        )
        arguments = {"teacher": teacher, "corpus": texts, **arguments}
        miner = HardNegativeMiner.from_dataset(dataset, store=tmp_path, **arguments)
        return dataset.map(miner, batched=True, batch_size=17)

    return call


def product(some, other):
    """The product in float64, rounded once to float32, as scores are."""
    return np.float32(some.astype(np.float64) @ other.astype(np.float64))


def rank(world, row):
    """Passages that are no positive of a row, best first, with their scores, and the row's lowest positive score."""
    pairs, texts, anchors, passages = world
    anchor, positives = anchors[pairs[row]["anchor"]], pairs[row]["positive"]
    scores = {text: product(anchor, passages[text]) for text in canonical(texts)}
    ranked = sorted((text for text in scores if text not in positives), key=lambda text: -scores[text])
    return ranked, scores, min(scores[text] for text in positives)


def near_limit(world, row, percentage):
    """The ceiling on the similarity to a positive, written as the docstring has it."""
    pairs, texts, _, passages = world
    mean = np.mean([passages[text].astype(np.float64) for text in texts], axis=0)
    own = np.mean([passages[text].astype(np.float64) @ mean for text in pairs[row]["positive"]])
    return own + percentage * max(float(rank(world, row)[2]) - own, 0)


@pytest.mark.parametrize(("method", "percentage"), [(TopK(), 0.3), (TopKPercPos(0.95), 0.5), (TopK(), 1.0)])
def test_similar_to_positive(world, mine, method, percentage):
    pairs, _, _, passages = world
    mined = mine(method=method, guards=(SimilarToPositive(percentage),))
    taken = 0
    for row in range(NUM_ROWS):
        ranked, scores, lowest = rank(world, row)
        below = [text for text in ranked if scores[text] < method.ceiling(np.array([lowest]))[0]]
        limit = near_limit(world, row, percentage)
        similarity = {
            text: max(product(passages[text], passages[own]) for own in pairs[row]["positive"]) for text in below
        }
        allowed = [text for text in below if similarity[text] < limit]
        assert mined[row]["negatives"] == allowed[:4]
        assert mined[row]["guard_removals"] == [sum(similarity[text] >= limit for text in below[:4])]
        taken += mined[row]["guard_removals"][0]
    assert taken > NUM_ROWS / 8


@pytest.mark.parametrize("percentage", [0.1, 1.0])
def test_positives_that_score_below_the_average_passage_leave_rows_full(world, mine, percentage):
    pairs, texts, anchors, passages = world
    away = -np.stack(list(anchors.values()))
    teacher = PrecomputedTeacher((list(anchors), away), (texts, np.stack(list(passages.values()))))
    mined = mine(teacher=teacher, method=TopK(), guards=(SimilarToPositive(percentage),))
    mean = np.mean([passages[text].astype(np.float64) for text in texts], axis=0)
    for row in range(NUM_ROWS):
        positives = pairs[row]["positive"]
        limit = np.mean([passages[own] @ mean for own in positives])
        assert mined[row]["positive_score"] < limit
        assert len(mined[row]["negatives"]) == 4
        for text in mined[row]["negatives"]:
            assert max(product(passages[text], passages[own]) for own in positives) < limit


def test_similar_to_positive_with_a_fixed_limit(world, mine):
    pairs, _, _, passages = world
    mined = mine(method=TopK(), guards=(SimilarToPositive(max_score=0.25),))
    for row in range(NUM_ROWS):
        for text in mined[row]["negatives"]:
            assert max(product(passages[text], passages[own]) for own in pairs[row]["positive"]) < 0.25


def test_a_guard_does_not_change_what_is_said_of_the_best_passage(mine):
    assert mine(guards=(SimilarToPositive(),))["top_score"] == mine()["top_score"]
    assert "guard_removals" not in mine().column_names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guards": (SimilarToPositive(), SimilarToPositive(max_score=0.5))}, "one guard of each kind"),
        ({"guards": (SimilarToPositive(),), "method": RandomNegatives()}, "no effect on negatives drawn uniformly"),
        ({"guards": (SimilarToPositive(),), "teacher": BM25Teacher()}, "a teacher that gives passages vectors"),
        ({"guards": ("similar",)}, "Expected guards such as"),
        ({"guards": SimilarToPositive()}, r"got one; write guards=\(SimilarToPositive\(.*\),\)"),
    ],
)
def test_guards_that_cannot_work(mine, arguments, message):
    with warnings.catch_warnings(), pytest.raises(ArgumentError, match=message):
        warnings.simplefilter("ignore")
        mine(**arguments)


@pytest.mark.parametrize("arguments", [(0.0,), (1.5,), ("0.3",), (0.3, 0.5), (None, float("nan"))])
def test_settings_that_similar_to_positive_refuses(arguments):
    with pytest.raises(ArgumentError, match="SimilarToPositive"):
        SimilarToPositive(*arguments)
