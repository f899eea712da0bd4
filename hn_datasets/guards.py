"""Guards: rules that keep likely false negatives out, whatever their score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from hn_datasets.texts import Corpus, Ragged


class Guard(Protocol):
    """A rule that names, before the search, the passages that each anchor may not get.

    A passage that a guard takes out is replaced by the next one that qualifies, so rows stay full.
    """

    def excluded(self, anchors: Sequence[str], positives: Sequence[Sequence[str]], corpus: Corpus) -> Ragged:
        """Return, for each anchor, passage ids in rising order.

        Args:
            anchors: n texts.
            positives: all known positives of each anchor.
            corpus: the passages.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: the name and every setting."""


class Duplicates:
    """Passages equal to a positive or to the anchor after Unicode NFKC, case folding and white-space folding.

    Always on: the positives themselves are among them.
    """

    def excluded(self, anchors: Sequence[str], positives: Sequence[Sequence[str]], corpus: Corpus) -> Ragged:
        """Return the ids of passages with the normalised text of the anchor or of one of its positives."""
        counts = np.array([1 + len(texts) for texts in positives], dtype=np.int64)
        texts = [text for anchor, own in zip(anchors, positives, strict=True) for text in (anchor, *own)]
        return corpus.ids_of_same(texts, np.repeat(np.arange(len(anchors)), counts), len(anchors))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"name": "duplicates"}


def merge(parts: Sequence[Ragged], num_rows: int) -> Ragged:
    """Return the union of several guards' lists."""
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([part.rows for part in parts])
    return Ragged.from_pairs(rows, np.concatenate([part.values for part in parts]), num_rows)
