"""``hn-datasets cache``."""

# ruff: noqa: PLC0415 - what a command needs is imported when it is run: its help needs none of it

from __future__ import annotations

import json
import time

import click

from hn_datasets.commands.errors import one_line_errors

OTHERS = {"ray": "cluster runs"}
"""What a folder is called, where its name does not say it."""


@click.command("cache")
@click.option(
    "--prune-days", type=float, metavar="DAYS", help="Remove what was not used for so many days; 0 removes all."
)
@click.option(
    "--prune", "address", metavar="ADDRESS", help="Remove the vectors at one address (its first characters do)."
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@one_line_errors
def cache_command(prune_days: float | None, address: str | None, as_json: bool) -> None:
    """List, size and prune the embedding store.

    A line for each teacher's vectors, of this machine and of clusters together, then one for each kind of files that
    can be made again. --prune also removes all of those; --prune-days too, where it removes vectors, and else what
    runs on clusters have left and not written to for so many days.

    \b
    Examples:
      hn-datasets cache
      hn-datasets cache --prune-days 30
      hn-datasets cache --prune 3fa9
    """
    from hn_datasets.store import EmbeddingStore

    store = EmbeddingStore()
    if prune_days is not None or address is not None:
        freed = store.prune(unused_days=prune_days, address=address)
        click.echo(f"Freed {freed / 1e6:,.1f} MB in {store.directory}.", err=True)
    rows = [
        {
            "address": info.address,
            "teacher": info.description["teacher"].get("model") or info.description["teacher"].get("type", ""),
            "role": info.description["role"],
            "megabytes": round(info.num_bytes / 1e6, 1),
            "last_used": time.strftime("%Y-%m-%d", time.localtime(info.last_used)),
        }
        for info in store.spaces()
    ]
    others = store.other_bytes()
    if as_json:
        sizes = {"directory": str(store.directory), "bytes": store.num_bytes}
        click.echo(json.dumps({**sizes, "spaces": rows, "others": others}))
        return
    for row in rows:
        click.echo("{address:.12}  {megabytes:>10,} MB  {last_used}  {role:<8}  {teacher}".format(**row))
    for name, size in others.items():
        click.echo(f"{OTHERS.get(name, name):<12}  {round(size / 1e6, 1):>10,} MB")
    click.echo(f"{store.num_bytes / 1e6:,.1f} MB in {store.directory}")
