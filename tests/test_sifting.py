"""Guards that judge after the search, against brute force: NearDuplicate and CrossEncoderGuard."""

import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from oracle import canonical
from tiny_cross_encoder import load_tiny_cross_encoder, save_tiny_cross_encoder

from hn_datasets import (
    BM25Teacher,
    CrossEncoderGuard,
    EmbeddingStore,
    HardNegativeMiner,
    NearDuplicate,
    PrecomputedTeacher,
    RandomNegatives,
    Recipe,
    SimilarToPositive,
    TopK,
    TopKAbs,
    TopKPercPos,
    TopKShifted,
)
from hn_datasets.errors import ArgumentError, TeacherError, VectorError
from hn_datasets.guards import guard_from_dict

NUM_ROWS, NUM_PASSAGES, NUM_NEGATIVES = 40, 150, 4
WORDS = [f"w{number}" for number in range(60)]


@pytest.fixture(scope="module")
def world():
    """Rows, passages in 10 tight heaps of 13 and some others, and unit vectors for all of them."""
    rng = np.random.default_rng(2)
    heaps = rng.standard_normal((10, 12))
    vectors = np.concatenate([np.repeat(heaps, 13, axis=0), rng.standard_normal((20, 12))])
    vectors += 0.12 * rng.standard_normal(vectors.shape)
    own = [rng.choice(NUM_PASSAGES, rng.integers(1, 3), replace=False).tolist() for _ in range(NUM_ROWS)]
    anchors = np.stack([vectors[ids].mean(axis=0) for ids in own]) + 0.4 * rng.standard_normal((NUM_ROWS, 12))
    unit = [(part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in (anchors, vectors)]
    texts = [f"{' '.join(rng.choice(WORDS, 5))} p{number}" for number in range(NUM_PASSAGES)]
    names = [f"{' '.join(rng.choice(WORDS, 3))} q{number}" for number in range(NUM_ROWS)]
    rows = [{"anchor": name, "positive": [texts[place] for place in ids]} for name, ids in zip(names, own, strict=True)]
    return rows, dict(zip(names, unit[0], strict=True)), dict(zip(texts, unit[1], strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("cross-encoder"), WORDS)


@pytest.fixture
def build(world, tmp_path):
    """Make the miner of the rows."""
    rows, anchors, passages = world

    def call(dataset=None, **arguments):
        teacher = PrecomputedTeacher(
            (list(anchors), np.stack(list(anchors.values()))), (list(passages), np.stack(list(passages.values())))
        )
        arguments = {"teacher": teacher, "corpus": list(passages), "num_negatives": NUM_NEGATIVES, **arguments}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return HardNegativeMiner.from_dataset(
                dataset or Dataset.from_list(rows), store=arguments.pop("store", tmp_path), **arguments
            )

    return call


def product(some, other):
    return np.float32(some.astype(np.float64) @ other.astype(np.float64))


def rank(world, row, method):
    """What may be a negative by the teacher's scores, best first."""
    _, anchors, passages = world
    scores = {text: product(anchors[row["anchor"]], passages[text]) for text in canonical(passages)}
    ceiling = method.ceiling(np.array([min(scores[text] for text in row["positive"])]))[0]
    ranked = sorted((text for text in scores if text not in row["positive"]), key=lambda text: -scores[text])
    return [text for text in ranked if scores[text] < ceiling]


def go_down(ranking, tests, wanted, limit=10**9):
    """Keep what no test refuses until there is enough; also how many each test refused."""
    kept, counts = [], [0] * len(tests)
    for text in ranking[:limit]:
        if len(kept) == wanted:
            break
        refused = next((number for number, test in enumerate(tests) if test(text, kept)), None)
        if refused is None:
            kept.append(text)
        else:
            counts[refused] += 1
    return kept, counts


def nearly_same(world, threshold):
    passages = world[2]
    return lambda text, kept: any(product(passages[text], passages[other]) >= threshold for other in kept)


def judged_right(model, row, method):
    """A test that scores one pair at a time."""
    score = lambda text: np.float32(model.predict([(row["anchor"], text)])[0])  # noqa: E731
    ceiling = method.ceiling(np.array([min(map(score, row["positive"]))], dtype=np.float32))[0]
    return lambda text, _: score(text) >= ceiling


@pytest.mark.parametrize("method", [TopK(), TopKPercPos(0.9), TopKShifted(3)])
@pytest.mark.parametrize("threshold", [0.8, 0.6])
def test_no_two_negatives_that_nearly_repeat_one_another(world, build, method, threshold):
    mined = Dataset.from_list(world[0]).map(build(method=method, guards=(NearDuplicate(threshold),)), batched=True)
    skip = 3 if isinstance(method, TopKShifted) else 0
    most = 0
    for row, found in zip(world[0], mined, strict=True):
        ranking = rank(world, row, method)[skip:]
        kept, counts = go_down(ranking, [nearly_same(world, threshold)], NUM_NEGATIVES)
        assert found["negatives"] == kept
        assert found["guard_removals"] == counts
        most = max(most, counts[0])
    assert most > 16, "no row had to be searched again"


def test_a_row_is_short_only_when_the_whole_corpus_repeats_itself(world, build):
    mined = Dataset.from_list(world[0]).map(build(method=TopK(), guards=(NearDuplicate(1e-3),)), batched=True)
    lengths = set()
    for row, found in zip(world[0], mined, strict=True):
        kept, counts = go_down(rank(world, row, TopK()), [nearly_same(world, 1e-3)], NUM_NEGATIVES)
        assert (found["negatives"], found["guard_removals"]) == (kept, counts)
        lengths.add(len(kept))
    assert min(lengths) < NUM_NEGATIVES


def test_what_is_drawn_from_has_no_near_duplicates(world, build):
    options = {"method": TopK(), "sampling": "random", "pool": 6, "seed": 1}
    mined = Dataset.from_list(world[0]).map(build(guards=(NearDuplicate(0.7),), **options), batched=True)
    for row, found in zip(world[0], mined, strict=True):
        pool, counts = go_down(rank(world, row, TopK()), [nearly_same(world, 0.7)], 6)
        assert set(found["negatives"]) <= set(pool)
        assert found["guard_removals"] == counts


def test_a_product_of_the_threshold_itself_is_a_repetition(tmp_path):
    vectors = {"right": [1, 0], "best": [0.75, 1], "again": [0.5, 0.125], "other": [0.25, 0]}
    table = np.float32(list(vectors.values()))
    teacher = PrecomputedTeacher((["q"], np.float32([[1, 0]])), (list(vectors), table), similarity="dot")
    assert product(table[1], table[2]) == 0.5
    for threshold, expected in ((0.5, ["best", "other"]), (0.501, ["best", "again"])):
        miner = HardNegativeMiner.from_dataset(
            Dataset.from_dict({"query": ["q"], "answer": ["right"]}), teacher=teacher, corpus=list(vectors),
            method=TopK(), num_negatives=2, guards=(NearDuplicate(threshold),), store=tmp_path,
        )  # fmt: skip
        assert list(miner({"query": ["q"], "answer": ["right"]})["negatives"][0]) == expected


@pytest.mark.parametrize(("method", "pool"), [(TopKPercPos(0.9), 6), (TopKAbs(0.5), 9), (TopKPercPos(1.0), 64)])
def test_a_cross_encoder_takes_out_what_it_takes_for_right(world, build, folder, method, pool):
    model = load_tiny_cross_encoder(folder)
    made = build(method=method, guards=(CrossEncoderGuard(folder, pool=pool),))
    mined = Dataset.from_list(world[0]).map(made, batched=True)
    taken, longest = 0, 0
    for row, found in zip(world[0], mined, strict=True):
        ranking = rank(world, row, method)
        kept, counts = go_down(ranking, [judged_right(model, row, method)], NUM_NEGATIVES, limit=8 * pool)
        assert found["negatives"] == kept
        assert found["guard_removals"] == counts
        taken += counts[0]
        longest = max(longest, len(kept) + counts[0])
    assert taken > NUM_ROWS / 4
    assert longest > pool or pool == 64


def test_rules_come_first_and_sieves_in_their_order(world, build, folder):
    model, method = load_tiny_cross_encoder(folder), TopKPercPos(0.95)
    rows = Dataset.from_list(world[0])
    guards = (CrossEncoderGuard(folder), SimilarToPositive(max_score=0.6), NearDuplicate(0.7))
    mined = rows.map(build(method=method, guards=guards), batched=True)
    passages = world[2]
    for row, found in zip(world[0], mined, strict=True):
        near = lambda text, row=row: max(product(passages[text], passages[own]) for own in row["positive"])  # noqa: E731
        below = rank(world, row, method)
        tests = [judged_right(model, row, method), nearly_same(world, 0.7)]
        kept, counts = go_down([text for text in below if near(text) < 0.6], tests, NUM_NEGATIVES, limit=8 * 32)
        assert found["negatives"] == kept
        similar = sum(near(text) >= 0.6 for text in below[:NUM_NEGATIVES])
        assert found["guard_removals"] == [counts[0], similar, counts[1]]


def test_two_sieves_see_no_more_of_a_row_than_the_one_that_sees_least(world, build, folder):
    model, method = load_tiny_cross_encoder(folder), TopKPercPos(0.95)
    guards = (CrossEncoderGuard(folder, pool=4), NearDuplicate(0.6))
    mined = Dataset.from_list(world[0]).map(build(method=method, guards=guards), batched=True)
    short = 0
    for row, found in zip(world[0][:15], mined, strict=False):
        below, tests = rank(world, row, method), [judged_right(model, row, method), nearly_same(world, 0.6)]
        kept, counts = go_down(below, tests, NUM_NEGATIVES, limit=8 * 4)
        assert (found["negatives"], found["guard_removals"]) == (kept, counts)
        short += len(kept) < NUM_NEGATIVES and len(below) > 8 * 4
    assert short > 0, "the test shows nothing if 32 passages are always enough"


def test_sifting_depends_neither_on_processes_nor_on_batches(world, build, folder, tmp_path):
    rows = Dataset.from_list(world[0])
    guards = (NearDuplicate(0.6), CrossEncoderGuard(folder, pool=5))
    mined = []
    for number, options in enumerate(({"num_proc": 2, "batch_size": 11}, {"batch_size": 3}, {})):
        store = EmbeddingStore(tmp_path / str(number))
        mined.append(rows.map(build(guards=guards, store=store), batched=True, **options))
    for column in ("negative_ids", "negative_scores", "guard_removals"):
        assert mined[0][column] == mined[1][column] == mined[2][column]


def test_a_score_equal_to_that_of_the_positive_is_at_the_ceiling(world, build, folder, monkeypatch):
    monkeypatch.setattr(
        type(load_tiny_cross_encoder(folder)), "predict",
        lambda model, pairs, **options: np.full(len(pairs), 0.5, dtype=np.float32),
    )  # fmt: skip
    made = build(method=TopKPercPos(1.0), guards=(CrossEncoderGuard(folder, pool=1, batch_size=17),))
    assert not any(Dataset.from_list(world[0]).map(made, batched=True)["negatives"])


def test_scores_of_pairs_are_kept(world, build, folder, monkeypatch):
    rows = Dataset.from_list(world[0])
    guard = CrossEncoderGuard(folder)
    first = rows.map(build(guards=(guard,)), batched=True)
    scored = []
    predict = type(load_tiny_cross_encoder(folder)).predict
    monkeypatch.setattr(
        type(load_tiny_cross_encoder(folder)), "predict",
        lambda model, pairs, **options: scored.extend(pairs) or predict(model, pairs, **options),
    )  # fmt: skip
    made = build(guards=(guard,))
    probes = len(scored)
    again = rows.map(made, batched=True, load_from_cache_file=False)
    assert len(scored) == probes == 1
    assert again["negatives"] == first["negatives"]
    rows.map(build(guards=(CrossEncoderGuard(folder, max_length=9),)), batched=True)
    assert len(scored) > 100, "scores of pairs cut elsewhere are others"


def test_a_recipe_holds_the_cross_encoder_and_loads_it_again(world, build, folder):
    made = build(guards=(CrossEncoderGuard(folder, pool=7, max_length=48),))
    form = made.recipe.to_dict()["guards"][0]
    assert {key: form[key] for key in ("name", "model", "revision", "max_length", "pool")} == {
        "name": "cross-encoder", "model": folder, "revision": None, "max_length": 48, "pool": 7,
    }  # fmt: skip
    assert len(form["weights"]) == 32
    state = made.__getstate__()
    mined = Dataset.from_list(world[0]).map(made, batched=True)
    del made
    again = guard_from_dict(Recipe.from_json(state["recipe"]).guards[0])
    assert again.to_dict() == form
    assert Dataset.from_list(world[0]).map(build(guards=(again,)), batched=True)["negatives"] == mined["negatives"]
    with pytest.raises(TeacherError, match="the model has changed since"):
        build(guards=(guard_from_dict({**form, "weights": "0" * 32}),))


def test_a_loaded_cross_encoder_is_not_changed_and_not_trained_meanwhile(world, build, folder):
    model = load_tiny_cross_encoder(folder)
    before = model.max_seq_length
    guard = CrossEncoderGuard(model, max_length=20)
    made = build(guards=(guard,))
    batch = {name: [row[name] for row in world[0]] for name in ("anchor", "positive")}
    made(batch)
    assert model.max_seq_length == before
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    with pytest.raises(TeacherError, match="it has been trained since"):
        build(guards=(guard,))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"guards": (NearDuplicate(), NearDuplicate(0.5))}, ArgumentError, "one guard of each kind"),
        ({"guards": (NearDuplicate(),), "method": RandomNegatives()}, ArgumentError, "drawn uniformly"),
        ({"guards": (NearDuplicate(),), "teacher": BM25Teacher()}, ArgumentError, "gives passages vectors"),
        ({"method": TopK()}, ArgumentError, "no effect with TopK, which has no ceiling"),
        ({"method": RandomNegatives()}, ArgumentError, "no effect with RandomNegatives"),
    ],
)
def test_guards_that_cannot_work(build, folder, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        build(**{"guards": (CrossEncoderGuard(folder),), **arguments})
    assert not (tmp_path / "embeddings").exists()


def test_cross_encoders_that_cannot_judge(build, tmp_path):
    labels = save_tiny_cross_encoder(tmp_path / "three", WORDS, num_labels=3)
    with pytest.raises(ArgumentError, match=r"one label, a score, got .* with 3"):
        CrossEncoderGuard(labels)
    broken = save_tiny_cross_encoder(tmp_path / "broken", WORDS, broken=True)
    with pytest.raises(VectorError, match="Expected finite scores from the cross-encoder"):
        build(guards=(CrossEncoderGuard(broken),))
    assert not (tmp_path / "embeddings").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(TeacherError, match="Could not load the cross-encoder"):
        CrossEncoderGuard(tmp_path / "empty")


def test_what_a_guard_has_where_nothing_is_named(folder):
    assert NearDuplicate() == NearDuplicate(0.95)
    assert SimilarToPositive() == SimilarToPositive(0.3)
    assert CrossEncoderGuard(folder).to_dict() == CrossEncoderGuard(folder, pool=32).to_dict()


@pytest.mark.parametrize("threshold", [0, -0.5, "0.9", float("nan"), True, float("inf")])
def test_thresholds_that_are_refused(threshold):
    with pytest.raises(ArgumentError, match="NearDuplicate needs a threshold above 0"):
        NearDuplicate(threshold)


@pytest.mark.parametrize("options", [{"pool": 0}, {"pool": 2.5}, {"batch_size": 0}, {"max_length": 0}])
def test_numbers_that_a_cross_encoder_refuses(folder, options):
    with pytest.raises(ArgumentError, match="at least 1"):
        CrossEncoderGuard(folder, **options)
