"""How much of a second release goes up when 1 % of its rows have changed, by Xet and by plain LFS.

``python tests/benchmarks/bench_release.py [PAIRS]`` mines with BM25, changes 1 % of the pairs (each hundredth anchor is
worded anew, or those of one block of rows, or there are new anchors at the end), mines again, and publishes both to the
loopback Hub of the tests. PAIRS is a file that ``hn-datasets mine`` reads; docstrings of the standard library if left
out. What is timed is ``publish`` alone: staging, loading back, audit and upload. Bytes are those of the files, and what
the Hub's store has received.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets, disable_progress_bars

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from hub import clients
from hub_server import HubServer

from hn_datasets import BM25Teacher, HardNegativeMiner
from hn_datasets.columns import resolve_columns
from hn_datasets.demo import docstring_pairs
from hn_datasets.record import MiningRecord, describe_environment
from hn_datasets.sources import load_source


def publish_all(repo_id: str, folders: list[str], layouts: list[str]) -> list[dict[str, Any]]:
    """Publish folders as versions; return the bytes of the files, and seconds."""
    import time
    import warnings
    from pathlib import Path

    from datasets import load_dataset

    from hn_datasets import CardMetadata, publish
    from hn_datasets.record import MiningRecord

    warnings.simplefilter("ignore")
    done = []
    for version, folder in zip(("1.0.0", "1.1.0"), folders, strict=False):
        mined = load_dataset("parquet", data_files=f"{folder}/rows.parquet", split="train")
        start = time.perf_counter()
        release = publish(
            mined, repo_id, record=MiningRecord.read(Path(folder)), version=version,
            metadata=CardMetadata(license="cc-by-4.0"), layouts=tuple(layouts),
        )  # fmt: skip
        data = sum(size for path, size in release.files.items() if path.endswith(".parquet"))
        done.append(
            {"seconds": round(time.perf_counter() - start, 1), "files": sum(release.files.values()), "data": data}
        )
    return done


def write_mined(pairs: Dataset, folder: Path) -> str:
    """Mine pairs and write rows and record."""
    miner = HardNegativeMiner.from_dataset(
        pairs, teacher=BM25Teacher(tokenizer="char-bigrams"), store=folder.parent / "store"
    )
    mined = pairs.map(miner, batched=True)
    folder.mkdir()
    mined.to_parquet(str(folder / "rows.parquet"))
    (folder / "mining.json").write_text(MiningRecord.of(mined, miner).to_json(), encoding="utf-8")
    return str(folder)


def change(pairs: Dataset, where: str) -> Dataset:
    """Return the pairs with 1 % changed: ``spread`` evenly, in one ``block``, or ``added`` at the end."""
    anchor, positive = resolve_columns(pairs, None, None)
    pairs = pairs.select_columns([anchor, positive])
    num_changed, middle = len(pairs) // 100, len(pairs) // 2
    if where == "added":
        new = pairs.select(range(middle, middle + num_changed)).map(lambda row: {anchor: f"{row[anchor]} (again)"})
        return concatenate_datasets([pairs, new])
    chosen = range(0, len(pairs), 100) if where == "spread" else range(middle, middle + num_changed)
    return pairs.map(
        lambda row, number: {anchor: f"{row[anchor]} (reworded)" if number in chosen else row[anchor]},
        with_indices=True,
    )


def measure(hub: HubServer, home: Path, first: str, second: str, *, xet: bool, layouts: list[str]) -> dict[str, Any]:
    """Publish a first version alone, and in another repository both; return what the second one has sent."""
    sent, done = [], []
    for folders in ([first], [first, second]):
        repo_id = f"owner/repo-{len(hub.state())}"
        done = clients.run(hub.environment(home, xet=xet), publish_all, repo_id, folders, layouts)
        received = sum(entry["received"] for entry in hub.log("PUT", f"/_storage/{repo_id}/"))
        sent.append(hub.state()[repo_id]["xet_uploaded_bytes"] if xet else received)
    return {
        "files": done[-1]["files"],
        "sent_first": sent[0],
        "sent": sent[1] - sent[0],
        "seconds": done[-1]["seconds"],
    }


def main() -> None:
    """Print the table and store it as JSON."""
    warnings.simplefilter("ignore")
    disable_progress_bars()
    pairs = load_source(sys.argv[1], split="train") if len(sys.argv) > 1 else docstring_pairs()
    cases = [
        (where, True, layouts) for where in ("spread", "block", "added") for layouts in (["n-tuple"], ["normalized"])
    ]
    rows = []
    print(f"{len(pairs):,} pairs, BM25, 4 negatives; the second release, with 1 % of the pairs changed")
    print(f"{'changed':<9}{'by':<5}{'layout':<12}{'files, bytes':>14}{'sent, bytes':>14}{'sent':>8}{'seconds':>9}")
    with tempfile.TemporaryDirectory() as parent, HubServer(Path(parent) / "hub") as hub:
        folder = Path(parent)
        first = write_mined(pairs, folder / "first")
        second = {where: write_mined(change(pairs, where), folder / where) for where in ("spread", "block", "added")}
        for where, xet, layouts in [*cases, ("spread", False, ["n-tuple"])]:
            home = folder / f"home-{xet}"
            row = {"changed": where, "by": "xet" if xet else "lfs", "layout": layouts[0]}
            row |= measure(hub, home, first, second[where], xet=xet, layouts=layouts)
            rows.append(row)
            print(
                f"{where:<9}{row['by']:<5}{row['layout']:<12}{row['files']:>14,}{row['sent']:>14,}"
                f"{row['sent'] / row['files']:>8.1%}{row['seconds']:>9}",
                flush=True,
            )
    result = {"pairs": len(pairs), "rows": rows, "environment": describe_environment()}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
