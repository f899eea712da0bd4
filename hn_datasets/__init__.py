"""Hard negatives for training retrieval and embedding models, as an extension of Hugging Face ``datasets``.

Names are imported when they are first used, so that ``hn_datasets.methods`` and its like need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hn_datasets.estimation.calibration import calibrate, estimate_false_negatives
    from hn_datasets.estimation.mined import estimate_mined
    from hn_datasets.estimation.report import Survey
    from hn_datasets.estimation.results import Calibration, FalseNegativeEstimate
    from hn_datasets.estimation.survey import survey
    from hn_datasets.formats import format_dataset
    from hn_datasets.guards import CrossEncoderGuard, HeldOut, NearDuplicate, SameGroup, SimilarToPositive
    from hn_datasets.inspection.audit import audit, audit_dataset
    from hn_datasets.inspection.comparison import compare
    from hn_datasets.inspection.reproduction import reproduce
    from hn_datasets.methods import RandomNegatives, TopK, TopKAbs, TopKMarginPos, TopKPercPos, TopKShifted
    from hn_datasets.miner import HardNegativeMiner, mine_negatives
    from hn_datasets.recipe import Recipe
    from hn_datasets.release.card_data import CardMetadata
    from hn_datasets.release.publishing import Release, publish
    from hn_datasets.statistics import MiningStatistics, compute_statistics
    from hn_datasets.store import EmbeddingStore
    from hn_datasets.teachers.bm25 import BM25Teacher
    from hn_datasets.teachers.dense import DenseTeacher
    from hn_datasets.teachers.ensemble import EnsembleTeacher
    from hn_datasets.teachers.precomputed import PrecomputedTeacher

__version__ = "0.1.0"

_MODULES = {
    "BM25Teacher": "teachers.bm25",
    "Calibration": "estimation.results",
    "CardMetadata": "release.card_data",
    "CrossEncoderGuard": "guards",
    "DenseTeacher": "teachers.dense",
    "EmbeddingStore": "store",
    "EnsembleTeacher": "teachers.ensemble",
    "FalseNegativeEstimate": "estimation.results",
    "HardNegativeMiner": "miner",
    "HeldOut": "guards",
    "MiningStatistics": "statistics",
    "NearDuplicate": "guards",
    "PrecomputedTeacher": "teachers.precomputed",
    "RandomNegatives": "methods",
    "Recipe": "recipe",
    "Release": "release.publishing",
    "SameGroup": "guards",
    "SimilarToPositive": "guards",
    "Survey": "estimation.report",
    "TopK": "methods",
    "TopKAbs": "methods",
    "TopKMarginPos": "methods",
    "TopKPercPos": "methods",
    "TopKShifted": "methods",
    "audit": "inspection.audit",
    "audit_dataset": "inspection.audit",
    "calibrate": "estimation.calibration",
    "compare": "inspection.comparison",
    "compute_statistics": "statistics",
    "estimate_false_negatives": "estimation.calibration",
    "estimate_mined": "estimation.mined",
    "format_dataset": "formats",
    "mine_negatives": "miner",
    "publish": "release.publishing",
    "reproduce": "inspection.reproduction",
    "survey": "estimation.survey",
}

__all__ = [
    "BM25Teacher",
    "Calibration",
    "CardMetadata",
    "CrossEncoderGuard",
    "DenseTeacher",
    "EmbeddingStore",
    "EnsembleTeacher",
    "FalseNegativeEstimate",
    "HardNegativeMiner",
    "HeldOut",
    "MiningStatistics",
    "NearDuplicate",
    "PrecomputedTeacher",
    "RandomNegatives",
    "Recipe",
    "Release",
    "SameGroup",
    "SimilarToPositive",
    "Survey",
    "TopK",
    "TopKAbs",
    "TopKMarginPos",
    "TopKPercPos",
    "TopKShifted",
    "audit",
    "audit_dataset",
    "calibrate",
    "compare",
    "compute_statistics",
    "estimate_false_negatives",
    "estimate_mined",
    "format_dataset",
    "mine_negatives",
    "publish",
    "reproduce",
    "survey",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module that has it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
