"""The record of a mining run: everything that ``mining.json`` holds, beside the data and in every release."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict

from hn_datasets.errors import DataSourceError, HNDatasetsError
from hn_datasets.estimation.results import FalseNegativeEstimate
from hn_datasets.filling import iter_unfilled
from hn_datasets.index_recall import SAMPLE_ROWS, IndexRecall, spread
from hn_datasets.methods import RandomNegatives
from hn_datasets.miner import HardNegativeMiner
from hn_datasets.recipe import Recipe
from hn_datasets.statistics import MiningStatistics, compute_statistics

RECORD_FILE = "mining.json"
SCHEMA_VERSION = 1
PACKAGES = ("hn-datasets", "datasets", "huggingface-hub", "sentence-transformers", "transformers", "torch", "numpy")


@dataclass(frozen=True)
class MiningRecord:
    """How a mined dataset was made, and what came out.

    Attributes:
        recipe: every choice that decides the result.
        rows: number of rows of each split.
        corpus: ``passages`` (number) and ``digest`` of the set of texts.
        statistics: of all splits together.
        source: where the pairs came from, as far as known: ``repo_id`` or ``path``, ``config_name``, ``revision``, and
            the ``fingerprints`` of the splits.
        environment: package versions and hardware.
        timings: seconds of each stage.
        release: ``repo_id``, ``version``, ``parent`` and ``notes``; empty before a release.
        estimate: of the false negatives; None where nobody made one.
        index_recall: of approximate search; None after exact search.
    """

    recipe: Recipe
    rows: dict[str, int]
    corpus: dict[str, Any]
    statistics: MiningStatistics
    source: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    release: dict[str, Any] = field(default_factory=dict)
    estimate: FalseNegativeEstimate | None = None
    index_recall: IndexRecall | None = None

    @classmethod
    def of(
        cls,
        mined: Dataset | DatasetDict,
        miner: HardNegativeMiner,
        *,
        source: Mapping[str, Any] | None = None,
        timings: Mapping[str, float] | None = None,
        estimate: FalseNegativeEstimate | None = None,
    ) -> MiningRecord:
        """Return the record of a mined dataset, from its columns and its miner.

        Args:
            mined: what ``map`` returned; negatives that were filled in since do not count.
            miner: what ``map`` was called with.
            source: where the pairs came from.
            timings: seconds of the stages after the miner was built.
            estimate: of the false negatives.
        """
        splits = mined if isinstance(mined, DatasetDict) else {str(mined.split or "train"): mined}
        fingerprints = {name: split._fingerprint for name, split in splits.items()}
        start = time.perf_counter()
        recall = _measure_recall(splits, miner)
        seconds = {} if recall is None else {"recall": time.perf_counter() - start}
        return cls(
            recipe=miner.recipe,
            rows={name: len(split) for name, split in splits.items()},
            corpus={"passages": len(miner.corpus), "digest": miner.corpus.digest},
            statistics=compute_statistics(iter_unfilled(mined), num_negatives=miner.recipe.num_negatives),
            source={**(source or {}), "fingerprints": fingerprints},
            environment=describe_environment(),
            timings={**miner.timings, **(timings or {}), **seconds},
            estimate=estimate,
            index_recall=recall,
        )

    def with_release(self, **release: Any) -> MiningRecord:
        """Return the record with a release's entries."""
        return replace(self, release=release)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``mining.json``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "recipe": self.recipe.to_dict(),
            "source": self.source,
            "rows": self.rows,
            "corpus": self.corpus,
            "statistics": self.statistics.to_dict(),
            "environment": self.environment,
            "timings": {stage: round(seconds, 3) for stage, seconds in self.timings.items()},
            "release": self.release,
            **({"estimates": {"false_negatives": self.estimate.to_dict()}} if self.estimate is not None else {}),
            **({"index_recall": self.index_recall.to_dict()} if self.index_recall is not None else {}),
        }

    def to_json(self) -> str:
        """Return the text of ``mining.json``, with sorted keys."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MiningRecord:
        """Return the record whose ``to_dict`` this is.

        Raises:
            DataSourceError: it is no record, or one of a later schema.
        """
        version, estimate = data.get("schema_version"), data.get("estimates", {}).get("false_negatives")
        recall = data.get("index_recall")
        if version != SCHEMA_VERSION:
            raise DataSourceError(
                f"Expected {RECORD_FILE} of schema version {SCHEMA_VERSION}, got {version!r}; upgrade hn_datasets."
            )
        return cls(
            recipe=Recipe.from_dict(data["recipe"]),
            rows=dict(data["rows"]),
            corpus=dict(data["corpus"]),
            statistics=MiningStatistics.from_dict(data["statistics"]),
            source=dict(data.get("source", {})),
            environment=dict(data.get("environment", {})),
            timings=dict(data.get("timings", {})),
            release=dict(data.get("release", {})),
            estimate=None if estimate is None else FalseNegativeEstimate.from_dict(estimate),
            index_recall=None if recall is None else IndexRecall.from_dict(recall),
        )

    @classmethod
    def read(cls, folder: Path) -> MiningRecord:
        """Return the record in a folder.

        Raises:
            DataSourceError: the folder has no ``mining.json``, or it cannot be read.
        """
        path = folder / RECORD_FILE
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise DataSourceError(f"Expected {RECORD_FILE} in {folder}, got none; mine with --output first.") from None
        except HNDatasetsError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataSourceError(f"Expected a record in {path}, got a file that is not ({error!r}).") from error


def _measure_recall(splits: Mapping[str, Dataset], miner: HardNegativeMiner) -> IndexRecall | None:
    """Mine some rows of all splits once more, exactly; None without an index, or where columns have gone since."""
    if miner.recipe.index is None or isinstance(miner.recipe.method, RandomNegatives):
        return None
    batches = sample_batches(splits.values(), miner, SAMPLE_ROWS)
    return IndexRecall.merge([miner.measure_recall(batch) for batch in batches]) if batches else None


def sample_batches(splits: Collection[Dataset], miner: HardNegativeMiner, count: int) -> list[dict[str, list[Any]]]:
    """Return about ``count`` rows, evenly over all splits, for the miner; none where columns that it needs have gone.

    Args:
        splits: of mined rows.
        miner: that is to mine them again.
        count: rows in all; a row more of each split.
    """
    rows, recipe = sum(map(len, splits)), miner.recipe
    needed = {recipe.anchor_column_name, recipe.positive_column_name, *chain(*(one.columns for one in miner.guards))}
    if any(needed - {*split.column_names} for split in splits):
        return []
    filled = [split for split in splits if len(split)]
    return [split.with_format(None)[spread(len(split), len(split) * count // rows + 1)] for split in filled]


def describe_environment() -> dict[str, Any]:
    """Return versions of the packages and the hardware, without names of machines or users."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        versions[name] = metadata.version(name)
    hardware: dict[str, Any] = {"processor": _processor(), "cores": os.cpu_count()}
    if torch.cuda.is_available():
        hardware["gpus"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"packages": versions, "hardware": hardware, "system": platform.system()}


def _processor() -> str:
    """Return the processor's model name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
