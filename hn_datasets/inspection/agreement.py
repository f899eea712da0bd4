"""Whether the card, ``mining.json`` and the data say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from hn_datasets.inspection.changes import describe, find_changes
from hn_datasets.inspection.inventory import Inventory
from hn_datasets.inspection.opening import CARD_FILE, Opened, named_entries
from hn_datasets.inspection.report import Finding
from hn_datasets.record import RECORD_FILE, MiningRecord
from hn_datasets.shards import split_file_name
from hn_datasets.sources import RECIPE_FILE
from hn_datasets.statistics import MiningStatistics, compute_statistics

PARQUET = ".parquet"
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")


def check_secrets(opened: Opened) -> Iterator[Finding]:
    """Look for tokens of the Hub in the texts beside the data, and show no more of one than its first letters."""
    for name in (CARD_FILE, RECORD_FILE, RECIPE_FILE):
        tokens = _TOKEN.findall(opened.read(name) or "")
        if tokens:
            meaning = "a text looks like a token of the Hub: make it invalid there, and take it out"
            yield Finding("token", "broken", len(tokens), meaning, name, None, f"{tokens[0][:6]}...")


def check_files(opened: Opened, record: MiningRecord) -> Iterator[Finding]:
    """Compare the files of a release that are there with what ``mining.json`` says of each."""
    files = record.release.get("files")
    said = {path: entry for path, entry in files.items() if isinstance(entry, dict)} if isinstance(files, dict) else {}
    wrong = []
    for path, found in opened.describe([*said]).items():
        changes = find_changes({name: said[path].get(name) for name in found}, found)
        wrong += [
            f"{path}: {name} {describe(old)} in {RECORD_FILE}, {describe(new)} now"
            for name, (old, new) in list(changes.items())[:1]
        ]
    if wrong:
        meaning = f"a file is not the one that {RECORD_FILE} describes"
        yield Finding("file-differs", "broken", len(wrong), meaning, RECORD_FILE, None, wrong[0])


def check_record(record: MiningRecord, inventory: Inventory) -> Iterator[Finding]:
    """Compare ``mining.json`` with the data of a layout that has all that was mined."""
    rows = find_changes(_by_file_name(record.rows), _by_file_name(inventory.num_rows))
    yield from _describe("rows-differ", f"the splits have other rows than {RECORD_FILE} says", rows)
    again = compute_again(inventory, record.statistics)
    changes = find_changes(_without_sentences(record.statistics), _without_sentences(again))
    yield from _describe("statistics-differ", f"statistics of the data are others than {RECORD_FILE} says", changes)


def compute_again(inventory: Inventory, like: MiningStatistics | None = None) -> MiningStatistics:
    """Return the statistics of the data, without the negatives that were filled in.

    Args:
        inventory: of mined columns.
        like: statistics whose ``num_negatives``, number of bins and ``failed_texts``, of which the rows know nothing,
            are taken over.
    """
    numbers = inventory.numbers
    kept = ~numbers.filled
    counts = np.bincount(numbers.negative_rows[kept], minlength=len(numbers.uneven))
    scores = np.empty(0, dtype=np.float32) if numbers.scores is None else numbers.scores[kept]
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    columns: dict[str, Any] = {
        "positive_score": numbers.positive_scores,
        "negative_scores": pa.LargeListArray.from_arrays(offsets, pa.array(scores)),
    }
    if numbers.top_scores is not None:
        columns["top_score"] = numbers.top_scores
    if numbers.removals is not None and numbers.removal_rows is not None:
        ends = np.cumsum(np.bincount(numbers.removal_rows, minlength=len(numbers.uneven)))
        lists = pa.array(np.concatenate([[0], ends]).astype(np.int64))
        columns["guard_removals"] = pa.LargeListArray.from_arrays(lists, pa.array(numbers.removals))
    choices = {}
    if like is not None:
        bins = len(like.positive_score.bin_counts) or len(like.difference.bin_counts) or 1
        choices = {"num_negatives": like.num_negatives, "num_bins": bins}
    computed = compute_statistics(columns, **choices)
    failed = 0 if like is None else like.failed_texts
    return replace(computed, negatives_per_teacher=inventory.negatives_per_teacher, failed_texts=failed)


def check_card(opened: Opened) -> Iterator[Finding]:
    """Compare the card's YAML with the files: those that its configurations name, and the rows that they hold."""
    files = {name: _files_of(config) for name, config in named_entries(opened.card.get("configs"))}
    missing, rows = [], {}
    for config, splits in files.items():
        for split, patterns in splits.items():
            found = {pattern: opened.find(pattern) for pattern in patterns if "://" not in pattern}
            missing += [(config, pattern) for pattern, paths in found.items() if not paths]
            paths = [path for matches in found.values() for path in matches]
            if paths and all(path.endswith(PARQUET) for path in paths):
                rows[config, split] = sum(map(opened.count_rows, paths))
    if missing:
        config, pattern = missing[0]
        meaning = "the card names files that are not there"
        yield Finding("card-file-missing", "broken", len(missing), meaning, CARD_FILE, None, f"{config}: {pattern}")
    infos = dict(named_entries(opened.card.get("dataset_info")))
    unknown = [name for name in infos if files and name not in files]
    if unknown:
        meaning = "the card describes configurations that it does not list"
        yield Finding("card-config-unknown", "broken", len(unknown), meaning, CARD_FILE, None, unknown[0])
    yield from _compare_rows({name: info for name, info in infos.items() if name in files}, rows, files)


