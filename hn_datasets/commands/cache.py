"""``hn-datasets cache``."""

# ruff: noqa: PLC0415 - what a command needs is imported when it is run: its help needs none of it

from __future__ import annotations

import json
import time
from typing import Any

import click

from hn_datasets.commands.errors import one_line_errors

OTHERS = {"ray": "cluster runs"}
"""What a folder is called, where its name does not say it."""

SETTINGS = {
    "max_seq_length": "{} tokens",
    "dimension": "{} dimensions",
    "precision": "{}",
    "backend": "{}",
    "prompt": "prompt {!r}",
}
"""How a line shows what tells the vectors of one model apart."""


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
            **_describe(**info.description),
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
        settings = [shown.format(row[name]) for name, shown in SETTINGS.items() if row.get(name)]
        line = "{address:.12}  {megabytes:>10,} MB  {last_used}  {role:<8}  {teacher}".format(**row)
        click.echo("  ".join([line, ", ".join(settings)]).rstrip())
    for name, size in others.items():
        click.echo(f"{OTHERS.get(name, name):<12}  {round(size / 1e6, 1):>10,} MB")
    click.echo(f"{store.num_bytes / 1e6:,.1f} MB in {store.directory}")


def _describe(role: str, teacher: dict[str, Any]) -> dict[str, Any]:
    """Return whose vectors a space holds; "both" are the roles of a model that gives them the same prompt."""
    prompts = teacher.get("query_prompt"), teacher.get("corpus_prompt")
    shared = teacher.get("type") == "dense" and prompts[0] == prompts[1] and not teacher.get("roles_differ")
    return {
        "teacher": teacher.get("model") or teacher.get("type", ""),
        "role": "both" if shared else role,
        **{name: teacher[name] for name in SETTINGS if name in teacher},
        "prompt": prompts[role == "passage"] or "",
    }
