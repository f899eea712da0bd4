"""The card: it loads the folder it stands in, and holds what the recipe and the statistics say."""

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import DatasetCard

from hn_datasets import HardNegativeMiner, TopK, TopKPercPos
from hn_datasets.readme import render_readme
from hn_datasets.recipe import Recipe
from hn_datasets.record import MiningRecord
from hn_datasets.sources import write_mined
from hn_datasets.statistics import compute_statistics
from tests.teachers import HashTeacher
from tests.test_map import PAIRS

STATISTICS = compute_statistics(
    {"positive_score": np.array([0.5], np.float32), "negative_scores": [[0.25, 0.125]], "top_score": [0.75]}
)


def card(teacher=None, source=None, **choices):
    recipe = Recipe(teacher=teacher or {"type": "bm25", "variant": "okapi"}, **choices)
    return render_readme(recipe, STATISTICS, {"train": 1}, {"passages": 9}, source or {})


def test_the_folder_loads_by_its_card_split_by_split(tmp_path):
    splits = DatasetDict({"train": Dataset.from_list(PAIRS), "test": Dataset.from_list(PAIRS[:5])})
    miner = HardNegativeMiner.from_dataset(splits, teacher=HashTeacher(), store=tmp_path / "store")
    mined = splits.map(miner, batched=True)
    write_mined(mined, MiningRecord.of(mined, miner, source={"path": "pairs.jsonl"}), tmp_path / "out")
    assert {name: len(split) for name, split in load_dataset(str(tmp_path / "out")).items()} == {"train": 32, "test": 5}
    data = DatasetCard.load(tmp_path / "out/README.md").data.to_dict()
    assert data["tags"] == ["hard-negatives", "sentence-transformers", "hn_datasets", "topk-percpos"]


def test_another_folder_of_the_same_name_gives_its_own_rows(tmp_path):
    for number, rows in enumerate((PAIRS[:10], PAIRS[10:])):
        dataset = Dataset.from_list(rows)
        miner = HardNegativeMiner.from_dataset(dataset, teacher=HashTeacher(), store=tmp_path / "store")
        mined = dataset.map(miner, batched=True)
        write_mined(mined, MiningRecord.of(mined, miner), tmp_path / str(number) / "same-name")
        write_mined(mined, MiningRecord.of(mined, miner), tmp_path / "replaced", overwrite=True)
        for folder in (tmp_path / str(number) / "same-name", tmp_path / "replaced"):
            assert load_dataset(str(folder), split="train")["query"][:] == [row["query"] for row in rows]


def test_the_card_says_how_and_shows_the_statistics():
    text = card({"type": "dense", "model": "BAAI/bge-m3"}, method=TopKPercPos(0.9), source={"repo_id": "me/pairs"})
    for part in (
        "`BAAI/bge-m3`",
        "`topk-percpos` (percentage 0.9)",
        "9 distinct passages of `me/pairs`.",
        "No estimate",
    ):
        assert part in text, part
    assert f"```text\n{STATISTICS.to_table()}\n```" in text
    assert "1 rows with 2 hard negatives, mined with `bm25` and `topk`" in card(method=TopK())


def test_the_block_of_code_formats_the_folder(tmp_path, monkeypatch):
    names = {"query": 'the "query", 질문', "answer": "the passage"}
    dataset = Dataset.from_list([{names[key]: row[key] for key in names} for row in PAIRS])
    columns = {"anchor_column_name": names["query"], "positive_column_name": names["answer"]}
    miner = HardNegativeMiner.from_dataset(
        dataset, teacher=HashTeacher(), store=tmp_path / "store", method=TopK(), **columns
    )
    mined = dataset.map(miner, batched=True)
    write_mined(mined, MiningRecord.of(mined, miner), tmp_path / "out")
    code = (tmp_path / "out/README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert "질문" in code
    made = {}
    exec(code.replace("path/to/this/folder", str(tmp_path / "out")), made)
    assert made["train"].column_names[:3] == [*names.values(), "negative_1"]


def test_a_name_cannot_break_the_card():
    text = card({"type": "dense", "model": "a`b|c\n---\nlicense: mit"}, source={"path": "x|`y`\n# z"})
    assert "\n---\nlicense" not in text
    assert "\n# z" not in text
    assert DatasetCard(text).data.to_dict().get("license") is None
