"""Approximate search against brute force: exact where all lists are read, and full rows everywhere."""

import itertools
import json
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from datasets import Dataset, DatasetDict

from hn_datasets import BM25Teacher, HardNegativeMiner, PrecomputedTeacher, SimilarToPositive, TopK, TopKPercPos
from hn_datasets.approximate import ApproximateIndex, _search_lists, choose_index
from hn_datasets.cli import main
from hn_datasets.errors import ArgumentError
from hn_datasets.index_recall import IndexRecall, spread
from hn_datasets.inverted_lists import Stage
from hn_datasets.quantized import likely_slack_of, rotate, round_to_int8, slack_of
from hn_datasets.recipe import Recipe
from hn_datasets.record import MiningRecord
from hn_datasets.scoring import DenseScorer
from hn_datasets.search import Nearness, Search, k_best_below
from hn_datasets.store import EmbeddingStore
from hn_datasets.texts import Corpus, Ragged
from tests.static_model import WORDS, save_static_model

NUM_ANCHORS, NUM_PASSAGES, DIMENSION = 60, 1500, 24
ALL = 10**9
SCHEMA = json.loads((Path(__file__).parent.parent / "cards" / "mining.schema.json").read_text(encoding="utf-8"))


def make_vectors(similarity, seed=0):
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((12, DIMENSION))
    passages, anchors = (
        topics[rng.integers(0, len(topics), size)] + noise * rng.standard_normal((size, DIMENSION))
        for size, noise in ((NUM_PASSAGES, 0.7), (NUM_ANCHORS, 1.0))
    )
    passages[100:140] = passages[60:100]  # ties
    if similarity == "cosine":
        passages, anchors = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (passages, anchors))
    return anchors.astype(np.float32), passages.astype(np.float32)


class World:
    """Anchors and passages in a store, and all exact scores by numpy."""

    def __init__(self, folder, similarity="cosine", seed=0):
        anchors, passages = make_vectors(similarity, seed)
        self.anchors = [f"anchor {number}" for number in range(len(anchors))]
        self.texts = [f"passage {number}" for number in range(len(passages))]
        self.teacher = PrecomputedTeacher((self.anchors, anchors), (self.texts, passages), similarity=similarity)
        self.corpus = Corpus.build([pa.array(self.texts)], folder / "corpora")
        self.store = EmbeddingStore(folder)
        self.store.embed(self.teacher, "passage", self.corpus.column, self.corpus.digests)
        self.passages = passages[[int(text.split()[1]) for text in self.corpus.column.to_pylist()]]
        self.exact = (anchors.astype(np.float64) @ self.passages.astype(np.float64).T).astype(np.float32)

    def scorer(self):
        return DenseScorer(self.teacher, self.corpus, self.store, device="cpu")


@pytest.fixture(params=["cosine", "dot"])
def world(request, tmp_path):
    return World(tmp_path, request.param)


def brute_force(scores, allowed, k):
    """Ids of the k highest allowed scores of each row, ties to the lower id, -1 where there are none."""
    ids = np.full((len(scores), k), -1)
    for row, (line, mask) in enumerate(zip(scores, allowed, strict=True)):
        best = [number for _, number in sorted((-line[number], number) for number in np.flatnonzero(mask))[:k]]
        ids[row, : len(best)] = best
    return ids


def exclude(rng, num_rows=NUM_ANCHORS):
    rows = np.repeat(np.arange(num_rows), 5)
    return Ragged.from_pairs(rows, rng.integers(0, NUM_PASSAGES, len(rows)), num_rows)


def allow(world, ceilings, excluded):
    allowed = world.exact < ceilings[:, None]
    allowed[excluded.rows, excluded.values] = False
    return allowed


def draw_ceilings(world, rng):
    """Ceilings at any depth of the rankings; the last rows have none, and one that nothing is below."""
    ranks = rng.integers(0, NUM_PASSAGES, NUM_ANCHORS)
    ceilings = np.sort(world.exact, axis=1)[np.arange(NUM_ANCHORS), -1 - ranks].astype(np.float64)
    ceilings[-2:] = np.inf, world.exact.min() - 1
    return ceilings


