"""Search against brute force, with scores that lie within the slack of one another, ties and exclusions."""

import math
import multiprocessing
import threading

import numpy as np
import pyarrow as pa
import pytest
import torch

from hn_datasets import PrecomputedTeacher
from hn_datasets.products import LANES, dot, rough_dot
from hn_datasets.scoring import DenseScorer
from hn_datasets.search import Nearness, Search, k_best_below
from hn_datasets.store import EmbeddingStore
from hn_datasets.teachers.base import NO_CROWD, Exact
from hn_datasets.texts import Corpus, Ragged
from hn_datasets.threads import over_items, over_rows


class Table:
    """Scores whose tiles are off by as much as their slack permits.

    Args:
        exact: shape ``[n, m]``; products of unit rows and the columns of this table give them to the last bit.
        slack: how far off tiles are; where it is 0, tiles are the exact scores.
        kind: what tiles are made of: "floats", "integers" or "tensors" as of an accelerator.
        width: passages of a tile.
        crowd: from how many candidates on a row is asked of scores with less slack.
    """

    def __init__(self, exact, slack, *, kind="floats", width=4096, seed=0, crowd=NO_CROWD):
        exact = exact.astype(np.float32)
        self.table, self.crowd, self.asked = exact, crowd, []
        self.num_passages, self.kind, self.width = exact.shape[1], kind, width
        self.on_accelerator = kind == "tensors"
        self.slack = np.full(len(exact), slack + (kind == "integers") * 1e-5)
        self.units = np.full(len(exact), 1e-5 if kind == "integers" else 1.0)
        noise = np.random.default_rng(seed).uniform(-1, 1, exact.shape) * slack * 0.999
        self.fast = exact + noise if slack else exact
        inexact = slack or kind == "integers"
        self.exact = (
            Exact(np.eye(len(exact), dtype=np.float32), np.ascontiguousarray(exact.T)) if inexact
            else Exact(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32))
        )  # fmt: skip

    def tiles(self, begin, end):
        for start in range(0, self.num_passages, self.width):
            tile = self.fast[begin:end, start : start + self.width]
            if self.kind == "integers":
                yield start, np.rint(tile / 1e-5).astype(np.int32)
            else:
                tile = np.ascontiguousarray(tile, np.float32)
                yield start, torch.from_numpy(tile) if self.on_accelerator else tile

    def narrower(self, rows):
        self.asked.extend(rows.tolist())
        scores = Table(self.table, 1e-6)
        scores.fast, scores.units, scores.slack = scores.fast[rows], scores.units[rows], scores.slack[rows]
        scores.exact = scores.exact._replace(anchors=scores.exact.anchors[rows])
        return scores


def none(num_rows):
    return Ragged(np.zeros(num_rows + 1, np.int64), np.empty(0, np.int64))


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


KINDS = [(0.0, "floats"), (1e-4, "floats"), (0.05, "floats"), (1e-4, "integers"), (0.05, "integers"),
         (1e-4, "tensors"), (0.05, "tensors")]  # fmt: skip


@pytest.mark.parametrize(("slack", "kind"), KINDS)
@pytest.mark.parametrize("num_passages", [1, 5, 300, 9000])
def test_the_k_best_below_a_ceiling(num_passages, slack, kind):
    rng = np.random.default_rng(num_passages)
    exact = rng.standard_normal((40, num_passages)).astype(np.float32)
    ceilings = rng.uniform(-1, 2, 40)
    ceilings[:5] = np.inf
    ceilings[5] = -9  # nothing qualifies
    excluded = lists(rng, 40, num_passages, 30)
    searches = [Search(ceilings, 4, excluded), Search(np.full(40, np.inf), 1, none(40))]
    below, best = k_best_below(Table(exact, slack, kind=kind), searches)
    assert (below.ids == brute_force(exact, ceilings, 4, excluded)).all()
    assert (best.ids == brute_force(exact, np.full(40, np.inf), 1, none(40))).all()
    found = below.ids >= 0
    assert (below.scores[found] == exact[np.nonzero(found)[0], below.ids[found]]).all()
    assert np.isneginf(below.scores[~found]).all()


@pytest.mark.parametrize(("slack", "kind"), KINDS)
def test_ties_go_to_the_lower_id(slack, kind):
    rng = np.random.default_rng(3)
    exact = rng.integers(0, 4, (30, 6000)).astype(np.float32) / 4
    ceilings = np.tile([0.75, 0.5, np.inf], 10)
    excluded = lists(rng, 30, 200, 10)
    (found,) = k_best_below(Table(exact, slack, kind=kind), [Search(ceilings, 6, excluded)])
    assert (found.ids == brute_force(exact, ceilings, 6, excluded)).all()