def missing_configs(opened: Opened) -> set[str]:
    """Return the configurations that cannot be loaded because a file of theirs is not there."""
    files = {name: _files_of(config) for name, config in named_entries(opened.card.get("configs"))}
    return {
        name
        for name, splits in files.items()
        if any("://" not in one and not opened.find(one) for patterns in splits.values() for one in patterns)
    }


def _describe(name: str, meaning: str, changes: dict[str, tuple[Any, Any]]) -> Iterator[Finding]:
    """Yield a finding where something changed; the example is a single number if there is one."""
    if changes:
        field, (said, found) = min(changes.items(), key=lambda change: isinstance(change[1][0], list))
        text = f"{field}: {describe(said)} in {RECORD_FILE}, {describe(found)} in the data"
        yield Finding(name, "broken", len(changes), meaning, RECORD_FILE, None, text)


def _compare_rows(
    infos: dict[str, dict[str, Any]], rows: dict[tuple[str, str], int], files: dict[str, dict[str, list[str]]]
) -> Iterator[Finding]:
    """Compare the rows that ``dataset_info`` gives each split with those of its files, where they could be counted."""
    wrong = []
    for config, info in infos.items():
        splits = info.get("splits")
        listed = [split for split in splits if isinstance(split, dict)] if isinstance(splits, list) else []
        said = {str(split.get("name")): split.get("num_examples") for split in listed}
        for split in sorted({*said, *files[config]}) if said else ():
            counted = rows.get((config, split)) if split in files[config] else 0
            if counted is not None and said.get(split) != counted:
                wrong.append(f"{config}/{split}: {describe(said.get(split))} in the card, {counted} in its files")
    if wrong:
        meaning = "the card gives splits another number of rows than their files have"
        yield Finding("card-rows-differ", "broken", len(wrong), meaning, CARD_FILE, None, wrong[0])


def _files_of(config: dict[str, Any]) -> dict[str, list[str]]:
    """Return the file patterns of each split; files without a split are those of "train"."""
    entries = config.get("data_files") or []
    splits: dict[str, list[str]] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        split, path = (entry.get("split", "train"), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
        patterns = path if isinstance(path, list) else [path]
        splits.setdefault(str(split), []).extend(pattern for pattern in patterns if isinstance(pattern, str))
    return splits


def _by_file_name(rows: dict[str, int]) -> dict[str, int]:
    """Return the rows of splits by the names that their files have: ``train_test`` for ``train+test``."""
    return {split_file_name(name): number for name, number in rows.items()}


def _without_sentences(statistics: MiningStatistics) -> dict[str, Any]:
    data = statistics.to_dict()
    del data["diagnoses"]  # a later version may word them otherwise
    return data
