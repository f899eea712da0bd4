"""Memory: one million passages of 384 dimensions and 100,000 anchors, from a Parquet file to written shards.

``python tests/benchmarks/bench_memory.py [--passages 1000000] [--anchors 100000]`` makes texts of about 300 characters
and a teacher that computes a text's vector from its number, so that encoding takes no time; mines 4 negatives under
TopK-PercPos 95 % from an empty store, formats them as n-tuples and writes Parquet, in a process of its own. Memory is
the peak of anonymous memory of that process and its children, all of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import in_own_process, measure, print_table, store_results

DIMENSION, NUM_TOPICS, NUM_NOISES = 384, 5000, 65_536
FILLER = " ".join(["the bank raised its rate and the bond fell"] * 6)
WRITTEN_ROWS = 10_000


class NumberTeacher:
    """A text's vector follows from the number that it begins with: a topic and some noise."""

    similarity = "cosine"
    dimension = DIMENSION

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.topics = rng.standard_normal((NUM_TOPICS, DIMENSION), dtype=np.float32)
        self.noises = rng.standard_normal((NUM_NOISES, DIMENSION), dtype=np.float32)

    def spec(self) -> dict[str, Any]:
        """Name the teacher."""
        return {"type": "number"}

    def space(self, role: str) -> str:
        """Keep anchors and passages apart."""
        return f"number-{role}"

    def encode(self, texts: Sequence[str], role: str) -> np.ndarray:
        """Return unit vectors, float32."""
        numbers = np.array([int(text.split(" ", 1)[0]) for text in texts])
        vectors = self.topics[numbers % NUM_TOPICS] + 0.8 * self.noises[numbers * 7919 % NUM_NOISES]
        if role == "anchor":
            vectors += 0.8 * self.noises[(numbers + 1) * 104_729 % NUM_NOISES]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_passages(path: Path, num_passages: int) -> None:
    """Write the corpus in pieces."""
    with pq.ParquetWriter(path, pa.schema({"text": pa.string()})) as writer:
        for start in range(0, num_passages, WRITTEN_ROWS):
            numbers = range(start, min(start + WRITTEN_ROWS, num_passages))
            writer.write_table(pa.table({"text": [f"{number} {FILLER}" for number in numbers]}))


def mine(num_passages: int, num_anchors: int) -> dict[str, Any]:
    """Mine, format and write; return seconds of every stage and the peak."""
    from datasets import Dataset, disable_progress_bars

    from hn_datasets import HardNegativeMiner, TopKPercPos, format_dataset
    from hn_datasets.shards import write_shards

    disable_progress_bars()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_passages(folder / "passages.parquet", num_passages)
        step = num_passages // num_anchors
        numbers = range(0, num_anchors * step, step)
        rows = {"anchor": [f"{n} what of it?" for n in numbers], "positive": [f"{n} {FILLER}" for n in numbers]}
        Dataset.from_dict(rows).save_to_disk(str(folder / "pairs"))
        del rows
        pairs = Dataset.load_from_disk(str(folder / "pairs"))
        stages: dict[str, float] = {}

        def work() -> int:
            miner = HardNegativeMiner.from_dataset(
                pairs, teacher=NumberTeacher(), corpus=str(folder / "passages.parquet"), method=TopKPercPos(0.95),
                store=folder / "store",
            )  # fmt: skip
            stages.update(miner.timings)
            start = time.perf_counter()
            mined = pairs.map(miner, batched=True, cache_file_name=str(folder / "mined.arrow"))
            stages["search"] = time.perf_counter() - start
            start = time.perf_counter()
            (folder / "written").mkdir()
            write_shards(format_dataset(mined, "n-tuple"), folder / "written", "train")
            stages["write"] = time.perf_counter() - start
            return sum(len(ids) < 4 for ids in mined["negative_ids"])

        measured = measure(work, 1)
    rounded = {name: round(seconds, 1) for name, seconds in stages.items()}
    return measured.to_dict() | {"short": measured.value, "stages": rounded}


def main() -> None:
    """Print the table and store it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--anchors", type=int, default=100_000)
    options = parser.parse_args()
    result = in_own_process(mine, options.passages, options.anchors)
    stages = result["stages"]
    print(f"{options.anchors:,} anchors x {options.passages:,} passages x {DIMENSION}, from an empty store")
    print_table(
        ["", "all", *stages, "peak MiB", "of it before", "short rows"],
        [["seconds", result["seconds"], *stages.values(), result["memory_peak"] / 2**20,
          result["memory_before"] / 2**20, result["short"]]],
    )  # fmt: skip
    store_results(Path(__file__), {"passages": options.passages, "anchors": options.anchors, **result})


if __name__ == "__main__":
    main()
