"""Rows whose texts are close where they have the same number, so that hidden positives come back as negatives."""

import numpy as np
from datasets import Dataset

from hn_datasets import HardNegativeMiner
from tests.teachers import HashTeacher

NUM_ANCHORS = 60
EXTRA = [f"filler {number % NUM_ANCHORS} {number}" for number in range(150)]
ROWS = [
    {"anchor": f"question {number}", "positive": f"answer {number} {part}", "row": f"{number} {part}"}
    for number in range(NUM_ANCHORS)
    for part in range(1 + number % 4)
]
ONE_EACH = [row for row in ROWS if row["row"].endswith(" 0")]
"""The rows with one positive of each anchor."""


class TopicTeacher(HashTeacher):
    """Texts of one number are close."""

    def encode(self, texts, role):
        topics = super().encode([text.split()[1] for text in texts], role)
        vectors = topics + super().encode(texts, role)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


TEACHER = TopicTeacher(dimension=24, name="topic")


def build_miner(store, rows=ROWS, **choices):
    """A miner of these rows, whose corpus has the fillers too."""
    given = {"teacher": TEACHER, "corpus": EXTRA, "num_negatives": 3, **choices}
    return HardNegativeMiner.from_dataset(Dataset.from_list(rows), store=store, **given)