def test_all_lists_give_the_exact_answer(world):
    rng = np.random.default_rng(1)
    ceilings, excluded = draw_ceilings(world, rng), exclude(rng)
    index = ApproximateIndex(world.scorer(), "IVF16,SQ8")
    searches = [Search(ceilings, 4, excluded), Search(np.full(NUM_ANCHORS, np.inf), 1, excluded)]
    below, best = index.k_best_below(world.scorer().scores(world.anchors), searches, [Stage(16, ALL)])
    assert (below.ids == brute_force(world.exact, allow(world, ceilings, excluded), 4)).all()
    assert (best.ids == brute_force(world.exact, allow(world, np.full(NUM_ANCHORS, np.inf), excluded), 1)).all()
    full = below.ids >= 0
    assert (below.scores[full] == world.exact[np.nonzero(full)[0], below.ids[full]]).all()
    assert np.isneginf(below.scores[~full]).all()


def test_few_lists_give_the_best_of_what_stands_in_them(world):
    index = ApproximateIndex(world.scorer(), "IVF16,SQ8")
    excluded = Ragged(np.zeros(NUM_ANCHORS + 1, np.int64), np.empty(0, np.int64))
    ceilings = np.full(NUM_ANCHORS, np.inf)
    scores = world.scorer().scores(world.anchors)
    (found,) = index.k_best_below(scores, [Search(ceilings, 4, excluded)], [Stage(1, ALL)])
    exact = brute_force(world.exact, allow(world, ceilings, excluded), 4)
    recall = np.mean([len(set(some) & set(others)) for some, others in zip(found.ids, exact, strict=True)]) / 4
    assert 0.3 < recall < 1
    list_of = np.empty(NUM_PASSAGES, np.int64)
    for number in range(16):
        list_of[index.lists.ids(number)] = number
    num_read = [len(set(list_of[ids])) for ids in found.ids]
    assert np.mean(np.equal(num_read, 1)) > 0.9  # others are near a list of fewer than 4 passages


@pytest.mark.parametrize("stages", [(), (Stage(1, ALL),), (Stage(1, 3),), (Stage(2, 20), Stage(6, 100))])
def test_rows_that_the_lists_do_not_reach_are_answered_exactly(world, stages):
    rng = np.random.default_rng(2)
    ceilings, excluded = draw_ceilings(world, rng), exclude(rng)
    index = ApproximateIndex(world.scorer(), "IVF16,SQ8")
    scores = world.scorer().scores(world.anchors)
    (found,) = index.k_best_below(scores, [Search(ceilings, 4, excluded)], stages)
    exact = brute_force(world.exact, allow(world, ceilings, excluded), 4)
    assert ((found.ids >= 0) == (exact >= 0)).all()  # never short
    reach = max((stage.reach for stage in stages), default=0)
    deep = (world.exact >= np.where(np.isinf(ceilings), 99, ceilings)[:, None]).sum(axis=1) > NUM_PASSAGES - 50
    assert (found.ids[deep] == exact[deep]).all()
    if reach <= 3:
        assert (found.ids == exact).all()