@pytest.mark.parametrize("slack", [0.0, 1e-3])
def test_a_score_equal_to_the_ceiling_does_not_qualify(slack):
    exact = np.array([[0.5, 0.25, 0.5, 0.125]])
    (found,) = k_best_below(Table(exact, slack), [Search(np.array([0.5]), 3, none(1))])
    assert found.ids.tolist() == [[1, 3, -1]]


@pytest.mark.parametrize("kind", ["floats", "integers", "tensors"])
def test_more_scores_within_the_slack_than_can_wait(kind):
    exact = np.random.default_rng(0).standard_normal((20, 3000)).astype(np.float32)
    exact[7, :500] = 9 + np.arange(500) * 1e-5
    exact[8] = 3 - np.arange(3000) * 1e-6
    exact[9] = 3 + np.arange(3000) * 1e-6  # rising: the best come last
    ceilings = np.full(20, np.inf)
    ceilings[10] = 0.0  # thousands lie within the slack of the ceiling
    exact[10] /= 1e3
    (found,) = k_best_below(Table(exact, 1e-2, kind=kind), [Search(ceilings, 3, none(20))])
    assert (found.ids == brute_force(exact, ceilings, 3, none(20))).all()


@pytest.mark.parametrize("kind", ["floats", "integers"])
def test_a_row_with_a_crowd_of_candidates_is_searched_in_narrower_scores(kind):
    rng = np.random.default_rng(6)
    exact = rng.uniform(0.5, 1.5, (20, 3000)).astype(np.float32)
    exact[:, 7:11] = 9  # the best are far from the others
    exact[4] /= 1e3  # all within the slack of one another
    exact[5] /= 1e3
    ceilings = np.full(20, np.inf)
    ceilings[5], ceilings[6] = 1e-3, 1.0  # a ceiling in the middle of all
    table = Table(exact, 1e-2, kind=kind, width=500, crowd=100)
    near = Nearness(np.full(20, 1.2), Ragged.from_pairs(np.arange(20), np.arange(20), 20), np.eye(20, dtype=np.float32))
    (plain,) = k_best_below(table, [Search(ceilings, 3, none(20))])
    assert (plain.ids == brute_force(exact, ceilings, 3, none(20))).all()
    assert {4, 5} <= set(table.asked)
    assert 0 not in table.asked
    (guarded,) = k_best_below(table, [Search(ceilings, 3, none(20), nearness=near)])
    allowed = np.where(exact < np.float32(1.2), exact, np.inf)
    assert (guarded.ids == brute_force(allowed, ceilings, 3, none(20))).all()
    assert (guarded.free.ids == plain.ids).all()
    assert 0 in table.asked  # the second ceiling lies in the middle of all


@pytest.mark.parametrize("width", [1, 7, 64, 1000, 4096])
@pytest.mark.parametrize("slack", [0.0, 1e-3])
def test_the_answer_depends_on_no_tile_size(width, slack):
    rng = np.random.default_rng(5)
    exact = rng.integers(-50, 50, (25, 900)) / 64
    ceilings = rng.uniform(-0.7, 0.7, 25)
    excluded = lists(rng, 25, 900, 40)
    (found,) = k_best_below(Table(exact, slack, width=width), [Search(ceilings, 5, excluded)])
    assert (found.ids == brute_force(exact.astype(np.float32), ceilings, 5, excluded)).all()


@pytest.mark.parametrize("kind", ["floats", "integers", "tensors"])
def test_a_passage_near_a_positive_is_passed_over(kind):
    rng = np.random.default_rng(8)
    exact = rng.standard_normal((30, 2000)).astype(np.float32)
    table = Table(exact, 0.01, kind=kind)
    positives = lists(rng, 30, 50, 3)
    vectors = rng.standard_normal((50, 30)).astype(np.float32)
    ceilings, caps = rng.uniform(-1, 2, 30), rng.uniform(-3, 3, 30)
    excluded = lists(rng, 30, 2000, 20)
    near = Nearness(caps, positives, vectors)
    guarded, plain = k_best_below(table, [Search(ceilings, 4, excluded, nearness=near), Search(ceilings, 4, excluded)])
    similarities = exact.T.astype(np.float64) @ vectors.T.astype(np.float64)
    allowed = exact.copy()
    for row in range(30):
        for positive in positives[row]:
            refused = similarities[:, positive].astype(np.float32) >= caps[row]
            allowed[row, refused] = np.inf  # not below any ceiling
    assert (guarded.ids == brute_force(allowed, ceilings, 4, excluded)).all()
    assert (plain.ids == brute_force(exact, ceilings, 4, excluded)).all()
    assert (guarded.ids != plain.ids).any()
    assert plain.free is None
    assert (guarded.free.ids == plain.ids).all()
    assert (guarded.free.scores == plain.scores).all()


