"""Mining a sample of a release again, from its recipe, to see whether the same negatives come out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, DatasetDict, concatenate_datasets

from hn_datasets.columns import CorpusLike
from hn_datasets.errors import ArgumentError, DataSourceError
from hn_datasets.inspection.blocks import Block, as_strings, read_block
from hn_datasets.inspection.changes import describe, find_changes, list_changes
from hn_datasets.inspection.opening import Opened, open_source
from hn_datasets.inspection.rebuilding import choose_teacher, find_groups, find_origin, rebuild_miner
from hn_datasets.inspection.roles import Roles, find_roles
from hn_datasets.miner import HardNegativeMiner, TeacherLike
from hn_datasets.record import RECORD_FILE, MiningRecord, describe_environment
from hn_datasets.store import EmbeddingStore

TUPLES = "n-tuple"

REASONS = {
    "teacher.weights": "the teacher has other weights",
    "corpus.": "the corpus is another one",
    "algorithm_version": "this version of hn_datasets mines otherwise",
    "teacher.precision": "the teacher computes in another precision",
    "teacher.": "the teacher is set up otherwise",
    "": "the recipe is another one",
    "packages.torch": "another version of a library rounds otherwise",
    "packages.transformers": "another version of a library computes otherwise",
    "packages.sentence-transformers": "another version of a library computes otherwise",
    "packages.": "a library has another version",
    "hardware.gpus": "other hardware rounds otherwise",
    "hardware.processor": "other hardware rounds otherwise",
    "hardware.": "other hardware rounds otherwise",
}
"""What a difference means by the beginning of the field's name, the likeliest reason first; "" is any other field."""

_HARMLESS = ("teacher.model", "teacher.revision", "teacher.trust_remote_code")
"""Fields that decide nothing where the digest of the weights is the same."""


@dataclass(frozen=True)
class Reproduction:
    """How a sample came out when it was mined again.

    Attributes:
        rows: rows of the sample.
        identical: rows with the same negatives, to the last character and in the same order.
        negatives: negatives of the sample.
        negatives_again: how many of them came out again in their row, in any order.
        largest_score_difference: between old and new scores of the identical rows, positives included; None where the
            release has no scores, or no row is identical.
        first_difference: the anchor of the first row that is not identical; None where all are.
        differences: old and new value of each recorded field that differs, the likeliest reason first.
    """

    rows: int
    identical: int
    negatives: int
    negatives_again: int
    largest_score_difference: float | None
    first_difference: str | None
    differences: dict[str, tuple[Any, Any]]

    @property
    def ok(self) -> bool:
        """Whether all rows are identical."""
        return self.identical == self.rows

    @property
    def likely_reason(self) -> str | None:
        """The likeliest reason in one sentence; None where all rows are identical."""
        if self.ok:
            return None
        if not self.differences:
            return "no recorded field differs; the teacher may round otherwise with other texts in a batch."
        name, (old, new) = next(iter(self.differences.items()))
        return f"{REASONS[_beginning(name)]}: {name} was {describe(old)} and is now {describe(new)}."

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "ok": self.ok, "likely_reason": self.likely_reason}

    def __str__(self) -> str:
        return self.to_table()

    def to_table(self) -> str:
        """Return the result in sentences, and one line for each field that differs."""
        lines = [
            f"{self.identical:,} of {self.rows:,} rows have the same negatives again; "
            f"{self.negatives_again:,} of {self.negatives:,} negatives came out again."
        ]
        if self.largest_score_difference is not None:
            lines.append(f"The scores of the same rows differ by at most {self.largest_score_difference:.3g}.")
        if not self.ok:
            lines.append(f"Likely reason: {self.likely_reason}")
            lines.append(f"First anchor with other negatives: {describe(self.first_difference)}")
        if self.differences:
            lines.append("Fields that differ:")
            lines += list_changes(self.differences)
        return "\n".join(lines)


def reproduce(
    source: str | Path,
    *,
    revision: str | None = None,
    rows: int = 200,
    seed: int = 0,
    dataset: Dataset | DatasetDict | None = None,
    corpus: CorpusLike | None = None,
    corpus_column_name: str | None = None,
    teacher: TeacherLike | None = None,
    trust_remote_code: bool = False,
    store: EmbeddingStore | str | Path | None = None,
    token: str | None = None,
) -> Reproduction:
    """Mine a sample of a release again from its recipe, against the same corpus.

    The whole corpus has to be encoded, and of the anchors only those of the sample.

    Args:
        source: a path, or ``REPO`` or ``REPO@REVISION`` on the Hub.
        revision: branch, tag or commit on the Hub.
        rows: size of the sample, at least 1; all rows if there are fewer.
        seed: decides the sample.
        dataset: the pairs that were mined. If None, the rows of the release or the dataset that the record names on the
            Hub, whichever has the corpus that was mined.
        corpus: the further passages that the miner was given; the record does not say where they came from.
        corpus_column_name: the text column of ``corpus``.
        teacher: the teacher of the recipe if None. A name or folder takes the place of the recipe's model, with the
            recipe's prompts, length and precision.
        trust_remote_code: run code that comes with the model.
        store: where vectors are kept, and found where they are kept already; an empty folder has all encoded again.
        token: for the Hub; the one of the environment if None.

    Raises:
        ArgumentError: ``rows`` is below 1 or ``seed`` below 0, a revision is given twice or for a path, or the model
            brings code.
        DataSourceError: there is no ``mining.json``, no layout to compare with, no row that was mined, or what was
            mined is not found; says what to pass.
        TeacherError: the teacher cannot be loaded.
    """
    if rows < 1:
        raise ArgumentError(f"Expected rows of at least 1, got {rows}.")
    if seed < 0:
        raise ArgumentError(f"Expected a seed of at least 0, got {seed}; take another one.")
    opened = open_source(source, revision=revision, token=token)
    record = opened.record
    if record is None:
        raise DataSourceError(
            f"Expected {RECORD_FILE} in {opened.source!r}, got none; it cannot be mined again without."
        )
    mined, roles = _read_mined(opened, record)
    sample = _draw(mined, roles, rows, seed)
    store = store if isinstance(store, EmbeddingStore) else EmbeddingStore(store)
    origin = find_origin(
        record,
        mined,
        lossless=roles.mined,
        dataset=dataset,
        corpus=corpus,
        corpus_column_name=corpus_column_name,
        store=store,
        token=token,
    )
    miner = rebuild_miner(
        origin,
        as_strings(sample[roles.anchor]),
        record.recipe,
        teacher=choose_teacher(record.recipe, teacher, trust_remote_code=trust_remote_code),
        store=store,
    )
    columns = {record.recipe.anchor_column_name: roles.anchor, record.recipe.positive_column_name: roles.positive}
    batch = {name: sample[column].to_pylist() for name, column in columns.items()}
    again = miner.mine_anew({**batch, **find_groups(origin, batch, record.recipe)})
    return _compare(sample, roles, again, _find_differences(record, miner))