def test_rows_with_a_crowd_of_candidates_are_answered_exactly(world, monkeypatch):
    rng = np.random.default_rng(4)
    ceilings, excluded = draw_ceilings(world, rng), exclude(rng)
    index = ApproximateIndex(world.scorer(), "IVF16,SQ8")
    search = Search(ceilings, 4, excluded)
    exact = brute_force(world.exact, allow(world, ceilings, excluded), 4)
    (few,) = index.k_best_below(world.scorer().scores(world.anchors), [search], [Stage(1, ALL)])
    monkeypatch.setattr("hn_datasets.approximate.CROWD", 0)
    monkeypatch.setattr("hn_datasets.approximate.PASSAGES_PER_CANDIDATE", NUM_PASSAGES)
    (found,) = index.k_best_below(world.scorer().scores(world.anchors), [search], [Stage(1, ALL)])
    assert (few.ids != exact).any()
    assert (found.ids == exact).all()


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_depths_are_ranks_among_all_passages(world, share):
    rng = np.random.default_rng(5)
    blocked = rng.random(NUM_PASSAGES) < share
    ranks = rng.integers(0, NUM_PASSAGES // 2, NUM_ANCHORS)
    falling = -np.sort(-world.exact, axis=1)
    ceilings = falling[np.arange(NUM_ANCHORS), ranks].astype(np.float64)
    none = Ragged(np.zeros(NUM_ANCHORS + 1, np.int64), np.empty(0, np.int64))
    index, scores = ApproximateIndex(world.scorer(), "IVF16,SQ8"), world.scorer().scores(world.anchors)
    searches = [Search(ceilings, 4, none, blocked if share else None), Search(np.full(NUM_ANCHORS, np.inf), 1, none)]
    anchors, rows = index._round(scores), np.arange(NUM_ANCHORS)
    found, depths = _search_lists(scores, anchors, rows, index.lists, searches, Stage(16, ALL))
    expected = (world.exact >= found[0].scores[:, -1:]).sum(axis=1)  # ties stand before the last one
    assert (depths >= expected - 1).all()
    assert share or (depths <= expected).all()  # of blocked ones some are counted that stand behind


def test_passages_far_shorter_than_others_are_found(tmp_path):
    rng = np.random.default_rng(0)
    long, anchors = rng.standard_normal((1, 900, 384)), rng.standard_normal((1, 40, 384))
    long, anchors = (part[0] / np.linalg.norm(part[0], axis=1, keepdims=True) for part in (long, anchors))
    short = 0.005 * anchors  # which rounding takes altogether
    passages, anchors = np.concatenate([long, short]).astype(np.float32), anchors.astype(np.float32)
    texts, queries = ([f"{kind} {number}" for number in range(n)] for kind, n in (("passage", 940), ("anchor", 40)))
    teacher = PrecomputedTeacher((queries, anchors), (texts, passages), similarity="dot")
    corpus, store = Corpus.build([pa.array(texts)], tmp_path / "corpora"), EmbeddingStore(tmp_path)
    store.embed(teacher, "passage", corpus.column, corpus.digests)
    scorer = DenseScorer(teacher, corpus, store, device="cpu")
    none = Ragged(np.zeros(41, np.int64), np.empty(0, np.int64))
    search = Search(np.einsum("ij,ij->i", anchors, passages[900:]).astype(np.float64) + 2e-6, 4, none)
    (found,) = ApproximateIndex(scorer, "IVF4,SQ8").k_best_below(scorer.scores(queries), [search], [])
    (exact,) = k_best_below(scorer.scores(queries), [search])
    assert (found.ids == exact.ids).all()


@pytest.mark.parametrize("dimension", [2, 24, 384])
def test_the_likely_slack_holds_for_nearly_all_products(dimension):
    rng = np.random.default_rng(0)
    some, others = (
        part / np.linalg.norm(part, axis=1, keepdims=True) for part in rng.standard_normal((2, 600, dimension))
    )
    rotated = rotate(others.astype(np.float32))
    corpus = round_to_int8(rotated, np.abs(rotated).max() / 127)
    anchors = round_to_int8(rotate(some.astype(np.float32)))
    scores = anchors.integers.astype(float) @ corpus.integers.astype(float).T * anchors.units[:, None] * corpus.units
    bounds = corpus.lengths.max(), corpus.losses.max()
    likely, proven = likely_slack_of(anchors, *bounds), slack_of(anchors, *bounds)
    off = np.abs(scores - some @ others.T)
    assert (off <= proven[:, None] + 1e-6).all()
    assert (off > likely[:, None] + 1e-6).mean() < 1e-4
    assert (likely <= proven).all()
    assert dimension < 384 or (likely < 0.25 * proven).all()


def test_integers_and_remainders_give_the_score_within_a_small_error(world):
    index = ApproximateIndex(world.scorer(), "IVF16,SQ8")
    anchors = index._round(world.scorer().scores(world.anchors))
    fine = anchors.fine
    for number in np.flatnonzero(index.lists.sizes):
        integers, rest = (
            part.astype(np.float64) for part in (index.lists.integers(number), index.lists.remainders_of(number))
        )
        passages = integers * float(fine.unit) + rest * float(fine.remainder_unit)
        off = np.abs(fine.anchors @ passages.T - world.exact[:, index.lists.ids(number)])
        assert (off <= fine.errors[:, None]).all()
    assert (fine.errors < anchors.slack / 20).all()


def test_measured_stages_find_nearly_all(world):
    excluded = Ragged(np.zeros(NUM_ANCHORS + 1, np.int64), np.empty(0, np.int64))
    index = ApproximateIndex(world.scorer(), "IVF32,SQ8")
    assert index.lists.stages
    ceilings = draw_ceilings(world, np.random.default_rng(3))
    (found,) = index.k_best_below(world.scorer().scores(world.anchors), [Search(ceilings, 4, excluded)])
    exact = brute_force(world.exact, allow(world, ceilings, excluded), 4)
    assert (found.ids == exact).mean() > 0.95


def test_a_second_ceiling_and_blocked_passages(world):
    rng = np.random.default_rng(4)
    ceilings, excluded = draw_ceilings(world, rng), exclude(rng)
    positives = rng.integers(0, NUM_PASSAGES, NUM_ANCHORS)
    vectors = world.passages[positives]
    products = (vectors.astype(np.float64) @ world.passages.astype(np.float64).T).astype(np.float32)
    limits = np.quantile(products, 0.7, axis=1)
    blocked = rng.random(NUM_PASSAGES) < 0.2
    own = Ragged(np.arange(NUM_ANCHORS + 1), np.arange(NUM_ANCHORS))
    search = Search(ceilings, 4, excluded, blocked, Nearness(limits, own, vectors))
    allowed = allow(world, ceilings, excluded) & (products < limits[:, None]) & ~blocked
    exact = brute_force(world.exact, allowed, 4)
    index = ApproximateIndex(world.scorer(), "IVF16,SQ8")
    scores = world.scorer().scores(world.anchors)
    (found,) = index.k_best_below(scores, [search], [Stage(16, ALL)])
    assert (found.ids == exact).all()
    (found,) = index.k_best_below(scores, [search], [Stage(4, 300)])
    taken = found.ids >= 0
    assert (taken == (exact >= 0)).all()
    assert allowed[np.nonzero(taken)[0], found.ids[taken]].all()


def test_the_answer_does_not_depend_on_the_other_anchors(world):
    ceilings = draw_ceilings(world, np.random.default_rng(6))
    index = ApproximateIndex(world.scorer(), "IVF32,SQ8")

    def search(rows):
        none = Ragged(np.zeros(len(rows) + 1, np.int64), np.empty(0, np.int64))
        scores = world.scorer().scores([world.anchors[row] for row in rows])
        return index.k_best_below(scores, [Search(ceilings[rows], 4, none)])[0]

    together = search(np.arange(NUM_ANCHORS))
    for rows in np.array_split(np.random.default_rng(7).permutation(NUM_ANCHORS), 9):
        apart = search(rows)
        assert (apart.ids == together.ids[rows]).all()
        assert (apart.scores == together.scores[rows]).all()


def files_of(folder, suffix):
    return sorted((folder / "matrices").glob(f"*{suffix}"))


def test_lists_are_made_once_and_again_where_damaged(tmp_path):
    world = World(tmp_path)
    ApproximateIndex(world.scorer(), "IVF16,SQ8")
    (lists,) = files_of(tmp_path, ".faiss")
    before = lists.stat().st_mtime_ns
    ApproximateIndex(world.scorer(), "IVF16,SQ8")
    assert files_of(tmp_path, ".faiss") == [lists]
    assert lists.stat().st_mtime_ns == before
    ApproximateIndex(world.scorer(), "IVF8,SQ8")
    assert len(files_of(tmp_path, ".faiss")) == 2
    descriptions = [json.loads(path.read_text(encoding="utf-8")) for path in files_of(tmp_path, ".json")]
    (remainders,) = [data["remainders"]["path"] for data in descriptions if data.get("lists") == lists.name]
    for name in (lists.name, remainders):
        file = tmp_path / "matrices" / name
        content = file.read_bytes()
        file.write_bytes(content[:-100] + b"x" * 100)
        ApproximateIndex(world.scorer(), "IVF16,SQ8")
        assert file.read_bytes() == content
        file.unlink()
        ApproximateIndex(world.scorer(), "IVF16,SQ8")
        assert file.read_bytes() == content


def test_lists_depend_on_no_order_of_passages(tmp_path):
    indexes = []
    for name, order in (("one", 1), ("other", -1)):
        world = World(tmp_path / name)
        world.corpus = Corpus.build([pa.array(world.texts[::order])], tmp_path / name / "corpora")
        indexes.append(ApproximateIndex(world.scorer(), "IVF16,SQ8").lists)
    for number in range(16):
        assert (indexes[0].ids(number) == indexes[1].ids(number)).all()


def pairs_of(world):
    return Dataset.from_dict({"anchor": world.anchors, "positive": world.texts[:NUM_ANCHORS]})


def mine(world, **choices):
    pairs = pairs_of(world)
    names = {name: choices.pop(name) for name in ("batch_size", "num_proc") if name in choices}
    miner = HardNegativeMiner.from_dataset(
        pairs, teacher=world.teacher, corpus=world.texts, store=world.store, **choices
    )
    return pairs.map(miner, batched=True, **names), miner


@pytest.mark.parametrize("names", [{"batch_size": 7}, {"num_proc": 2}, {"num_proc": 3, "batch_size": 5}])
def test_mining_does_not_depend_on_batches_and_processes(tmp_path, names):
    choices = {"index": "IVF16,SQ8", "method": TopKPercPos(0.9)}
    (tmp_path / "one").mkdir()
    expected, _ = mine(World(tmp_path / "one"), **choices)
    got, _ = mine(World(tmp_path / "other"), **choices, **names)
    assert got.to_dict() == expected.to_dict()


def test_mined_rows_say_how_they_were_searched(tmp_path):
    world = World(tmp_path)
    approximate, miner = mine(world, index="IVF16,SQ8", guards=(SimilarToPositive(),))
    exact, _ = mine(world, guards=(SimilarToPositive(),))
    assert miner.recipe.index == "IVF16,SQ8"
    assert Recipe.from_json(miner.recipe.to_json()) == miner.recipe
    assert set(miner.__getstate__().values()) >= {miner.recipe.to_json()}
    same = [some == other for some, other in zip(approximate["negative_ids"], exact["negative_ids"], strict=True)]
    assert np.mean(same) > 0.9
    assert list(map(len, approximate["negative_ids"])) == list(map(len, exact["negative_ids"]))
    for row in approximate:
        assert row["top_score"] >= max(row["negative_scores"], default=-1)


def test_the_record_says_what_the_index_finds(tmp_path, monkeypatch):
    world = World(tmp_path)
    exact, miner = mine(world)
    record = MiningRecord.of(exact, miner)
    assert record.index_recall is None and "recall" not in record.timings
    monkeypatch.setattr("hn_datasets.list_building._choose_stages", lambda *_: (Stage(1, ALL),))
    mined, miner = mine(world, index="IVF16,SQ8")
    pairs = [({*some}, {*others}) for some, others in zip(mined["negative_ids"], exact["negative_ids"], strict=True)]
    record = MiningRecord.of(mined, miner)
    recall = record.index_recall
    assert "recall" in record.timings
    assert (recall.rows, recall.negatives) == (NUM_ANCHORS, sum(len(others) for _, others in pairs))
    assert recall.found == sum(len(some & others) for some, others in pairs) < recall.negatives
    splits = DatasetDict(train=mined.select(range(45)), test=mined.select(range(45, NUM_ANCHORS)))
    record = MiningRecord.of(splits, miner)
    assert record.index_recall == recall
    assert MiningRecord.from_dict(json.loads(record.to_json())).index_recall == recall
    jsonschema.validate(record.to_dict(), SCHEMA)
    assert MiningRecord.of(mined.remove_columns("anchor"), miner).index_recall is None


def test_some_rows_stand_for_many():
    assert spread(1000, 4).tolist() == [0, 250, 500, 750]
    assert spread(3, 256).tolist() == [0, 1, 2]
    assert IndexRecall.merge([IndexRecall(2, 8, 7), IndexRecall(1, 4, 4)]) == IndexRecall(3, 12, 11)
    assert IndexRecall(5, 0, 0).share == 1


@pytest.mark.parametrize("index", [None, "exact", "auto"])
def test_small_corpora_are_searched_exactly(tmp_path, index):
    _, miner = mine(World(tmp_path), index=index, method=TopK())
    assert miner.recipe.index is None
    assert "index" not in json.loads(miner.recipe.to_json())
    assert not files_of(tmp_path, ".faiss")


def test_auto_grows_with_the_corpus():
    assert choose_index("auto", 1_000_000) == "IVF1024,SQ8"
    assert choose_index("auto", 8_000_000) == "IVF8192,SQ8"
    assert choose_index("auto", 100_000) is None


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("HNSW32", "Expected index to be"),
        ("IVF0,SQ8", "Expected index to be"),
        ("IVF4096,SQ8", "at least 4,096 passages"),
    ],
)
def test_an_index_that_cannot_be_is_refused(tmp_path, index, message):
    with pytest.raises(ArgumentError, match=message):
        mine(World(tmp_path), index=index)


