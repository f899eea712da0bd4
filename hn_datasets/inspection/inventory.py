"""A mined dataset without its texts: digests and numbers, small enough to hold and quick to compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import DatasetDict

from hn_datasets.inspection.blocks import Ints, Numbers, as_strings, iter_blocks
from hn_datasets.inspection.roles import Roles
from hn_datasets.score_columns import count_names
from hn_datasets.texts import Digests, digest_texts, fixed_size_binary, fixed_size_bytes, normalise


@dataclass(frozen=True)
class Inventory:
    """A whole dataset without its texts: n rows of all splits, p positives, m negatives.

    Attributes:
        roles: the columns.
        num_rows: rows of each split.
        anchors: shape ``[n]``, the digest of each anchor.
        positives: shape ``[p]``.
        negatives: shape ``[m]``.
        numbers: all else.
        negatives_per_teacher: how many negatives each teacher of an ensemble gave, by its name.
    """

    roles: Roles
    num_rows: dict[str, int]
    anchors: Digests
    positives: Digests
    negatives: Digests
    numbers: Numbers
    negatives_per_teacher: dict[str, int]


def take_inventory(splits: DatasetDict, roles: Roles) -> Inventory:
    """Read all splits once and return their digests and numbers.

    Raises:
        ColumnError: rows of passages and of labels have different lengths.
    """
    texts: list[list[Digests]] = [[], [], []]
    numbers: list[Numbers] = []
    teachers: Counter[str] = Counter()
    start = 0
    for block in iter_blocks(splits, roles):
        if block.teachers is not None:
            teachers.update(count_names(block.teachers))
        for column, digests in zip((block.anchors, block.positives, block.negatives), texts, strict=True):
            digests.append(digest_texts(as_strings(column)))
        part = block.numbers
        moved = replace(
            part,
            positive_rows=part.positive_rows + start,
            negative_rows=part.negative_rows + start,
            removal_rows=None if part.removal_rows is None else part.removal_rows + start,
        )
        numbers.append(moved)
        start += len(block.anchors)
    anchors, positives, negatives = (np.concatenate([digest_texts([]), *digests]) for digests in texts)
    num_rows = {name: len(split) for name, split in splits.items()}
    return Inventory(
        roles, num_rows, anchors, positives, negatives, _concatenate(numbers), dict(sorted(teachers.items()))
    )


def number_texts(digests: Sequence[Digests]) -> tuple[list[Ints], Digests]:
    """Number the distinct digests of several arrays.

    Returns:
        For each array the number of each digest (int64), and the digest of each number.
    """
    encoded = fixed_size_binary(np.concatenate([digest_texts([]), *digests])).dictionary_encode()
    numbers = np.asarray(encoded.indices).astype(np.int64)
    ends = np.cumsum([len(part) for part in digests])[:-1]
    return np.split(numbers, ends), fixed_size_bytes(pa.chunked_array([encoded.dictionary]))


def number_forms(splits: DatasetDict, roles: Roles, numbers: Sequence[Ints], num_texts: int) -> Ints:
    """Number the forms that ``normalise`` gives to distinct texts, in a second pass that reads each text once.

    Args:
        splits: the dataset.
        roles: its columns.
        numbers: of the anchors, the positives and the negatives, as ``number_texts`` gave them.
        num_texts: how many distinct texts there are.

    Returns:
        Shape ``[num_texts + 1]``, int64: the number of each text's form, and last that of the empty text.
    """
    forms = np.zeros(num_texts + 1, dtype=f"S{digest_texts([]).dtype.itemsize}")
    forms[-1:] = digest_texts([""], normalise)
    known = np.zeros(num_texts, dtype=bool)
    places = [0, 0, 0]
    for block in iter_blocks(splits, roles):
        for kind, texts in enumerate((block.anchors, block.positives, block.negatives)):
            here, first = np.unique(numbers[kind][places[kind] : places[kind] + len(texts)], return_index=True)
            new = ~known[here]
            forms[here[new]] = digest_texts(as_strings(texts.take(pa.array(first[new]))), normalise)
            known[here] = True
            places[kind] += len(texts)
    return number_texts([forms])[0][0]


def _concatenate(parts: list[Numbers]) -> Numbers:
    columns: dict[str, Any] = {}
    for item in fields(Numbers):
        values = [getattr(part, item.name) for part in parts]
        columns[item.name] = np.concatenate(values) if values and values[0] is not None else None
    return Numbers(**columns)
