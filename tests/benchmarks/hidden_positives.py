"""Data sets whose known positives are hidden but for one: how many of those hidden come back as negatives.

Several benchmarks use this. A data folder holds ``corpus.jsonl``, ``queries.jsonl`` (``_id``, ``text``) and
``qrels.tsv``. A row is a query with the one positive that stays; every query has one row per seed. What mining does is
here a second time in plain numpy, for comparison.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hn_datasets import DenseTeacher, EmbeddingStore
from hn_datasets.texts import digest_texts

NUM_SEEDS = 5


@dataclass(frozen=True)
class Rows:
    """The rows of one data set.

    Attributes:
        passages: the distinct texts of the corpus.
        anchors: a query per row.
        shown: per row the positive that stays.
        known: per row the normalised texts of all positives of its query.
        seeds: shape ``[n]``, int64, from 0 to ``NUM_SEEDS - 1``.
    """

    passages: list[str]
    anchors: list[str]
    shown: list[str]
    known: list[frozenset[str]]
    seeds: np.ndarray

    @property
    def num_queries(self) -> int:
        return len(self.anchors) // NUM_SEEDS


@dataclass(frozen=True)
class Vectors:
    """Unit vectors, float32, of a data set's rows and passages: shapes ``[rows, d]`` and ``[passages, d]``."""

    anchors: np.ndarray
    passages: np.ndarray


@dataclass(frozen=True)
class Judgement:
    """What one mining came to, each per seed: shape ``[NUM_SEEDS]``, float64.

    Attributes:
        hardness: mean score of the negatives.
        false_negatives: share of the negatives that are hidden positives, 0 to 1.
        short_rows: share of the rows with too few negatives, 0 to 1.
    """

    hardness: np.ndarray
    false_negatives: np.ndarray
    short_rows: np.ndarray


def normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def read_labels(folder: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Return the distinct passages, and the positives of each distinct query as {normalised text: text}."""
    texts = lambda name: {  # noqa: E731
        row["_id"]: row["text"] for row in map(json.loads, (folder / name).open(encoding="utf-8"))
    }
    passages, queries = texts("corpus.jsonl"), texts("queries.jsonl")
    positives: dict[str, dict[str, str]] = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, passage, relevance = line.split("\t")[:3]
        if float(relevance) > 0 and query in queries and passage in passages:
            text = passages[passage]
            positives.setdefault(queries[query], {}).setdefault(normalised(text), text)
    return list(dict.fromkeys(passages.values())), positives


def hide_positives(folder: Path, num_queries: int = 0) -> Rows:
    """Return the rows of ``num_queries`` queries, or of all if 0, that have two or more known positives."""
    passages, positives = read_labels(folder)
    queries = [query for query, texts in positives.items() if len(texts) > 1]
    if 0 < num_queries < len(queries):
        chosen = np.random.default_rng(0).choice(len(queries), num_queries, replace=False)
        queries = [queries[number] for number in np.sort(chosen)]
    shown = []
    for seed in range(NUM_SEEDS):
        rng = np.random.default_rng(seed)
        shown += [list(positives[query].values())[rng.integers(len(positives[query]))] for query in queries]
    known = [frozenset(positives[query]) for query in queries]
    seeds = np.repeat(np.arange(NUM_SEEDS), len(queries))
    return Rows(passages, queries * NUM_SEEDS, shown, known * NUM_SEEDS, seeds)


def embed(rows: Rows, teacher: DenseTeacher, store: EmbeddingStore) -> Vectors:
    """Return the vectors of all rows and passages; the store keeps them."""
    for role, texts in (("anchor", rows.anchors), ("passage", rows.passages)):
        store.embed(teacher, role, pa.array(texts), digest_texts(texts))
    return Vectors(store.vectors(teacher, "anchor", rows.anchors), store.vectors(teacher, "passage", rows.passages))


def judge(rows: Rows, vectors: Vectors, negatives: Sequence[Sequence[str]], num_negatives: int) -> Judgement:
    """Return hardness under these vectors, whatever teacher the negatives come from, and false negatives."""
    place_of = {text: place for place, text in enumerate(rows.passages)}
    keys = [normalised(text) for text in rows.passages]
    counts = np.array([len(row) for row in negatives])
    owners = np.repeat(np.arange(len(negatives)), counts)
    places = np.array([place_of[text] for row in negatives for text in row], dtype=np.int64)
    scores = np.einsum("ij,ij->i", vectors.anchors[owners], vectors.passages[places], dtype=np.float64)
    false = np.array([keys[place] in rows.known[row] for row, place in zip(owners, places, strict=True)], dtype=bool)
    of_seed = [rows.seeds[owners] == seed for seed in range(NUM_SEEDS)]
    return Judgement(
        hardness=np.array([scores[own].mean() for own in of_seed]),
        false_negatives=np.array([false[own].mean() for own in of_seed]),
        short_rows=np.array([(counts[rows.seeds == seed] < num_negatives).mean() for seed in range(NUM_SEEDS)]),
    )


def mine_by_numpy(
    rows: Rows, vectors: Vectors, row: int, num_negatives: int, *, percentage: float | None, share: float | None
) -> list[tuple[float, str]]:
    """Return the best (score, text) pairs of one row by float64 products, straight from the definitions.

    Args:
        rows: the data set.
        vectors: its vectors.
        row: which row.
        num_negatives: how many.
        percentage: the candidate's score stays below this share of the positive score p; no ceiling if None.
        share: the candidate's similarity to the positive passage stays below m + share * max(p - m, 0), with m the mean
            similarity of the positive passage to the corpus; no such limit if None.
    """
    anchor, passages = vectors.anchors[row].astype(np.float64), vectors.passages.astype(np.float64)
    positive = passages[rows.passages.index(rows.shown[row])]
    scores, similarities, positive_score = passages @ anchor, passages @ positive, float(anchor @ positive)
    allowed = np.ones(len(passages), dtype=bool)
    if percentage is not None:
        allowed &= scores < positive_score - abs(positive_score) * (1 - percentage)
    if share is not None:
        mean = similarities.mean()
        allowed &= similarities < mean + share * max(positive_score - mean, 0)
    equal = {normalised(rows.anchors[row]), normalised(rows.shown[row])}
    ranking = (place for place in np.argsort(-scores, kind="stable") if allowed[place])
    chosen = (place for place in ranking if normalised(rows.passages[place]) not in equal)
    return [(float(scores[place]), rows.passages[place]) for place in itertools.islice(chosen, num_negatives)]
