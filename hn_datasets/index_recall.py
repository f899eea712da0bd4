"""How much of what exact search finds an index finds, measured on some of the mined rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLE_ROWS = 256
"""Rows that are mined once more, exactly: about 1,000 negatives, so that a share of 98 % is known to 1 %."""


@dataclass(frozen=True)
class IndexRecall:
    """What an index finds.

    Attributes:
        rows: that were mined both ways.
        negatives: that exact search finds for them.
        found: those of them that the index finds, too.
    """

    rows: int
    negatives: int
    found: int

    @property
    def share(self) -> float:
        """Found negatives among all, 0 to 1; 1 where there is nothing to find."""
        return self.found / self.negatives if self.negatives else 1.0

    @classmethod
    def compare(cls, found: Sequence[Sequence[int]], exact: Sequence[Sequence[int]]) -> IndexRecall:
        """Compare the ids of the negatives of the same rows, mined by an index and exactly."""
        shared = sum(len({*some} & {*all_}) for some, all_ in zip(found, exact, strict=True))
        return cls(len(exact), sum(map(len, exact)), shared)

    @classmethod
    def merge(cls, parts: Sequence[IndexRecall]) -> IndexRecall:
        """Return that of all rows together."""
        return cls(*(sum(getattr(part, name) for part in parts) for name in ("rows", "negatives", "found")))

    def describe(self) -> str:
        """Return the recall in a sentence."""
        return (
            f"The index finds {self.share:.1%} of the negatives of exact search ({self.rows:,} rows mined both ways)."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"rows": self.rows, "negatives": self.negatives, "found": self.found, "share": round(self.share, 6)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> IndexRecall:
        """Return what ``to_dict`` gave."""
        return cls(data["rows"], data["negatives"], data["found"])


def spread(num_rows: int, count: int = SAMPLE_ROWS) -> npt.NDArray[np.int64]:
    """Return up to ``count`` row numbers, evenly over all of ``num_rows``."""
    count = min(count, num_rows)
    return np.arange(count, dtype=np.int64) * num_rows // max(1, count)
