"""What an audit found, as an object, a table and JSON data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hn_datasets.inspection.checks import Severity


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
    """

    name: str
    severity: Severity
    count: int
    meaning: str
    where: str
    row: int | None = None
    text: str = ""


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

    def to_table(self) -> str:
        """Return a sentence, then two lines for each finding: what and how many, and the example."""
        read = f"{sum(self.rows.values()):,} rows with {self.negatives:,} negatives were read"
        verdict = "nothing is broken" if self.ok else f"{len(self.broken)} rules are broken"
        lines = [f"{read}: {verdict}."]
        for finding in self.findings:
            place = finding.where if finding.row is None else f"{finding.where} row {finding.row}"
            lines.append(f"{finding.severity:<11} {finding.count:>9,}  {finding.name}: {finding.meaning}")
            lines.append(f"{'':<21}  {place}: {finding.text}")
        return "\n".join(lines)
