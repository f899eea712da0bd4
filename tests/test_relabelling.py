"""Suspected positives in a column of their own: which ones they are, and that nothing else takes them for negatives."""

import numpy as np
import pytest
from click.testing import CliRunner
from datasets import Dataset, load_dataset

from hn_datasets import (
    CardMetadata,
    RandomNegatives,
    SimilarToPositive,
    TopK,
    TopKPercPos,
    TopKShifted,
    audit,
    compute_statistics,
    format_dataset,
    publish,
)
from hn_datasets.cli import main
from hn_datasets.errors import ArgumentError
from tests.topics import EXTRA, ONE_EACH, ROWS, TEACHER, build_miner

HIDDEN = [row["positive"] for row in ROWS if not row["row"].endswith(" 0")]


@pytest.fixture(scope="module")
def dataset():
    return Dataset.from_list(ONE_EACH)


def mine(dataset, store, **choices):
    miner = build_miner(store, ONE_EACH, corpus=EXTRA + HIDDEN, **choices)
    return miner, dataset.map(miner, batched=True, batch_size=17)


def expected(method, max_similarity=None):
    """For each row the passages, among the three best, that the ceiling or the similarity to the positive keeps out."""
    texts = sorted({row["positive"] for row in ONE_EACH} | set(EXTRA) | set(HIDDEN))
    passages = TEACHER.encode(texts, "passage").astype(np.float64)
    lists = []
    for row in ONE_EACH:
        (anchor,) = TEACHER.encode([row["anchor"]], "anchor").astype(np.float64)
        own = texts.index(row["positive"])
        scores = (passages @ anchor).astype(np.float32).astype(np.float64)
        near = (passages @ passages[own]).astype(np.float32)
        ceiling = scores[own] - abs(scores[own]) * (1 - method.percentage) if hasattr(method, "percentage") else np.inf
        best = [place for place in np.argsort(-scores, kind="stable") if place != own][:3]
        lists.append(
            [
                texts[place]
                for place in best
                if scores[place] >= ceiling or (max_similarity is not None and near[place] >= max_similarity)
            ]
        )
    return lists


@pytest.mark.parametrize(
    ("method", "guards"),
    [
        (TopKPercPos(0.8), ()),
        (TopKPercPos(1.0), ()),
        (TopKPercPos(1.0), (SimilarToPositive(max_score=0.5),)),
        (TopK(), (SimilarToPositive(max_score=0.5),)),
    ],
)
def test_candidates_are_what_the_ceiling_or_the_guard_keeps_out_of_the_best(dataset, store, method, guards):
    _, mined = mine(dataset, store, method=method, guards=guards, relabel_candidates=True)
    found = expected(method, 0.5 if guards else None)
    assert mined["relabel_candidates"][:] == found
    assert any(found), "the test shows nothing if none is found"


def test_nothing_else_changes_and_without_the_request_there_is_no_column(dataset, store):
    _, plain = mine(dataset, store)
    miner, mined = mine(dataset, store, relabel_candidates=True)
    assert mined.remove_columns("relabel_candidates").to_dict() == plain.to_dict()
    assert miner.features(dataset.features) == mined.features
    assert compute_statistics(mined) == compute_statistics(plain)
    triplets = [format_dataset(rows, "triplet").to_dict() for rows in (mined, plain)]
    assert triplets[0] == triplets[1]
    assert format_dataset(mined, "scored")["relabel_candidates"][:] == mined["relabel_candidates"][:]
    negatives = [set(row) for row in mined["negatives"]]
    assert not any(own & set(row) for own, row in zip(negatives, mined["relabel_candidates"], strict=True))


def test_a_release_keeps_them_tells_of_them_and_is_sound(dataset, store, tmp_path):
    miner, mined = mine(dataset, store, relabel_candidates=True)
    layouts = ("n-tuple", "scored", "normalized")
    metadata = CardMetadata(license="cc0-1.0")
    publish(mined, miner=miner, version="1.0.0", metadata=metadata, layouts=layouts, to_folder=tmp_path / "out")
    scored = load_dataset(str(tmp_path / "out"), "scored", split="train")
    assert scored["relabel_candidates"][:] == mined["relabel_candidates"][:]
    assert "relabel_candidates" not in load_dataset(str(tmp_path / "out"), split="train").column_names
    assert audit(tmp_path / "out").ok
    card = (tmp_path / "out/README.md").read_text()
    assert "kept apart in the column `relabel_candidates`" in card
    assert "may be right answers" in card


@pytest.mark.parametrize("method", [TopK(), TopKShifted(3), RandomNegatives()])
def test_where_nothing_is_kept_out_it_is_refused(dataset, store, method):
    with pytest.raises(ArgumentError, match=f"no effect with {type(method).__name__} and no guard"):
        mine(dataset, store, method=method, relabel_candidates=True)


@pytest.mark.filterwarnings("ignore:BM25")
def test_the_command_has_it_and_a_recipe_carries_it(dataset, tmp_path):
    dataset.to_json(str(tmp_path / "pairs.jsonl"))
    first = ["mine", tmp_path / "pairs.jsonl", "--teacher", "bm25", "--relabel-candidates", "--output", tmp_path / "a"]
    again = ["mine", tmp_path / "pairs.jsonl", "--config", tmp_path / "a/recipe.json", "--output", tmp_path / "b"]
    for arguments in (first, again):
        done = CliRunner().invoke(main, list(map(str, arguments)))
        assert done.exit_code == 0, done.output
    one, other = (load_dataset(str(tmp_path / name), split="train")["relabel_candidates"][:] for name in "ab")
    assert one == other
