"""Exact search alone: mining from vectors that are there already, against sentence-transformers with FAISS.

``python tests/benchmarks/bench_search.py [--size 100000] [--runs 3]`` makes seeded unit vectors of ``size`` anchors and
passages in 384 dimensions, and mines 4 negatives under TopK-PercPos 95 %:

- ours: ``dataset.map(miner, batched=True, batch_size=4096)``, the vectors in the store, the miner built before;
- sentence-transformers: ``mine_hard_negatives(use_faiss=True, output_format="n-tuple")`` with a model that returns the
  vectors ready-made, so that nothing is encoded;
- the matrix product alone: tiles of 2,048 x 4,096 by torch, without selection, on 8,192 anchors, scaled up;
- ours on 31,250 x 31,250 x 1,024, the size of a Korean notebook that mined for 7 h 22 min;
- ours end to end from an empty store, and again with another margin.

Each in a process of its own; seconds are medians, memory is the peak of anonymous memory above that before the run.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from measuring import in_own_process, measure, print_table, store_results

PERC, NUM_NEGATIVES, DIMENSION = 0.95, 4, 384
NUM_KOREAN, KOREAN_DIMENSION = 31_250, 1024
BLOCK_ROWS, TILE_COLUMNS = 2048, 4096
MAP_ROWS = 4096
"""Rows of a batch of ``map``, as the command has them."""


def make_vectors(size: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Return anchors and passages, ``[size, dimension]`` each; row i of one is the positive of row i of the other.

    Components fall off like those of real embeddings (unrelated texts have scores of about 0 +- 0.1), passages gather
    around 2,000 topics, and an anchor is its passage with noise: positive scores are 0.3 to 0.9, so that the ceiling
    cuts off passages in many rows.
    """
    rng = np.random.default_rng(0)
    spread = (np.arange(1, dimension + 1) ** -0.3).astype(np.float32)

    def draw(rows: int) -> np.ndarray:
        return rng.standard_normal((rows, dimension), dtype=np.float32) * spread

    def unit(vectors: np.ndarray) -> np.ndarray:
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    topics = draw(2000)
    passages = unit(topics[rng.integers(0, len(topics), size)] + draw(size))
    noise = rng.uniform(0.5, 3, (size, 1)).astype(np.float32)
    return unit(passages + noise * unit(draw(size))), passages


def read_pairs(folder: Path) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the dataset, and the vectors of its anchors and positives."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    warnings.simplefilter("ignore")
    anchors, passages = np.load(folder / "anchors.npy"), np.load(folder / "passages.npy")
    numbers = range(len(anchors))
    rows = {"anchor": [f"anchor {number}" for number in numbers], "positive": [f"passage {n}" for n in numbers]}
    return Dataset.from_dict(rows), anchors, passages


def mine_ours(folder: Path, runs: int) -> dict[str, Any]:
    """Mine with the vectors in the store."""
    from hn_datasets import EmbeddingStore, HardNegativeMiner, PrecomputedTeacher, TopKPercPos

    pairs, anchors, passages = read_pairs(folder)
    teacher = PrecomputedTeacher((pairs["anchor"], anchors), (pairs["positive"], passages))
    miners: list[HardNegativeMiner] = []

    def build(perc: float = PERC) -> None:
        """Make a miner whose store has the vectors, but no mined rows of an earlier run."""
        store = EmbeddingStore(folder / "store", derived=folder / f"derived-{len(miners)}")
        miners.append(
            HardNegativeMiner.from_dataset(
                pairs, teacher=teacher, method=TopKPercPos(perc), num_negatives=NUM_NEGATIVES, store=store
            )
        )

    def search() -> Any:
        return pairs.map(miners[-1], batched=True, batch_size=MAP_ROWS, load_from_cache_file=False)

    def mine(perc: float) -> Any:
        miner = HardNegativeMiner.from_dataset(
            pairs, teacher=teacher, method=TopKPercPos(perc), num_negatives=NUM_NEGATIVES, store=folder / "whole"
        )
        return pairs.map(miner, batched=True, batch_size=MAP_ROWS, load_from_cache_file=False)

    first = measure(lambda: mine(PERC), runs=1)
    again = measure(lambda: mine(0.9), runs=1)
    identical = measure(lambda: mine(PERC), runs=1)
    result = measure(search, runs, prepare=build).to_dict()
    short = sum(len(ids) < NUM_NEGATIVES for ids in first.value["negative_ids"])
    whole = {"first": first.to_dict(), "again": again.to_dict(), "identical": identical.to_dict()}
    return result | whole | {"rows": len(first.value), "short": short}


