"""``hn-datasets compare``."""

# ruff: noqa: PLC0415 - what a command needs is imported when it is run: its help needs none of it

from __future__ import annotations

import json

import click

from hn_datasets.commands.errors import one_line_errors


@click.command("compare")
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@one_line_errors
def compare_command(old: str, new: str, as_json: bool) -> None:
    """Compare two mined datasets: rows and negatives in common, changed statistics, changed recipe.

    \b
    Examples:
      hn-datasets compare mined mined-90
      hn-datasets compare me/qa-hard-negatives@v1.0.0 me/qa-hard-negatives@v1.1.0
    """
    from hn_datasets.inspection.comparison import compare

    comparison = compare(old, new)
    click.echo(json.dumps(comparison.to_dict(), ensure_ascii=False) if as_json else comparison.to_table())