@pytest.mark.parametrize("crowd", [NO_CROWD, 60])
@pytest.mark.parametrize(("slack", "kind"), KINDS)
def test_the_best_passage_is_told_beside_any_other_search(slack, kind, crowd):
    rng = np.random.default_rng(10)
    exact = rng.integers(-100, 100, (30, 1500)).astype(np.float32) / 32  # with ties
    exact[3], exact[4] = exact[3] / 1e3, np.sort(exact[4])
    exact[5] = np.minimum(exact[5], 3)
    exact[5, [100, 150]] = 5, 5 + slack / 8
    ceilings = rng.uniform(-2, 4, 30)
    excluded, others = lists(rng, 30, 1500, 40), lists(rng, 30, 1500, 40)
    blocked = rng.random(1500) < 0.5
    near = Nearness(np.full(30, 0.5), lists(rng, 30, 30, 2), rng.standard_normal((30, 30)).astype(np.float32))
    best = Search(np.full(30, np.inf), 1, excluded)
    expected = brute_force(exact, best.ceilings, 1, excluded)
    beside = [
        [Search(ceilings, 4, excluded)],
        [Search(ceilings, 4, excluded, nearness=near)],
        [Search(ceilings, 4, excluded, blocked)],
        [Search(ceilings, 4, others)],
        [best, Search(ceilings, 4, excluded), Search(ceilings, 1, excluded)],
        [Search(ceilings, 4, excluded), Search(ceilings, 1, excluded)],
        [],
    ]
    for searches in beside:
        table = Table(exact, slack, kind=kind, width=200, crowd=crowd if slack else NO_CROWD)
        table.fast[5, [100, 150]] = exact[5, [100, 150]] + slack * np.array([0.99, -0.99])  # as far off as they may be
        *found, top = k_best_below(table, [*searches, best])
        assert (top.ids == expected).all()
        assert (top.scores[:, 0] == exact[np.arange(30), expected[:, 0]]).all()
        for search, answer in zip(searches, found, strict=True):
            (alone,) = k_best_below(Table(exact, slack, kind=kind, width=200), [search])
            assert (answer.ids == alone.ids).all()
            assert (answer.scores == alone.scores).all()


@pytest.mark.parametrize("kind", ["floats", "integers", "tensors"])
def test_a_blocked_passage_is_picked_for_no_anchor(kind):
    rng = np.random.default_rng(9)
    exact = rng.standard_normal((20, 700)).astype(np.float32)
    blocked = rng.random(700) < 0.9
    (found,) = k_best_below(Table(exact, 0.01, kind=kind), [Search(np.full(20, 1.0), 5, none(20), blocked)])
    exact[:, blocked] = np.inf
    assert (found.ids == brute_force(exact, np.full(20, 1.0), 5, none(20))).all()


def test_each_thread_of_ours_multiplies_alone(monkeypatch):
    monkeypatch.setattr("hn_datasets.threads.num_threads", lambda: 2)
    before, found = torch.get_num_threads(), []

    def look(*_: int) -> None:
        _ = torch.ones(300, 300) @ torch.ones(300, 300)
        found.append(torch.get_num_threads())

    torch.set_num_threads(2)
    for _ in range(5):
        over_rows(look, 100)
    torch.set_num_threads(before)
    assert set(found) == {1}


def test_items_are_taken_while_others_are_being_made(monkeypatch):
    monkeypatch.setattr("hn_datasets.threads.num_threads", lambda: 2)
    taken = threading.Event()

    def make_items():
        yield from range(8)
        assert taken.wait(30)
        yield 8

    assert over_items(lambda number: taken.set() or number, make_items()) == list(range(9))


def test_no_item_is_begun_after_one_could_not_be_made(monkeypatch):
    monkeypatch.setattr("hn_datasets.threads.num_threads", lambda: 2)
    over_items(int, range(9))  # which starts the threads
    begun, go_on = [], threading.Event()

    def take(number: int) -> None:
        begun.append(number)
        go_on.wait(10)

    def make_items():
        yield from range(9)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        over_items(take, make_items())
    go_on.set()
    over_items(int, range(9))
    assert len(begun) <= 2


def test_threads_of_others_keep_their_number_of_torch_threads():
    before, found = torch.get_num_threads(), []
    over_rows(lambda begin, end: None, 100)
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *found] == [before, before]


@pytest.fixture
def make_scorer(tmp_path):
    """A scorer with 300 passages in 96 dimensions, and 100 anchors."""

    def make(similarity, integers, vectors):
        texts = [f"text {number}" for number in range(400)]
        corpus = Corpus.build([pa.array(texts[100:])], tmp_path)
        passages = (texts[100:], vectors[100:])
        teacher = PrecomputedTeacher((texts[:100], vectors[:100]), passages, similarity=similarity)
        store = EmbeddingStore(tmp_path)
        store.embed(teacher, "passage", corpus.column, corpus.digests)
        return DenseScorer(teacher, corpus, store, device="cpu", integers=integers), texts[:100]

    return make