def mine_theirs(folder: Path, runs: int) -> dict[str, Any]:
    """Mine with sentence-transformers and FAISS."""
    import torch
    from sentence_transformers.util import mine_hard_negatives, pairwise_cos_sim

    pairs, anchors, passages = read_pairs(folder)

    class Ready:
        """A model whose vectors are there."""

        device = torch.device("cpu")

        def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
            return anchors

        def encode_document(self, texts: list[str], **_: Any) -> np.ndarray:
            return passages

        def get_embedding_dimension(self) -> int:
            return anchors.shape[1]

        def similarity_pairwise(self, first: Any, second: Any) -> torch.Tensor:
            return pairwise_cos_sim(first, second)

    def mine() -> Any:
        return mine_hard_negatives(
            pairs, Ready(), relative_margin=1 - PERC, num_negatives=NUM_NEGATIVES,
            use_faiss=True, output_format="n-tuple", verbose=False,
        )  # fmt: skip

    measured = measure(mine, runs)
    return measured.to_dict() | {"rows": len(measured.value), "short": len(pairs) - len(measured.value)}


def multiply(folder: Path, precision: str, runs: int) -> dict[str, Any]:
    """Multiply tiles of 8,192 anchors, and scale up to all."""
    import torch

    anchors, passages = (
        torch.from_numpy(np.load(folder / f"{name}.npy")).to(getattr(torch, precision))
        for name in ("anchors", "passages")
    )
    part = anchors[: 4 * BLOCK_ROWS]

    def products() -> None:
        for block in part.split(BLOCK_ROWS):
            for tile in passages.split(TILE_COLUMNS):
                _ = block @ tile.T

    result = measure(products, runs).to_dict()
    scale = len(anchors) / len(part)
    rate = 2 * len(part) * passages.numel() / result["seconds"] / 1e9
    return result | {"seconds": round(result["seconds"] * scale, 3), "gigaflops": round(rate, 1)}


def write_vectors(folder: Path, size: int, dimension: int) -> Path:
    """Write vectors for the processes to read."""
    folder.mkdir()
    for name, vectors in zip(("anchors", "passages"), make_vectors(size, dimension), strict=True):
        np.save(folder / f"{name}.npy", vectors)
    return folder


def main() -> None:
    """Print the table and store it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    size, runs = arguments.size, arguments.runs
    with tempfile.TemporaryDirectory() as parent:
        folder = in_own_process(write_vectors, Path(parent) / "main", size, DIMENSION)
        ours = in_own_process(mine_ours, folder, runs)
        theirs = in_own_process(mine_theirs, folder, runs)
        products = {name: in_own_process(multiply, folder, name, runs) for name in ("bfloat16", "float32")}
        folder = in_own_process(write_vectors, Path(parent) / "korean", min(NUM_KOREAN, size), KOREAN_DIMENSION)
        korean = in_own_process(mine_ours, folder, runs)
    print(f"{size:,} x {size:,} x {DIMENSION}, PercPos 95 %, {NUM_NEGATIVES} negatives, ready vectors, medians")

    def line(name: str, result: dict[str, Any]) -> list[Any]:
        added = (result["memory_peak"] - result["memory_before"]) / 2**20
        return [name, result["seconds"], added, result["seconds"] / ours["seconds"], result.get("short", "")]

    rows = [
        line("ours", ours),
        line("sentence-transformers, FAISS", theirs),
        *(line(f"product alone, {name}", result) for name, result in products.items()),
        line("ours, first run from an empty store", ours["first"]),
        line("ours, again with another margin", ours["again"]),
        line("ours, the same again", ours["identical"]),
        line(f"ours, {min(NUM_KOREAN, size):,} x {KOREAN_DIMENSION:,} dimensions", korean),
    ]
    print_table(["", "seconds", "MiB added", "x ours", "short rows"], rows)
    store_results(
        __file__,
        {"size": size, "ours": ours, "sentence_transformers": theirs, "products": products, "korean": korean},
    )


if __name__ == "__main__":
    main()
