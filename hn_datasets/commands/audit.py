"""``hn-datasets audit``."""

# ruff: noqa: PLC0415 - what a command needs is imported when it is run: its help needs none of it

from __future__ import annotations

import json
from typing import Any

import click

from hn_datasets.commands.errors import one_line_errors


@click.command("audit")
@click.argument("source", metavar="REPO_OR_FOLDER")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--config-name", help="One configuration.  [default: all that are named after a layout, or the default]")
@click.option("--anchor-column", "anchor", help="Column of the anchors.  [default: guessed]")
@click.option("--positive-column", "positive", help="Column of the positives.  [default: guessed]")
@click.option(
    "--negative-column",
    "negatives",
    multiple=True,
    help="Column of lists, or columns of texts (several times), of the negatives.  [default: guessed]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@one_line_errors
def audit_command(source: str, negatives: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Check a mined dataset, yours or another's, and whether its card, mining.json and data agree.

    Exit status 1 when something is broken.

    \b
    Examples:
      hn-datasets audit demo-output
      hn-datasets audit me/qa-hard-negatives --revision v1.0.0
      hn-datasets audit train.jsonl --anchor-column query --positive-column pos --negative-column neg
    """
    from hn_datasets.inspection.audit import audit

    report = audit(source, negatives=negatives or None, **options)
    click.echo(json.dumps(report.to_dict(), ensure_ascii=False) if as_json else report.to_table())
    if not report.ok:
        raise SystemExit(1)