def draw_vectors(similarity):
    rng = np.random.default_rng(7)
    lengths = rng.uniform(0.1, 30, (400, 1)) if similarity == "dot" else np.ones((400, 1))
    vectors = rng.standard_normal((400, 96)) * np.append(5, np.ones(95))  # one component is larger than all others
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * lengths).astype(np.float32)


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_dense_tiles_are_within_the_slack(make_scorer, integers, similarity):
    scorer, anchors = make_scorer(similarity, integers, draw_vectors(similarity))
    scores = scorer.scores(anchors)
    tile = np.concatenate([tile.copy() for _, tile in scores.tiles(0, 100)], axis=1)
    exact = scores.pairs(np.repeat(np.arange(100), 300), np.tile(np.arange(300), 100)).reshape(100, 300)
    off = np.abs(tile * scores.units[:, None] - exact)
    assert tile.dtype == (np.int32 if integers else np.float32)
    assert (off <= scores.slack[:, None]).all()
    assert off.max() > 1e-9


def test_vectors_that_integers_would_blur_are_multiplied_as_they_are(make_scorer):
    vectors = draw_vectors("dot")
    vectors[200] *= 1000
    scorer, anchors = make_scorer("dot", True, vectors)
    (_, tile), *_ = scorer.scores(anchors).tiles(0, 100)
    assert tile.dtype == np.float32


def test_exact_scores_are_sums_in_float64(make_scorer):
    scorer, anchors = make_scorer("dot", False, draw_vectors("dot"))
    scores = scorer.scores(anchors)
    rows, ids = np.repeat(np.arange(100), 300), np.tile(np.arange(300), 100)
    products = scores.exact.anchors.astype(np.float64)[rows] * scores.exact.passages.astype(np.float64)[ids]
    assert (scores.pairs(rows, ids) == [np.float32(math.fsum(row)) for row in products]).mean() > 0.9999


def test_a_rough_product_is_within_its_bound():
    rng = np.random.default_rng(4)
    some, others = (rng.standard_normal((300, 700)).astype(np.float32) for _ in range(2))
    others[:, 350:] = -others[:, :350] * some[:, :350] / some[:, 350:]  # sums that nearly vanish
    lanes, off, bounds = np.empty(LANES), [], []
    for row in range(300):
        rough, bound = rough_dot(some, row, others, row)
        off.append(abs(float(rough) - float(dot(some, row, others, row, lanes))))
        bounds.append(bound)
    assert (np.array(off) <= bounds).all()
    assert max(off) > 0
    assert (np.array(bounds) < 1e-4 * np.abs(some * others).sum(axis=1)).all()


def test_vectors_of_one_component(tmp_path):
    passages = np.random.default_rng(0).uniform(0.5, 1.5, (3000, 1)).astype(np.float32)
    texts, anchors = [f"passage {number}" for number in range(3000)], np.array([[1.0], [0.7]], np.float32)
    teacher = PrecomputedTeacher((["one", "two"], anchors), (texts, passages), similarity="dot")
    corpus, store = Corpus.build([pa.array(texts)], tmp_path), EmbeddingStore(tmp_path)
    store.embed(teacher, "passage", corpus.column, corpus.digests)
    scores, ceilings = DenseScorer(teacher, corpus, store, "cpu").scores(["one", "two"]), np.array([1.2, 0.9])
    (found,) = k_best_below(scores, [Search(ceilings, 3, none(2))])
    exact = anchors @ passages[[int(text.split()[1]) for text in corpus.column.to_pylist()]].T
    assert (found.ids == brute_force(exact, ceilings, 3, none(2))).all()


def _build_scorer(teacher, corpus, folder):
    DenseScorer(teacher, corpus, EmbeddingStore(folder), "cpu").scores(["anchor 0"])


def test_a_forked_worker_can_be_the_first_to_round_vectors(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((3000, 384)).astype(np.float32)  # more than torch takes alone
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [f"text {number}" for number in range(3000)]
    teacher = PrecomputedTeacher((["anchor 0"], vectors[:1]), (texts, vectors))
    corpus, store = Corpus.build([pa.array(texts)], tmp_path), EmbeddingStore(tmp_path)
    store.embed(teacher, "passage", corpus.column, corpus.digests)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    _ = torch.ones(1500, 1500) @ torch.ones(1500, 1500)  # which starts threads that do not come along
    worker = multiprocessing.get_context("fork").Process(target=_build_scorer, args=(teacher, corpus, tmp_path))
    worker.start()
    torch.set_num_threads(before)
    worker.join(30)
    worker.kill()
    assert worker.exitcode == 0