def _read_mined(opened: Opened, record: MiningRecord) -> tuple[DatasetDict, Roles]:
    """Return the layout that says most of what was mined: all of it, or else the rows of texts."""
    name = opened.choose_config() or (TUPLES if TUPLES in opened.config_names else None)
    mined = opened.load(name)
    roles = find_roles(mined, recipe=record.recipe)
    if not roles.mined and name != TUPLES:
        there = ", ".join(opened.config_names) or "none"
        raise DataSourceError(
            f"Expected the layout scored or {TUPLES} in {opened.source!r}, got {there}; publish one of them too."
        )
    return mined, roles


def _draw(mined: DatasetDict, roles: Roles, rows: int, seed: int) -> pa.Table:
    """Return a sample of the rows that were not skipped as empty, in their order."""
    whole = concatenate_datasets([split.select_columns(roles.columns) for split in mined.values() if len(split)])
    numbers = np.arange(len(whole))
    if roles.positive_score is not None:
        scores = whole.with_format("numpy")[roles.positive_score][:]
        numbers = np.flatnonzero(~np.isnan(scores))
    if not len(numbers):
        raise DataSourceError("Expected rows with negatives, but all were skipped as empty when they were mined.")
    chosen = np.random.default_rng(seed).choice(numbers, min(rows, len(numbers)), replace=False)
    return whole.select(np.sort(chosen)).with_format("arrow")[:]


def _compare(
    sample: pa.Table, roles: Roles, again: dict[str, list[Any]], differences: dict[str, tuple[Any, Any]]
) -> Reproduction:
    """Compare the negatives of a sample with those that came out again."""
    block = read_block(sample, roles)
    old = _list_negatives(block, len(sample))
    new = [list(row) for row in again["negatives"]]
    if not roles.mined:  # rows of texts may keep fewer than were mined, and all the same number
        new = [row[: len(texts)] for row, texts in zip(new, old, strict=True)]
    same = [before == after for before, after in zip(old, new, strict=True)]
    anchors = as_strings(block.anchors)
    return Reproduction(
        rows=len(sample),
        identical=sum(same),
        negatives=sum(map(len, old)),
        negatives_again=sum(len({*before} & {*after}) for before, after in zip(old, new, strict=True)),
        largest_score_difference=_largest_difference(block, again, np.flatnonzero(same)) if roles.mined else None,
        first_difference=None if all(same) else anchors[same.index(False)],
        differences=differences,
    )


def _list_negatives(block: Block, num_rows: int) -> list[list[str]]:
    """Return the negatives of each row, without those that were filled in."""
    numbers = block.numbers
    lists: list[list[str]] = [[] for _ in range(num_rows)]
    for row, text, filled in zip(numbers.negative_rows, as_strings(block.negatives), numbers.filled, strict=True):
        if not filled:
            lists[row].append(text)
    return lists


def _largest_difference(block: Block, again: dict[str, list[Any]], rows: npt.NDArray[np.int64]) -> float | None:
    """Return the largest difference between old and new scores of ``rows``, whose negatives are the same."""
    numbers = block.numbers
    if numbers.scores is None or numbers.positive_scores is None or not len(rows):
        return None
    kept = np.isin(numbers.negative_rows, rows) & ~numbers.filled
    old = np.concatenate([numbers.positive_scores[rows], numbers.scores[kept]])
    new = np.concatenate([np.array(again["positive_score"])[rows], *(again["negative_scores"][row] for row in rows)])
    return float(np.abs(old.astype(np.float64) - new).max())


def _find_differences(record: MiningRecord, miner: HardNegativeMiner) -> dict[str, tuple[Any, Any]]:
    """Return the recorded fields that are others now, the likeliest reason first."""
    corpus = {"passages": len(miner.corpus), "digest": miner.corpus.digest}
    now = describe_environment()
    parts = [name for name in ("packages", "hardware") if name in record.environment]
    changes = find_changes(
        {**record.recipe.to_dict(), "corpus": record.corpus, **{name: record.environment[name] for name in parts}},
        {**miner.recipe.to_dict(), "corpus": corpus, **{name: now[name] for name in parts}},
    )
    if "teacher.weights" not in changes:
        changes = {name: pair for name, pair in changes.items() if name not in _HARMLESS}
    order = list(REASONS)
    return dict(sorted(changes.items(), key=lambda change: order.index(_beginning(change[0]))))


def _beginning(name: str) -> str:
    """Return the entry of ``REASONS`` for a field."""
    return next((start for start in REASONS if start and name.startswith(start)), "")
