"""Small mined datasets with their records, for tests of releases."""

from datasets import Dataset

from hn_datasets import BM25Teacher, HardNegativeMiner, TopK
from hn_datasets.record import MiningRecord

TOPICS = ("card", "loan", "fund", "bond", "tax", "rate", "bank", "fee")
KINDS = (("limit", "day"), ("price", "week"), ("rule", "month"), ("plan", "year"))
PAIRS = [
    {"query": f"What is the {topic} {kind}?", "answer": f"The {topic} {kind} is set by the {topic} office each {unit}."}
    for topic in TOPICS
    for kind, unit in KINDS
]


def mine(store, *, pairs=PAIRS, num_negatives=3, split=None, **names):
    """Mine pairs with BM25; every row is full."""
    rows = Dataset.from_list(pairs, split=split)
    miner = HardNegativeMiner.from_dataset(
        rows, teacher=BM25Teacher(), method=TopK(), num_negatives=num_negatives, store=store, **names
    )
    mined = rows.map(miner, batched=True)
    return mined, MiningRecord.of(mined, miner)
