"""What an audit found, as an object, a table and JSON data."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from hn_datasets.inspection.checks import Severity

WIDTH = 100
"""Columns of the terminal that a table fills at most, as far as names of splits and files let it."""


@dataclass(frozen=True)
class Finding:
    """One rule that is broken.

    Attributes:
        name: of the rule.
        severity: ``"broken"``, or ``"information"`` where a sound dataset may be like that.
        count: how many rows, negatives or fields break it.
        meaning: what it means, in one phrase.
        where: configuration and split, or the file, of the example.
        row: number of the example's row in its split; None where the finding is not about a row.
        text: of the example: the negative, or else the anchor, shortened; or what differs.
        anchor: of the example where ``text`` is a negative, shortened; None where it is not.
    """

    name: str
    severity: Severity
    count: int
    meaning: str
    where: str
    row: int | None = None
    text: str = ""
    anchor: str | None = None

    def to_lines(self) -> list[str]:
        """Return three lines: the rule and how often it is broken, what that means, and the example."""
        place = self.where if self.row is None else f"{self.where} row {self.row}"
        example = self.text
        if self.anchor is not None:
            example = f"anchor {cut(self.anchor, WIDTH // 3)}, negative {self.text}"
        return [
            f"{self.severity:<12} {self.name:<36} {self.count:>11,}  {place}",
            f"{'':<12} {self.meaning}",
            f"{'':<12} {cut(example, WIDTH - 13)}",
        ]


@dataclass(frozen=True)
class AuditReport:
    """All findings.

    Attributes:
        rows: how many rows of each configuration and split were read.
        negatives: how many negatives they have.
        findings: what is broken first.
    """

    rows: dict[str, int]
    negatives: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is broken."""
        return not self.broken

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The findings that are faults."""
        return tuple(finding for finding in self.findings if finding.severity == "broken")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"ok": self.ok, **asdict(self), "findings": [asdict(finding) for finding in self.findings]}

    def __str__(self) -> str:
        return self.to_table()

    def to_table(self) -> str:
        """Return a sentence, then a table of the findings: which rule, how many break it, and the first example."""
        rules = f"{len(self.broken)} rule{' is' if len(self.broken) == 1 else 's are'} broken"
        verdict = "nothing is broken" if self.ok else rules
        lines = [f"{sum(self.rows.values()):,} rows with {self.negatives:,} negatives were read: {verdict}."]
        if self.findings:
            lines += ["", f"{'':<12} {'rule':<36} {'how many':>11}  first example"]
        for finding in self.findings:
            lines += finding.to_lines()
        return "\n".join(lines)


def cut(text: str, width: int) -> str:
    """Return a text cut to the columns of a terminal, in which East Asian characters are two wide."""
    ends = list(accumulate(map(_columns_of, text)))
    return f"{text[: bisect_right(ends, width - 3)]}..." if ends and ends[-1] > width else text


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
