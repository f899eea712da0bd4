"""``hn-datasets reproduce``."""

# ruff: noqa: PLC0415 - what a command needs is imported when it is run: its help needs none of it

from __future__ import annotations

import json
from typing import Any

import click

from hn_datasets.commands.errors import one_line_errors


@click.command("reproduce")
@click.argument("source", metavar="REPO@REVISION")
@click.option("--rows", type=click.IntRange(min=1), default=200, show_default=True, help="Size of the sample.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the sample.")
@click.option("--dataset", help="The pairs that were mined.  [default: the release, or what mining.json names]")
@click.option("--corpus", help="The further passages that were mined: a Parquet or JSON Lines file.")
@click.option("--corpus-column", "corpus_column_name", help="Text column of the corpus.")
@click.option("--teacher", help="Model name or folder in the place of the recipe's, or 'bm25'.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model.")
@click.option("--store", type=click.Path(file_okay=False), help="Where vectors are kept; an empty folder starts anew.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@one_line_errors
def reproduce_command(source: str, dataset: str | None, as_json: bool, **options: Any) -> None:
    """Mine a sample of a release, or of a mined folder, again, and tell how many rows come out the same.

    \b
    Examples:
      hn-datasets reproduce me/qa-hard-negatives@v1.0.0 --rows 200
      hn-datasets reproduce mined --corpus passages.jsonl
      hn-datasets reproduce me/qa-hard-negatives@v1.0.0 --dataset pairs.jsonl --corpus passages.jsonl
    """
    from hn_datasets.inspection.reproduction import reproduce
    from hn_datasets.sources import load_source

    pairs = load_source(dataset) if dataset is not None else None
    reproduction = reproduce(source, dataset=pairs, **options)
    click.echo(json.dumps(reproduction.to_dict(), ensure_ascii=False) if as_json else reproduction.to_table())