@pytest.mark.parametrize("index", ["auto", "IVF16,SQ8"])
def test_an_index_has_no_effect_on_bm25(tmp_path, index):
    world = World(tmp_path)
    with pytest.raises(ArgumentError, match="has an effect only on a single teacher with vectors"):
        HardNegativeMiner.from_dataset(pairs_of(world), teacher=BM25Teacher(), index=index, store=world.store)


def test_on_the_command_line(tmp_path):
    texts = [" ".join(words) for words in itertools.product(WORDS[1:6], WORDS[3:9], WORDS[2:5])]
    source, output = tmp_path / "pairs.jsonl", tmp_path / "mined"
    Dataset.from_dict({"anchor": texts[:40], "positive": texts[40:80]}).to_json(str(source))
    teacher = save_static_model(tmp_path / "model")
    arguments = ["mine", source, "--teacher", teacher, "--index", "IVF4,SQ8", "--output", output]
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "The index finds 100.0% of the negatives of exact search (40 rows mined both ways)." in done.output
    assert Recipe.from_json((output / "recipe.json").read_text()).index == "IVF4,SQ8"
    plan = [*arguments[:-1], tmp_path / "planned", "--plan"]
    done = CliRunner().invoke(main, [str(argument) for argument in plan], catch_exceptions=False)
    assert "4 inverted lists" in done.stdout
    assert json.loads((output / "mining.json").read_text())["recipe"]["index"] == "IVF4,SQ8"
    again = [*arguments[:-1], tmp_path / "again", "--config", output / "recipe.json", "--index", "exact"]
    done = CliRunner().invoke(main, [str(argument) for argument in again], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "index" not in json.loads((tmp_path / "again" / "mining.json").read_text())["recipe"]


def test_without_faiss_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ArgumentError, match=r"hn-datasets\[faiss\]") as raised:
        mine(World(tmp_path), index="IVF16,SQ8")
    assert "\n" not in str(raised.value)
