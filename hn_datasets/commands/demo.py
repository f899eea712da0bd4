"""``hn-datasets demo``."""

# ruff: noqa: PLC0415 - what a command needs is imported when it is run: its help needs none of it

from __future__ import annotations

import time
from pathlib import Path

import click

from hn_datasets.commands.errors import one_line_errors


@click.command("demo")
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo-output"), help="Folder for the result.")
@one_line_errors
def demo_command(output: Path) -> None:
    """Mine the docstrings of Python's standard library with a small packaged teacher, and make a release of them.

    \b
    Example:
      hn-datasets demo --output demo-output
    """
    from hn_datasets.demo import run_demo
    from hn_datasets.display import pick_rows, render_row

    start = time.perf_counter()
    record, mined = run_demo(output)
    click.echo(record.statistics.to_table())
    for row in (mined[number] for number in pick_rows(mined)):
        click.echo("\n" + render_row(row, record.recipe.anchor_column_name, record.recipe.positive_column_name))
    click.echo(f"\nA release of {len(mined):,} rows, audited; read its card: {output / 'README.md'}")
    click.echo(f'Ready to train: load_dataset("{output}", split="train")')
    click.echo(f"Mined in {time.perf_counter() - start:.0f} s.", err=True)
