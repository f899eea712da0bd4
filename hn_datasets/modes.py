"""The modes of a teacher ensemble: what each one means, and what it cannot be combined with.

Ensembles of teachers are those of NV-Retriever (arXiv 2407.15831), which compares cross-sample and intra-sample;
"mean-rank" and "agree" are ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from hn_datasets.errors import ArgumentError
from hn_datasets.methods import Method, RandomNegatives, TopKAbs, TopKMarginPos

Mode = Literal["cross-sample", "intra-sample", "mean-rank", "agree"]

MODES: dict[Mode, str] = {
    "cross-sample": "each row has the negatives of one teacher, which the seed and the anchor's text choose",
    "intra-sample": "the teachers name negatives in turn, each below the ceilings of its teacher and of the first one",
    "mean-rank": "the passages below every teacher's ceiling with the lowest mean of their ranks",
    "agree": "the first teacher's ranking, without what any other teacher puts at or above its ceiling",
}
"""Every mode, in one phrase."""


def is_ensemble(teacher: Mapping[str, Any]) -> bool:
    """Return whether the spec of a teacher is that of an ensemble."""
    return teacher.get("type") == "ensemble"


def members_of(teacher: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the specs of an ensemble's teachers by their short names; none for another teacher."""
    return dict(zip(teacher["names"], teacher["members"], strict=True)) if is_ensemble(teacher) else {}


def check_spec(teacher: Mapping[str, Any]) -> None:
    """Check the spec of an ensemble, which can come from a recipe written by hand.

    Raises:
        ArgumentError: a field is missing or of another type, or the mode is unknown.
    """
    names, members, num_ranked = (teacher.get(field) for field in ("names", "members", "num_ranked"))
    lists = isinstance(names, list) and isinstance(members, list) and len(names) == len(members)
    known = teacher.get("mode") in tuple(MODES) and (num_ranked is None or type(num_ranked) is int)
    if not (lists and known and all(isinstance(member, Mapping) for member in members or ())):
        raise ArgumentError(
            f"Expected an ensemble with mode ({', '.join(MODES)}), names, members and num_ranked, got "
            f"{json.dumps(teacher, ensure_ascii=False)[:200]}; give the spec as it was saved."
        )


def draws_teacher(teacher: Mapping[str, Any]) -> bool:
    """Return whether the seed decides which teacher a row gets."""
    return is_ensemble(teacher) and teacher.get("mode") == "cross-sample"


def check_combination(teacher: Mapping[str, Any], method: Method, sampling: str, wanted: int) -> None:
    """Check that an ensemble and the other choices of a recipe have one meaning together.

    Args:
        teacher: the spec of an ensemble.
        method: gives each teacher its own ceiling.
        sampling: how negatives are picked from the best.
        wanted: how many of the best a row needs, skipped ones included.

    Raises:
        ArgumentError: something has no effect or no meaning, or the spec is none.
    """
    check_spec(teacher)
    mode = teacher["mode"]
    if isinstance(method, RandomNegatives):
        raise ArgumentError("An ensemble has no effect with RandomNegatives; name one teacher.")
    if mode == "agree" and np.isposinf(method.ceiling(np.zeros(1, dtype=np.float32))).all():
        raise ArgumentError(
            f"Mode 'agree' has no effect with {method.name!r}, which has no ceiling; choose another method or mode."
        )
    if mode in ("intra-sample", "mean-rank") and sampling != "top":
        raise ArgumentError(
            f"sampling={sampling!r} is not defined for mode {mode!r}, where no one teacher's scores rank the "
            "passages; use 'top', or mode 'cross-sample' or 'agree'."
        )
    if mode == "mean-rank" and (teacher["num_ranked"] or 0) < wanted:
        raise ArgumentError(
            f"Expected num_ranked of at least {wanted}, which a row needs, got {teacher['num_ranked']!r}; raise it."
        )
    scales = {str(member.get("similarity", member.get("type"))) for member in members_of(teacher).values()}
    if isinstance(method, (TopKAbs, TopKMarginPos)) and len(scales) > 1:
        raise ArgumentError(
            f"Expected teachers whose scores have one scale with {method.name!r}, whose number is a score, got "
            f"{' and '.join(sorted(scales))}; use TopKPercPos."
        )
